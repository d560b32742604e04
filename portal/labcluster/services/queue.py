"""Who waits, in which order, and for what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from labcluster.models.runs import QueueItem, Run, RunState
from labcluster.services.endings import condition
from labcluster.services.nodes import capacity, ready
from labcluster.services.ports import ClusterView, KubeObject


class QueueReport:
    """The queue at one moment, from the active runs and what the watches know of the cluster."""

    def __init__(self, active: Sequence[Run], view: ClusterView) -> None:
        self._view = view
        self._active = active
        self._used: Counter[str] = Counter()
        for run in active:
            if run.state is not RunState.QUEUED:
                self._used[run.project] += run.gpus
        nodes = [node for node in view.nodes() if ready(node)]
        self._total = sum(capacity(node).gpus for node in nodes)
        waiting = sorted(
            (run for run in active if run.state is RunState.QUEUED), key=lambda r: (r.submitted_at, r.id)
        )
        self._positions: Mapping[str, int] = {run.id: place for place, run in enumerate(waiting, 1)}

    def items(self) -> list[QueueItem]:
        """Runs that have their resources first, then those that wait, in order of submission."""
        order = sorted(
            self._active, key=lambda r: (r.state is RunState.QUEUED, r.submitted_at, r.project, r.number)
        )
        return [
            QueueItem(
                run=run.id,
                project=run.project,
                user=run.user,
                name=run.name,
                gpus=run.gpus,
                state=run.state,
                position=self._positions.get(run.id),
                reason=run.reason,
                submitted_at=run.submitted_at,
            )
            for run in order
        ]

    def why(self, run: Run) -> str:
        """One sentence about what a queued run waits for."""
        workload = self._view.workload(run)
        share = self._view.project(run.project)
        prefix = _after_eviction(workload)
        used, free = self._used[run.project], self._total - sum(self._used.values())
        if share and run.gpus and used + run.gpus > share.max_gpus:
            return (
                f"{prefix}waits: needs {_gpus(run.gpus)},"
                f" project {run.project} uses {used} of {share.max_gpus} that it may have"
            )
        if run.gpus > free:
            return (
                f"{prefix}waits: needs {_gpus(run.gpus)}, {max(free, 0)} of {self._total} in the cluster"
                f" {'is' if free == 1 else 'are'} free"
            )
        said = _kueue_says(workload)
        if said:
            return f"{prefix}waits: {said}"
        return f"{prefix}waits for its turn" if workload else "accepted, the queue takes it in a moment"


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
