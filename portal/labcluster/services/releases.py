"""What has to be done so that a Helm release is as wanted. Pure: the facts come in, the decision goes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, Protocol

# A change that Helm is still making takes seconds, because nobody waits for pods inside of it; one that is
# older than this has lost its process.
STALE_AFTER = timedelta(seconds=30)

Action = Literal["none", "install", "upgrade", "repair", "wait"]


class Revision(Protocol):
    """The newest revision of a release."""

    @property
    def status(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def at(self) -> datetime | None: ...
    @property
    def pending(self) -> bool: ...


@dataclass(frozen=True)
class Decision:
    """What to do, and why in words for the administrator."""

    action: Action
    why: str


def decide(digest: str, newest: Revision | None, missing: Sequence[object], now: datetime) -> Decision:
    """Compare what is wanted (by digest) with the newest revision and with the parts that are gone.

    `repair` forgets the newest revision, which was never finished, and deploys again. It removes no object:
    what the unfinished try made carries the release's name, and Helm takes it over. Uninstalling instead
    would take CRDs, and with them every queued job, along.
    """
    if newest is None:
        return Decision("install", "it is not deployed")
    if newest.pending:
        if newest.at is not None and now - newest.at < STALE_AFTER:
            return Decision("wait", f"somebody else is changing it now ({newest.status})")
        return Decision("repair", f"an earlier change was interrupted ({newest.status})")
    if newest.status == "uninstalled":
        return Decision("repair", "it was uninstalled and its history kept")
    if newest.status != "deployed":
        return Decision("upgrade", f"its last change is {newest.status}")
    if newest.digest != digest:
        return Decision("upgrade", "chart or values differ")
    if missing:
        return Decision("upgrade", "somebody deleted " + ", ".join(str(part) for part in missing))
    return Decision("none", "as wanted")
