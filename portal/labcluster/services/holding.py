"""Why a Job must not be made yet: what its run comes after, and how many of its array may run at once.

Both are read off the run table alone, so that portal and reconciler come to the same answer, at any time
and after any crash.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from labcluster.errors import UsageError
from labcluster.models.runs import ACTIVE_STATES, RUN_ID, ArraySlots, NewRun, Run, RunState
from labcluster.services.ports import RunStore

# What an arm of a sweep says that has no parameters yet.
WAITS_FOR_DRAW = "waits for its sweep, which chooses its parameters when a place is free"

AFTER = re.compile(rf"(?P<run>{RUN_ID.pattern})(?P<ok>:ok)?")


class Holds:
    """What some queued runs are held by, from the run table at one moment."""

    def __init__(
        self,
        states: Mapping[str, Counter[RunState]],
        slots: Mapping[tuple[str, int], ArraySlots],
        stopping: Mapping[tuple[str, int], int] | None = None,
    ) -> None:
        self._states = states
        self._free = {}
        for key, slot in slots.items():
            taken = slot.taken + (stopping or {}).get(key, 0)
            self._free[key] = frozenset(slot.waiting[: max(0, slot.parallel - taken)])
        self._limits = {key: slot.parallel for key, slot in slots.items()}

    @classmethod
    def load(
        cls, store: RunStore, runs: Iterable[Run], stopping: Mapping[tuple[str, int], int] | None = None
    ) -> Holds:
        """For these runs; two queries however many they are.

        `stopping` counts, by array, the members that have ended but whose pods may still go on.
        """
        waiting = [run for run in runs if run.state is RunState.QUEUED and run.job_uid is None]
        wanted = {target(after) for run in waiting for after in run.after}
        arrays = {(run.project, run.number) for run in waiting if run.array_index is not None}
        return cls(store.states(wanted), store.slots(arrays), stopping)

    def hopeless(self, run: NewRun) -> str | None:
        """Why the run can never start; it is to be cancelled with this sentence."""
        for after in run.after:
            run_id, states = self._dependency(after)
            bad = [state for state in states if state.final and state is not RunState.SUCCEEDED]
            if after.endswith(":ok") and bad:
                word = min(bad).replace("_", " ")
                return f"cancelled: it was to run after {run_id} had succeeded, which {_ended(word)}"
        return None

    def hold(self, run: Run) -> str | None:
        """Why the run must not have a Job now; None if it may."""
        never = self.hopeless(run)
        if never:
            return never
        for after in run.after:
            run_id, states = self._dependency(after)
            if any(state in ACTIVE_STATES for state in states):
                return waits_after(run_id, ok=after.endswith(":ok"))
        if not run.drawn:
            return WAITS_FOR_DRAW
        key = (run.project, run.number)
        if run.array_index is not None and key in self._free and run.array_index not in self._free[key]:
            return waits_for_array(self._limits[key])
        return None

    def _dependency(self, after: str) -> tuple[str, Counter[RunState]]:
        run_id = after.removesuffix(":ok")
        return run_id, self._states.get(run_id, Counter())


def hold(run: Run, store: RunStore) -> str | None:
    """Why this one run must not have a Job now; None if it may."""
    if not run.after and run.array_index is None:
        return None
    return Holds.load(store, [run]).hold(run)


def target(after: str) -> tuple[str, int, int | None]:
    """Project, number and index (None: the whole run or array) of what a run comes after."""
    match = AFTER.fullmatch(after)
    if match is None:
        raise UsageError(
            f"--after {after!r}: write it as vision-12 or vision-12.3, and :ok after it if wanted"
        )
    trial = match["trial"]
    return match["project"], int(match["number"]), int(trial) if trial is not None else None


def waits_after(run_id: str, *, ok: bool) -> str:
    """What a run says while it waits for another's end."""
    return f"waits until {run_id} has succeeded" if ok else f"waits until {run_id} has ended"


def waits_for_array(parallel: int) -> str:
    """What a member beyond its array's limit says."""
    return f"waits for its array, of which {parallel} may run at once"


def _ended(word: str) -> str:
    return {"cancelled": "was cancelled", "lost": "was lost"}.get(word, word)
