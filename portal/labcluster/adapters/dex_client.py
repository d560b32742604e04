"""Dex for labctl: the device flow of RFC 8628, and tokens that are kept in a file and renewed in time.

Standard library only, because a command must start fast. Tokens are opaque: Dex says how long one is good.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from labcluster.errors import LabclusterError, NotAuthenticatedError, UnreachableError

_TIMEOUT_SECONDS = 10.0
# A token that is good for less is renewed: it must still be good when it arrives.
_MARGIN_SECONDS = 60.0
_SLOWER_SECONDS = 5.0
_SCOPE = "openid profile groups offline_access"
_DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
LOG_IN = "labctl login"


@dataclass(frozen=True)
class Tokens:
    """What a login gave."""

    issuer: str
    client_id: str
    ca: str
    id_token: str
    #: Unix time.
    expires_at: float
    refresh_token: str

    def good(self, seconds: float = 0.0) -> bool:
        """Whether the id token is good for so long."""
        return time.time() + seconds < self.expires_at


@dataclass(frozen=True)
class Device:
    """A login that waits for its owner."""

    device_code: str
    user_code: str
    url: str
    expires_at: float
    interval: float


class Dex:
    """One issuer, for one client."""

    def __init__(self, issuer: str, client_id: str, ca: str) -> None:
        self._issuer = issuer
        self._client_id = client_id
        self._ca = ca

    def begin(self) -> Device:
        """Ask for a code that somebody must confirm in a browser."""
        status, answer = self._post("device/code", {"scope": _SCOPE})
        if status != 200:
            raise LabclusterError(f"{self._issuer} does not begin a login ({_said(status, answer)})")
        return Device(
            device_code=answer["device_code"],
            user_code=answer["user_code"],
            url=answer.get("verification_uri_complete") or answer["verification_uri"],
            expires_at=time.time() + float(answer["expires_in"]),
            interval=float(answer.get("interval", 5)),
        )

    def wait(self, device: Device, sleep: Callable[[float], None] = time.sleep) -> Tokens:
        """Ask as often as Dex allows until the code is confirmed or has run out."""
        interval = device.interval
        while time.time() < device.expires_at:
            sleep(interval)
            status, answer = self._post(
                "token", {"grant_type": _DEVICE_GRANT, "device_code": device.device_code}
            )
            if status == 200:
                return self._tokens(answer, None)
            match answer.get("error"):
                case "authorization_pending":
                    pass
                case "slow_down":
                    interval += _SLOWER_SECONDS
                case "expired_token":
                    break
                case _:
                    raise NotAuthenticatedError(f"the login failed ({_said(status, answer)}): {LOG_IN}")
        raise NotAuthenticatedError(f"nobody confirmed the code in time: {LOG_IN} again")

    def renew(self, old: Tokens) -> Tokens:
        """New tokens for old ones. NotAuthenticatedError when there is nothing to renew any more."""
        form = {"grant_type": "refresh_token", "refresh_token": old.refresh_token}
        status, answer = self._post("token", form)
        if status == 200:
            return self._tokens(answer, old)
        if status >= 500:  # Dex says the same of a directory that is away and of a member who is gone
            raise UnreachableError(
                "your login cannot be renewed now, because the directory does not answer or your account is"
                " disabled: try again in a minute, then ask your administrator"
            )
        raise NotAuthenticatedError(
            "your login has ended: it was too old or not used for long, or you have logged in from another"
            f" machine of this kind since: {LOG_IN} again"
        )

    def _tokens(self, answer: Mapping[str, Any], old: Tokens | None) -> Tokens:
        return Tokens(
            issuer=self._issuer,
            client_id=self._client_id,
            ca=self._ca,
            id_token=answer["id_token"],
            expires_at=time.time() + float(answer.get("expires_in", 0)),
            refresh_token=answer.get("refresh_token") or (old.refresh_token if old else ""),
        )

    def _post(self, path: str, form: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        url = f"{self._issuer}/{path}"
        data = urlencode({"client_id": self._client_id, **form}).encode()
        request = urllib.request.Request(url, data, {"Accept": "application/json"})  # noqa: S310 - https
        try:
            trust = ssl.create_default_context(cafile=self._ca)
            with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS, context=trust) as answer:  # noqa: S310
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _json(error.read())
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise UnreachableError(
                f"the login service does not answer at {self._issuer} ({reason}): try again in a minute"
            ) from None


class TokenFile:
    """One login of one person on one machine: a file that only he can read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> Tokens | None:
        """What is kept; None where nobody has logged in."""
        try:
            return Tokens(**json.loads(self.path.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def save(self, tokens: Tokens) -> None:
        """Keep these instead."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(self.path, json.dumps(asdict(tokens)))

    def forget(self) -> bool:
        """Keep nothing; says whether there was something."""
        try:
            self.path.unlink()
        except FileNotFoundError:
            return False
        return True

    def current(self) -> Tokens:
        """Tokens that are good now, renewed if need be; several commands at one time renew once."""
        tokens = self._require()
        if tokens.good(_MARGIN_SECONDS):
            return tokens
        with self._locked():
            tokens = self._require()
            if tokens.good(_MARGIN_SECONDS):
                return tokens
            try:
                tokens = Dex(tokens.issuer, tokens.client_id, tokens.ca).renew(tokens)
            except UnreachableError:
                if tokens.good():
                    return tokens
                raise
            except NotAuthenticatedError:
                self.forget()
                raise
            self.save(tokens)
        return tokens

    def _require(self) -> Tokens:
        tokens = self.load()
        if tokens is None:
            raise NotAuthenticatedError(f"you have not logged in on this machine: {LOG_IN}")
        return tokens

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self.path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def write_private(path: Path, text: str) -> None:
    """Write a file that nobody else may read, whole or not at all."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    new.replace(path)


def _json(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _said(status: int, answer: Mapping[str, Any]) -> str:
    return str(answer.get("error_description") or answer.get("error") or f"HTTP {status}")
