"""What the apiserver has lately judged good, so that it need not judge every run of a kind again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable

from labcluster.models.runs import NewRun

# A policy that changes is felt after so long; until then the reconciler tells of its refusals.
_SECONDS = 20.0
_MAX_SHAPES = 10_000
# What no policy looks at: the user's own words, and how the run stands to others. All else makes a shape.
_OWN = frozenset(
    {"name", "command", "workdir", "env", "after", "array_index", "array_size"}
    | {"code", "params", "seed", "data", "parent"}
)


class Rehearsals:
    """Shapes of runs whose Job passed a dry run.

    A shape is what was asked for (of the variables only their names), together with the facts about the
    user and his project that it was judged under.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._passed: dict[Hashable, float] = {}

    def known(self, run: NewRun, facts: Hashable) -> bool:
        """Whether a Job of this shape passed a short time ago."""
        with self._lock:
            return self._passed.get(_shape(run, facts), float("-inf")) + _SECONDS > self._clock()

    def keep(self, run: NewRun, facts: Hashable) -> None:
        """Note that it passed."""
        with self._lock:
            if len(self._passed) >= _MAX_SHAPES:
                self._passed.clear()
            self._passed[_shape(run, facts)] = self._clock()

    def forget(self) -> None:
        """A Job was refused that had passed: ask again for all."""
        with self._lock:
            self._passed.clear()


def _shape(run: NewRun, facts: Hashable) -> Hashable:
    asked = tuple(getattr(run, name) for name in NewRun.model_fields if name not in _OWN)
    return (asked, run.array_size is not None, frozenset(run.env), facts)
