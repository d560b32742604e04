"""MLflow: our word for who asks, requests that are passed on, and requests of our own."""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import httpx
from joserfc import jwt
from joserfc.jwk import OKPKey

from labcluster.errors import LabclusterError, NotFoundError, UnreachableError, UsageError
from labcluster.models.settings import MlflowSettings

_ALGORITHM = "Ed25519"
_LIFE_SECONDS = 60
# Big queries and the writing of big artifacts take their time.
_TIMEOUT = httpx.Timeout(300.0, connect=3.0, pool=10.0)
# Below the server's own limit of idle connections, so that none is used that it is just closing.
_LIMITS = httpx.Limits(max_connections=128, max_keepalive_connections=32, keepalive_expiry=30.0)
_OWN_SECONDS = 15.0

Headers = Iterable[tuple[bytes, bytes]]


class AssertionSigner:
    """Implements `services.experiments.Signer`."""

    def __init__(self, key_file: Path) -> None:
        self._key = OKPKey.import_key(key_file.read_bytes())

    def sign(self, user: str, project: str) -> str:
        """A token for one user and one project, good for a minute."""
        now = int(time.time())
        claims = {
            "iss": "portal",
            "aud": "mlflow",
            "sub": user,
            "prj": project,
            "iat": now,
            "exp": now + _LIFE_SECONDS,
        }
        return jwt.encode({"alg": _ALGORITHM, "typ": "JWT"}, claims, self._key, algorithms=[_ALGORITHM])


class MlflowUpstream:
    """Passes requests on, both ways while they arrive."""

    def __init__(self, settings: MlflowSettings) -> None:
        self._url = httpx.URL(settings.url)
        self._client = httpx.AsyncClient(
            verify=_trust(settings), timeout=_TIMEOUT, limits=_LIMITS, trust_env=False, follow_redirects=False
        )

    @asynccontextmanager
    async def open(
        self, method: str, target: str, headers: Headers, body: AsyncIterable[bytes] | None
    ) -> AsyncIterator[httpx.Response]:
        """The answer, whose body is still to be read; `target` is path and query as they are to be sent."""
        url = self._url.copy_with(raw_path=target.encode("latin-1"))
        request = self._client.build_request(method, url, headers=list(headers), content=body)
        try:
            answer = await self._client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise _away(error) from error
        try:
            yield answer
        finally:
            await answer.aclose()

    async def close(self) -> None:
        """End all connections."""
        await self._client.aclose()


class MlflowApi:
    """Requests of the cluster's own programs, as `user` in one project."""

    def __init__(self, settings: MlflowSettings, signer: AssertionSigner, user: str) -> None:
        self._signer = signer
        self._user = user
        self._client = httpx.Client(
            base_url=settings.url, verify=_trust(settings), timeout=_OWN_SECONDS, trust_env=False
        )

    def get(self, project: str, path: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """What `/api/2.0/mlflow/<path>` answers; as `post`."""
        return self._ask("GET", project, path, params=params)

    def post(self, project: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The same with a body. NotFoundError; UsageError: refused; UnreachableError: to be tried again."""
        return self._ask("POST", project, path, json=body)

    def close(self) -> None:
        """End all connections."""
        self._client.close()

    def _ask(self, method: str, project: str, path: str, **content: Any) -> dict[str, Any]:
        headers = {"x-lab-assertion": self._signer.sign(self._user, project)}
        try:
            answer = self._client.request(method, f"/api/2.0/mlflow/{path}", headers=headers, **content)
        except httpx.HTTPError as error:
            raise _away(error) from error
        if answer.is_success:
            return cast(dict[str, Any], answer.json())
        raise _failure(answer)


def _trust(settings: MlflowSettings) -> ssl.SSLContext:
    """The site's authority alone; nobody at all where plain HTTP is spoken, in a trial on loopback."""
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if settings.url.startswith("https:"):
        trust.load_verify_locations(settings.ca_file)
    return trust


def _away(error: httpx.HTTPError) -> UnreachableError:
    return UnreachableError(f"MLflow does not answer ({type(error).__name__}): try again in a minute")


def _failure(answer: httpx.Response) -> LabclusterError:
    try:
        said = answer.json()
        code, message = str(said["error_code"]), str(said["message"])
    except (ValueError, KeyError, TypeError):
        code, message = "", answer.text[:200]
    if answer.status_code >= 500 or answer.status_code == 429:
        return UnreachableError(f"MLflow cannot do this now ({answer.status_code}): {message}")
    if code == "RESOURCE_DOES_NOT_EXIST" or answer.status_code == 404:
        return NotFoundError(f"MLflow: {message}")
    return UsageError(f"MLflow refuses this ({answer.status_code}): {message}")
