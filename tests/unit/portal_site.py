"""The portal over the fakes, and a client that signs its requests as labctl does."""

from __future__ import annotations

import json
from collections.abc import Collection
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
from anyio import CapacityLimiter
from anyio.from_thread import BlockingPortal
from exec_fakes import FakeExec
from fastapi import FastAPI
from labcluster.errors import NotAuthenticatedError, UnreachableError
from labcluster.models.callers import BrowserLogin, PodOwner, TokenOwner
from labcluster.models.settings import Admin, LoginSettings
from labcluster.services.access import AccessService, Sessions
from labcluster.services.authentication import Authenticator, payload
from labcluster.services.registry import RegistryService
from labcluster.services.usage import UsageService
from labcluster.web.app import create_app
from labcluster.web.wiring import Administration, Entrance, Experiments, Login, Portal
from portal_fakes import FakeMunge
from starlette.datastructures import Secret
from usage_fakes import FakeUsage

UIDS = {"ada": 20001, "bo": 20002, "labadmin": 10000, "carl": 20077, "nobody": 65534}


class Client:
    """Requests straight into the application, without a socket."""

    def __init__(self, app: FastAPI, loop: BlockingPortal) -> None:
        self._loop = loop
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self._client = httpx.AsyncClient(transport=transport, base_url="https://portal")

    def request(self, method: str, target: str, **options: Any) -> httpx.Response:
        return self._loop.call(lambda: self._client.request(method, target, **options))

    def get(self, target: str, **options: Any) -> httpx.Response:
        return self.request("GET", target, **options)


class FakeDex:
    """Tokens are `<audience>:<user>`; a login ends well for who brings back what the begin said."""

    def __init__(self) -> None:
        self.away = False

    def owner(self, token: str, audiences: Collection[str]) -> TokenOwner:
        audience, _, user = token.partition(":")
        if audience not in audiences:
            raise NotAuthenticatedError("the token is not good here")
        return TokenOwner(user)

    def begin(self) -> tuple[str, BrowserLogin]:
        return "https://dex/auth?state=s1", BrowserLogin("s1", "n1", "v1")

    def finish(self, login: BrowserLogin, state: str, code: str) -> TokenOwner:
        if self.away:
            raise UnreachableError("the login service does not answer")
        if (login.state, login.nonce, login.verifier) != (state, "n1", "v1"):
            raise NotAuthenticatedError("this login was begun elsewhere")
        return TokenOwner(code)


class FakePods:
    """Tokens are `pod:<user>:<project>`."""

    def recognises(self, token: str) -> bool:
        return token.startswith("pod:")

    def owner(self, token: str) -> PodOwner:
        _, user, project = token.split(":")
        if user == "forged":
            raise NotAuthenticatedError("this token is not that of a run's pod")
        return PodOwner(user, project)


LOGIN = LoginSettings(
    issuer="https://dex",
    url="https://dex",
    ca_file=Path("ca.crt"),
    secret_file=Path("secret"),
    session_key_file=Path("key"),
    api_server="https://api:6443",
    api_ca_file=Path(__file__),
)


class Site:
    """A client that signs what it sends, as labctl does."""

    def __init__(
        self,
        lab: Any,
        loop: BlockingPortal,
        administration: Administration | None = None,
        *,
        public_page: bool = True,
        experiments: Experiments | None = None,
    ) -> None:
        self.lab = lab
        self.munge = FakeMunge()
        self.used = FakeUsage()
        self.exec = FakeExec()
        self.dex = FakeDex()
        authenticator = Authenticator(
            self.munge,
            lab.cluster,
            {20077: "carl"}.get,
            {"carl": 20077}.get,
            cluster="lab",
            admins=[Admin(name="labadmin", uid=10000)],
            tokens=self.dex,
            audiences=["labctl", "labctl-laptop"],
            pods=FakePods(),
        )
        self.portal = Portal(
            cluster="lab",
            runs=lab.runs,
            usage=UsageService(
                self.used, lab.cluster, self.used.images, storage_token_sha256=sha256(b"token").hexdigest()
            ),
            registry=RegistryService(lab.registry, lab.cluster, lab.store.active),
            authenticator=authenticator,
            administration=administration,
            background=lab.cluster,
            require_view=self._require_view,
            check=lab.store.ping,
            public_page=public_page,
            log_readers=CapacityLimiter(2),
            entrance=Entrance(AccessService(lab.runs, lab.cluster), self.exec, Sessions(of_one=2, of_all=3)),
            login=Login(LOGIN, self.dex, Secret("k" * 32), "portal"),
            experiments=experiments,
        )
        self.client = Client(create_app(self.portal), loop)
        self.count = 0
        self.seen = True

    def _require_view(self) -> None:
        if not self.seen:
            raise UnreachableError("the portal has just started")

    def sign(self, user: str, said: bytes) -> str:
        self.count += 1
        name = f"{UIDS[user]}:{self.count}"
        self.munge.payloads[name] = said
        return name

    def credential(self, user: str, method: str, target: str, body: bytes, cluster: str = "lab") -> str:
        return f"Munge {self.sign(user, payload(cluster, method, target, body))}"

    def ask(self, user: str, method: str, target: str, data: Any = None) -> Any:
        body = b"" if data is None else json.dumps(data).encode()
        headers = {"Authorization": self.credential(user, method, target, body)}
        if body:
            headers["Content-Type"] = "application/json"
        return self.client.request(method, target, content=body, headers=headers)
