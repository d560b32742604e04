"""Who waits, in which order, and for what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from labcluster.models.runs import Priority, QueueItem, Run, RunState
from labcluster.services.endings import condition
from labcluster.services.nodes import capacity, ready
from labcluster.services.ports import ClusterView, KubeObject

_RANK = {priority: rank for rank, priority in enumerate(Priority)}
# What an array is shown as in the queue: the first of these that a member is in.
_STATES = (RunState.RUNNING, RunState.STARTING, RunState.QUEUED)


class QueueReport:
    """The queue at one moment, from the active runs and what the watches know of the cluster."""

    def __init__(self, active: Sequence[Run], view: ClusterView) -> None:
        self._view = view
        self._active = active
        self._used: Counter[str] = Counter()
        for run in active:
            if run.state is not RunState.QUEUED:
                self._used[run.project] += run.all_gpus
        nodes = [node for node in view.nodes() if ready(node)]
        self._total = sum(capacity(node).gpus for node in nodes)

    def items(self) -> list[QueueItem]:
        """Runs that have their resources first, then those that wait, in the queue's order; then those
        that are held. An array is one item."""
        units: dict[str, list[Run]] = {}
        for run in self._active:
            units.setdefault(run.array_id or run.id, []).append(run)
        items = [_item(name, runs) for name, runs in units.items()]
        items.sort(key=lambda item: item[0])
        found: list[QueueItem] = []
        position = 0
        for (stage, *_), item in items:
            position += stage == _WAITS
            found.append(item.model_copy(update={"position": position if stage == _WAITS else None}))
        return found

    def why(self, run: Run) -> str:
        """One sentence about what a queued run waits for."""
        workload = self._view.workload(run)
        share = self._view.project(run.project)
        prefix = _after_eviction(workload)
        used, free = self._used[run.project], self._total - sum(self._used.values())
        if share and run.gpus and used + run.all_gpus > share.max_gpus:
            return (
                f"{prefix}waits: needs {_gpus(run.all_gpus)},"
                f" project {run.project} uses {used} of {share.max_gpus} that it may have"
            )
        if run.gpus and run.all_gpus > free:
            return (
                f"{prefix}waits: needs {_gpus(run.all_gpus)}, {max(free, 0)} of {self._total} in the cluster"
                f" {'is' if free == 1 else 'are'} free"
            )
        said = _kueue_says(workload)
        if said:
            return f"{prefix}waits: {said}"
        return f"{prefix}waits for its turn" if workload else "accepted, the queue takes it in a moment"


_HAS, _WAITS, _HELD = range(3)


def _item(name: str, runs: Sequence[Run]) -> tuple[tuple[int, int, datetime, str, int], QueueItem]:
    """A run, or an array by its active members, and where it stands among the others."""
    counts = Counter(run.state for run in runs)
    state = next(state for state in _STATES if counts[state])
    # The member that says most: one that has started, else the first that is not held.
    first = min(runs, key=lambda run: (run.state is not state, held(run), run.trial))
    started = [run for run in runs if run.state is not RunState.QUEUED]
    member = first.array_index is not None
    stage = _HAS if state is not RunState.QUEUED else _HELD if held(first) else _WAITS
    item = QueueItem(
        run=name,
        project=first.project,
        user=first.user,
        name=first.name,
        gpus=sum(run.all_gpus for run in started or [first]),
        priority=first.priority,
        state=state,
        position=None,
        reason=_reason(counts, runs, first) if member else first.reason,
        submitted_at=first.submitted_at,
        members=dict(counts) if member else None,
    )
    rank = _RANK[first.priority] if stage == _WAITS else 0
    return (stage, rank, first.submitted_at, first.project, first.number), item


def _reason(counts: Counter[RunState], runs: Sequence[Run], first: Run) -> str:
    told = [f"{counts[state]} {state}" for state in _STATES if counts[state]]
    waits = next((run.reason for run in runs if run.state is RunState.QUEUED and not held(run)), None)
    why = waits or first.reason
    return f"{', '.join(told)} of {first.array_size}" + (f"; {why}" if why else "")


def held(run: Run) -> bool:
    """Whether it has no Job yet and is of those that may have to wait for one."""
    waits = run.state is RunState.QUEUED and run.job_uid is None
    return waits and (bool(run.after) or run.array_index is not None)


def _gpus(count: int) -> str:
    return f"{count} GPU" + ("" if count == 1 else "s")


def _after_eviction(workload: KubeObject | None) -> str:
    evicted = condition(workload, "Evicted") if workload else None
    if evicted is None:
        return ""
    return "had to give its place back, " if evicted.get("reason") == "Preempted" else "was put back, "


def _kueue_says(workload: KubeObject | None) -> str | None:
    """Kueue's own reason, without its advertisement of flavors."""
    for entry in (workload or {}).get("status", {}).get("conditions") or []:
        if entry["type"] == "QuotaReserved" and entry["status"] == "False" and entry.get("message"):
            message = str(entry["message"]).removeprefix("couldn't assign flavors to pod set main: ")
            return message.split(". Pending the preemption")[0]
    return None
