"""What a program does again and again beside its other work."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from labcluster.errors import LabclusterError

log = logging.getLogger(__name__)


def take_turns(stop: threading.Event, turn: Callable[[], None], what: str, *, seconds: float = 5.0) -> None:
    """Call `turn` every `seconds` until `stop` is set; failures are logged, never raised.

    One that has a sentence is said once, and not again while it stays the same; `what` waits for its end.
    """
    said = ""
    while not stop.is_set():
        try:
            turn()
            said = ""
        except LabclusterError as error:
            if error.detail != said:
                log.warning("%s wait: %s", what, error)
            said = error.detail
        except Exception:  # the loop must survive what nobody thought of
            log.exception("a turn of the %s failed", what)
        stop.wait(seconds)
