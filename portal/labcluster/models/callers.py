"""Who asks the portal for something."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Credential:
    """What munged says about a credential that it found good and had not seen before."""

    uid: int
    payload: bytes


@dataclass(frozen=True)
class TokenOwner:
    """Whom a good token of Dex is about, by the directory's name."""

    user: str


@dataclass(frozen=True)
class BrowserLogin:
    """What a browser that was sent to Dex must bring back: kept in its session until then."""

    state: str
    nonce: str
    verifier: str


@dataclass(frozen=True)
class Caller:
    """The user behind a request."""

    user: str
    uid: int
    admin: bool = False
