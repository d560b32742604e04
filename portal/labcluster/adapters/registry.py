"""The private registry, with its answers kept for a short time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar, cast

import httpx

from labcluster.errors import UnreachableError
from labcluster.models.settings import RegistrySettings

T = TypeVar("T")

_MANIFESTS = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
# Short: who pushes an image anew and submits at once must get the new one.
_DIGEST_SECONDS = 2.0
# Lists are for people, who look at what they have just pushed: kept for when the registry is away only.
_LIST_SECONDS = 0.0
# What a digest names never changes.
_FOR_EVER = float("inf")
# While the registry is away, what it said before is used for so long.
_STALE_SECONDS = 3600.0
_MAX_ENTRIES = 10_000


class TokenAuth(httpx.Auth):
    """Docker's token authentication: a token for each repository, kept until half its time is over.

    The registry says itself where tokens are to be had, but by its public name, which pods cannot look up;
    the address comes from the settings.
    """

    requires_response_body = True

    def __init__(
        self,
        url: str,
        service: str,
        account: httpx.BasicAuth,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url.rstrip("/")
        self._service = service
        self._account = account
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[float, str]] = {}

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Add the token, after asking for one if need be; one that is refused is asked for anew."""
        scope = _scope(request)
        token = self._token(scope)
        if token is None:
            token = yield from self._ask(scope)
        request.headers["Authorization"] = f"Bearer {token}"
        answer = yield request
        if answer.status_code == 401 and token:
            token = yield from self._ask(scope)
            request.headers["Authorization"] = f"Bearer {token}"
            yield request

    def _token(self, scope: str) -> str | None:
        with self._lock:
            until, token = self._kept.get(scope, (0.0, ""))
            return token if self._clock() < until else None

    def _ask(self, scope: str) -> Generator[httpx.Request, httpx.Response, str]:
        params = {"service": self._service, **({"scope": scope} if scope else {})}
        asking = httpx.Request("GET", f"{self._url}/token", params=params)
        answer = yield next(self._account.auth_flow(asking))
        answer.read()
        if answer.status_code != 200:
            raise UnreachableError(f"the registry's token service answers with HTTP {answer.status_code}")
        content = answer.json()
        with self._lock:
            if len(self._kept) >= _MAX_ENTRIES:
                self._kept.clear()
            self._kept[scope] = (self._clock() + content["expires_in"] / 2, content["token"])
        return str(content["token"])


class HttpRegistry:
    """A registry that speaks the distribution protocol."""

    def __init__(
        self,
        settings: RegistrySettings,
        *,
        client: httpx.Client | None = None,
        account: httpx.BasicAuth | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host = settings.host
        self._url = settings.url.rstrip("/")
        self._token_url = settings.token_url.rstrip("/")
        # Who we are to the token service; the registry itself gets its tokens.
        self._account = account
        if client is None:
            username = settings.username_file.read_text().strip()
            password = settings.password_file.read_text().strip()
            self._account = httpx.BasicAuth(username, password)
            client = httpx.Client(
                auth=TokenAuth(settings.token_url, settings.host, self._account),
                verify=_context(settings),
                timeout=httpx.Timeout(5.0, connect=2.0),
                limits=httpx.Limits(max_keepalive_connections=8, keepalive_expiry=120.0),
                trust_env=False,
            )
        self._client = client
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, ...], tuple[float, Any]] = {}

    @property
    def host(self) -> str:
        """host:port as it stands in image references."""
        return self._host

    def digest(self, repository: str, tag: str) -> str | None:
        """The digest behind a tag or a digest; None if there is none."""

        def ask() -> str | None:
            answer = self._ask("HEAD", f"/v2/{repository}/manifests/{tag}", {"Accept": _MANIFESTS})
            return answer.headers.get("Docker-Content-Digest") if answer is not None else None

        return self._cached(("digest", repository, tag), _DIGEST_SECONDS, ask)

    def tags(self, repository: str) -> list[str]:
        """Tags of a repository, empty for an unknown one."""
        return self._cached(
            ("tags", repository),
            _LIST_SECONDS,
            lambda: self._pages(f"/v2/{repository}/tags/list?n=1000", "tags"),
        )

    def repositories(self) -> list[str]:
        """Names of all repositories."""
        return self._cached(
            ("catalog",), _LIST_SECONDS, lambda: self._pages("/v2/_catalog?n=1000", "repositories")
        )

    def size(self, repository: str, digest: str) -> int | None:
        """Bytes of an image's layers, as they are sent; None if it is gone."""
        return self._cached(("size", digest), _FOR_EVER, lambda: self._size(repository, digest))

    def remove(self, repository: str, digest: str) -> bool:
        """Remove an image with all its tags; False if it was gone."""
        answer = self._ask("DELETE", f"/v2/{repository}/manifests/{digest}", {})
        stale = {("digest", repository), ("tags", repository), ("usage",)}
        with self._lock:
            self._kept = {key: kept for key, kept in self._kept.items() if key[:2] not in stale}
        return answer is not None

    def login(self, user: str, *, admin: bool) -> tuple[str, int]:
        """A password of the registry for somebody whom the portal has authenticated, and its seconds."""
        answer = self._ask_tokens("POST", "/login", {"user": user, "admin": admin})
        return str(answer["password"]), int(answer["expires_in"])

    def usage(self) -> dict[str, int]:
        """Bytes by project."""
        return self._cached(("usage",), _LIST_SECONDS, lambda: self._ask_tokens("GET", "/usage"))

    def _size(self, repository: str, digest: str) -> int | None:
        answer = self._ask("GET", f"/v2/{repository}/manifests/{digest}", {"Accept": _MANIFESTS})
        if answer is None:
            return None
        content = answer.json()
        if "manifests" in content:  # one for each kind of machine
            return sum(self.size(repository, each["digest"]) or 0 for each in content["manifests"])
        return sum(int(layer.get("size", 0)) for layer in content.get("layers") or [])

    def _cached(self, key: tuple[str, ...], seconds: float, ask: Callable[[], T]) -> T:
        now = self._clock()
        with self._lock:
            kept = self._kept.get(key)
        if kept is not None and kept[0] + seconds > now:
            return cast(T, kept[1])
        try:
            answer = ask()
        except UnreachableError:
            if kept is None or not kept[1] or kept[0] + _STALE_SECONDS < now:
                raise
            return cast(T, kept[1])
        with self._lock:
            if len(self._kept) >= _MAX_ENTRIES:
                self._kept.clear()
            self._kept[key] = (now, answer)
        return answer

    def _pages(self, path: str, field: str) -> list[str]:
        names: list[str] = []
        while True:
            answer = self._ask("GET", path, {})
            if answer is None:
                return names
            names += answer.json().get(field) or []
            following = answer.links.get("next", {}).get("url")
            if not following:
                return names
            path = httpx.URL(following).raw_path.decode()

    def _ask_tokens(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        auth = self._account or httpx.USE_CLIENT_DEFAULT
        try:
            answer = self._client.request(method, self._token_url + path, json=body, auth=auth)
        except httpx.HTTPError as error:
            raise UnreachableError(f"the registry's token service does not answer: {error}") from error
        if answer.is_error:
            raise UnreachableError(f"the registry's token service answers with HTTP {answer.status_code}")
        return cast("dict[str, Any]", answer.json())

    def _ask(self, method: str, path: str, headers: dict[str, str]) -> httpx.Response | None:
        try:
            answer = self._client.request(method, self._url + path, headers=headers)
        except httpx.HTTPError as error:
            raise UnreachableError(f"the registry {self._url} does not answer: {error}") from error
        if answer.status_code == 404:
            return None
        if answer.is_error:
            raise UnreachableError(f"the registry {self._url} answers with HTTP {answer.status_code}")
        return answer


def _scope(request: httpx.Request) -> str:
    path = request.url.path.removeprefix("/v2/")
    if path == "_catalog":
        return "registry:catalog:*"
    for part in ("/manifests/", "/tags/", "/blobs/"):
        if part in path:
            action = "pull" if request.method in ("GET", "HEAD") else "*"
            return f"repository:{path.rpartition(part)[0]}:{action}"
    return ""


def _context(settings: RegistrySettings) -> Any:
    import ssl

    return ssl.create_default_context(cafile=str(settings.ca_file))
