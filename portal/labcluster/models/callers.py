"""Who asks the portal for something."""

from __future__ import annotations

from dataclasses import dataclass

# The portal's uid in its pod (chart portal): munged there opens labctl's credentials for nobody else.
PORTAL_UID = 10104
# How long labctl's credentials are good. munged forgets them, and with them who used them, after this time.
CREDENTIAL_SECONDS = 60


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
class PodOwner:
    """Whose a pod is, as its labels say, which admission guarantees."""

    user: str
    project: str


@dataclass(frozen=True)
class Caller:
    """The user behind a request."""

    user: str
    uid: int
    admin: bool = False
    #: The one project in which he may do something, when a pod of his asks.
    project: str | None = None
