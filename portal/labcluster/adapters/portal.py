"""The portal's REST interface for labctl: standard library only, because a command must start fast."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from labcluster.adapters import munge_client
from labcluster.errors import LabclusterError, UncertainError, UnreachableError, from_problem

_PREFIX = "/api/v1"
_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 30.0
_BLOCK = 64 * 1024
# A portal or database that was killed is back within a minute; so long nobody knows what became of a request.
_UNCERTAIN_SECONDS = 120.0
_UNCERTAIN_PAUSE = 1.0

Json = Any


class BrokenConnectionError(UnreachableError):
    """The connection ended after the request was sent: whether it was carried out is not known."""


class SocketRequest(NamedTuple):
    """What a WebSocket to the portal is opened with."""

    url: str
    target: str
    headers: dict[str, str]
    tls: ssl.SSLContext


class Portal:
    """One user's requests to one portal, over one connection that is kept between them."""

    def __init__(
        self,
        url: str,
        cluster: str,
        ca: str,
        credential: Callable[[bytes], str] | None = None,
        *,
        bearer: Callable[[], str] | None = None,
        notice: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.url = url.rstrip("/")
        self._cluster = cluster
        self._ca = ca
        self._credential = credential or munge_client.encode
        self._bearer = bearer
        self._notice = notice
        self._connection: http.client.HTTPSConnection | None = None

    def get(self, path: str, query: Mapping[str, Any] | None = None) -> Json:
        """What is there; `path` has no prefix. None values of the query are left out."""
        return self._json("GET", path, query)

    def post(self, path: str, body: Json = None, query: Mapping[str, Any] | None = None) -> Json:
        """Do something. Only for requests that may be sent twice (all of the portal's are so made)."""
        return self._json("POST", path, query, body)

    def put(self, path: str, body: Json = None, query: Mapping[str, Any] | None = None) -> Json:
        """Make something be as the body says."""
        return self._json("PUT", path, query, body)

    def patch(self, path: str, body: Json, query: Mapping[str, Any] | None = None) -> Json:
        """Change what the body names."""
        return self._json("PATCH", path, query, body)

    def delete(self, path: str, query: Mapping[str, Any] | None = None) -> Json:
        """Make something not be."""
        return self._json("DELETE", path, query)

    def stream(self, path: str, query: Mapping[str, Any] | None = None) -> Iterator[bytes]:
        """The body of an answer in pieces, as they arrive; BrokenConnectionError if it ends too early."""
        answer = self._ask("GET", _target(path, query), b"")
        # Silence of a run is no fault: only a dead peer ends the wait.
        if self._connection is not None and self._connection.sock is not None:
            self._connection.sock.settimeout(None)
            self._connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        try:
            while block := answer.read1(_BLOCK):
                yield block
        except (http.client.HTTPException, OSError) as error:
            raise BrokenConnectionError(f"the connection to {self.url} broke ({_reason(error)})") from None
        finally:
            self.close()

    def close(self) -> None:
        """End the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _json(self, method: str, path: str, query: Mapping[str, Any] | None, body: Json = None) -> Json:
        target = _target(path, query)
        data = b"" if body is None else json.dumps(body).encode()
        text = self._look(target) if method == "GET" else self._change(method, target, data)
        try:
            return json.loads(text) if text else None
        except ValueError:
            raise LabclusterError(f"{self.url}{target} did not answer with JSON: is it a portal?") from None

    def _look(self, target: str) -> bytes:
        try:
            return self._read("GET", target, b"")
        except BrokenConnectionError:  # an idle connection that the portal ended
            return self._read("GET", target, b"")

    def _change(self, method: str, target: str, body: bytes) -> bytes:
        """Ask until there is a true answer: a request whose answer got lost may have been carried out."""
        try:
            return self._read(method, target, body)
        except (BrokenConnectionError, UncertainError):
            until = time.monotonic() + _UNCERTAIN_SECONDS
        tries = 0
        while True:
            try:
                return self._read(method, target, body)
            except (UnreachableError, UncertainError) as error:
                # That it does not answer now says nothing about the first time.
                if time.monotonic() > until:
                    raise UncertainError(
                        f"{error.detail.partition(': nothing was')[0]}; an earlier try broke, so that it is"
                        " not known whether this was done: look before you try again"
                    ) from None
            tries += 1
            if tries == 1:
                self._notice("the portal broke off before its answer: asking again whether this was done")
            time.sleep(_UNCERTAIN_PAUSE)

    def _read(self, method: str, target: str, body: bytes) -> bytes:
        answer = self._ask(method, target, body)
        try:
            return answer.read()
        except (http.client.HTTPException, OSError) as error:
            self.close()
            raise BrokenConnectionError(f"the connection to {self.url} broke ({_reason(error)})") from None

    def socket(self, path: str, query: Mapping[str, Any] | None = None) -> SocketRequest:
        """How to open a path as a WebSocket."""
        target = _target(path, query)
        url = self.url.replace("https://", "wss://", 1) + target
        return SocketRequest(url, target, {"Authorization": self._proof("GET", target, b"")}, self._tls())

    def _proof(self, method: str, target: str, body: bytes) -> str:
        """The Authorization header: a token, or munge's word for exactly this request."""
        if self._bearer is not None:
            return f"Bearer {self._bearer()}"
        digest = hashlib.sha256(body).hexdigest()
        payload = f"labcluster:{self._cluster}\n{method} {target}\n{digest}"
        return f"Munge {self._credential(payload.encode())}"

    def _ask(self, method: str, target: str, body: bytes) -> http.client.HTTPResponse:
        headers = {
            "Authorization": self._proof(method, target, body),
            "Accept": "application/json, application/problem+json",
        }
        if body:
            headers["Content-Type"] = "application/json"
        connection = self._connect()
        try:
            connection.request(method, target, body or None, headers)
            answer = connection.getresponse()
            if answer.status >= 400:
                raise self._error(method, target, answer)
        except (http.client.HTTPException, OSError) as error:
            self.close()
            raise BrokenConnectionError(f"the connection to {self.url} broke ({_reason(error)})") from None
        return answer

    def _connect(self) -> http.client.HTTPSConnection:
        if self._connection is not None:
            return self._connection
        address = urlsplit(self.url)
        nothing = "nothing was accepted; try again in a minute, then tell your administrator"
        connection = http.client.HTTPSConnection(
            address.hostname or "", address.port, timeout=_CONNECT_SECONDS, context=self._tls()
        )
        try:
            connection.connect()
        except ssl.SSLCertVerificationError as error:
            raise UnreachableError(
                f"{self.url} is not the portal of this site ({error.verify_message}): nothing was accepted;"
                " tell your administrator"
            ) from None
        except OSError as error:
            raise UnreachableError(
                f"the portal does not answer at {self.url} ({_reason(error)}): {nothing}"
            ) from None
        connection.sock.settimeout(_ANSWER_SECONDS)
        # Header and body are two writes; Nagle would hold the second back.
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = connection
        return connection

    def _tls(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self._ca)
        except OSError as error:
            raise LabclusterError(f"the site's CA certificate {self._ca}: {_reason(error)}") from None

    def _error(self, method: str, target: str, answer: http.client.HTTPResponse) -> LabclusterError:
        kind = answer.getheader("Content-Type") or ""
        return self.refusal(method, target, answer.status, answer.reason, kind, answer.read())

    def refusal(
        self, method: str, target: str, status: int, phrase: str, kind: str, text: bytes
    ) -> LabclusterError:
        """What an answer says that is not the wanted one; `kind` is its content type."""
        if kind.startswith("application/problem+json"):
            try:
                error = from_problem(json.loads(text))
            except (ValueError, AttributeError):
                pass
            else:
                if isinstance(error, UnreachableError) and method != "GET" and "accepted" not in error.detail:
                    return UnreachableError(f"{error.detail}: nothing was accepted, try again in a minute")
                return error
        where = f"{self.url} answered {status} {phrase} to {method} {target}"
        if status in (502, 503, 504):
            return UnreachableError(f"{where}: nothing was accepted, try again in a minute")
        return LabclusterError(f"{where}: tell your administrator")


def _target(path: str, query: Mapping[str, Any] | None) -> str:
    given = {key: value for key, value in (query or {}).items() if value is not None}
    words = {key: str(value).lower() if isinstance(value, bool) else value for key, value in given.items()}
    return _PREFIX + quote(path) + (f"?{urlencode(words)}" if words else "")


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, socket.gaierror):
        return "its name is not known"
    if isinstance(error, http.client.RemoteDisconnected | http.client.IncompleteRead):
        return "it was closed before the answer was complete"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__
