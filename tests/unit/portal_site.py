"""The portal over the fakes, and a client that signs its requests as labctl does."""

from __future__ import annotations

import json
from typing import Any

import httpx
from anyio import CapacityLimiter
from anyio.from_thread import BlockingPortal
from exec_fakes import FakeExec
from fastapi import FastAPI
from labcluster.errors import UnreachableError
from labcluster.models.settings import Admin
from labcluster.services.access import AccessService, Sessions
from labcluster.services.authentication import Authenticator, payload
from labcluster.web.app import create_app
from labcluster.web.wiring import Administration, Entrance, Portal
from portal_fakes import FakeMunge

UIDS = {"ada": 20001, "bo": 20002, "labadmin": 10000, "carl": 20077, "nobody": 65534}


class Client:
    """Requests straight into the application, without a socket."""

    def __init__(self, app: FastAPI, loop: BlockingPortal) -> None:
        self._loop = loop
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://portal")

    def request(self, method: str, target: str, **options: Any) -> httpx.Response:
        return self._loop.call(lambda: self._client.request(method, target, **options))

    def get(self, target: str, **options: Any) -> httpx.Response:
        return self.request("GET", target, **options)


class Site:
    """A client that signs what it sends, as labctl does."""

    def __init__(self, lab: Any, loop: BlockingPortal, administration: Administration | None = None) -> None:
        self.lab = lab
        self.munge = FakeMunge()
        self.exec = FakeExec()
        authenticator = Authenticator(
            self.munge,
            lab.cluster,
            {20077: "carl"}.get,
            cluster="lab",
            admins=[Admin(name="labadmin", uid=10000)],
        )
        self.portal = Portal(
            cluster="lab",
            runs=lab.runs,
            authenticator=authenticator,
            administration=administration,
            background=lab.cluster,
            require_view=self._require_view,
            check=lab.store.ping,
            public_page=True,
            log_readers=CapacityLimiter(2),
            entrance=Entrance(AccessService(lab.runs, lab.cluster), self.exec, Sessions(of_one=2, of_all=3)),
        )
        self.client = Client(create_app(self.portal), loop)
        self.count = 0
        self.seen = True

    def _require_view(self) -> None:
        if not self.seen:
            raise UnreachableError("the portal has just started")

    def credential(self, user: str, method: str, target: str, body: bytes, cluster: str = "lab") -> str:
        self.count += 1
        name = f"{UIDS[user]}:{self.count}"
        self.munge.payloads[name] = payload(cluster, method, target, body)
        return f"Munge {name}"

    def ask(self, user: str, method: str, target: str, data: Any = None) -> Any:
        body = b"" if data is None else json.dumps(data).encode()
        headers = {"Authorization": self.credential(user, method, target, body)}
        if body:
            headers["Content-Type"] = "application/json"
        return self.client.request(method, target, content=body, headers=headers)
