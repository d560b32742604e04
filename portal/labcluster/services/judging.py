"""What the objects of a run's Job mean for the run: where it is in its life, and what is to be done about it.

How a run can end, and with which sentence, is in `endings`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from labcluster.models.runs import Run, RunChange, RunState
from labcluster.services import endings
from labcluster.services.endings import Ending, condition, container, line, rank
from labcluster.services.ports import KubeObject

_PULL = frozenset({"ErrImagePull", "ImagePullBackOff", "RegistryUnavailable"})
_BROKEN = frozenset({"InvalidImageName", "ErrImageNeverPull"})
_CONFIG = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})

# A pod is made within a second; after this something refuses it.
_POD_SECONDS = 10.0
# Within this time Kueue has said why it took a run's place.
_EVICTION_SECONDS = 10.0
# A run that the cluster fails so often is not tried again: something is wrong with it or with its nodes.
MOST_ATTEMPTS = 10


@dataclass(frozen=True)
class Sight:
    """What is seen of a run's Job at one moment."""

    job: KubeObject
    # The Job's pods by rank, and as they were last seen those that are gone.
    pods: Sequence[KubeObject]
    gone: Sequence[KubeObject]
    # What Kueue made of the Job.
    workload: KubeObject | None
    now: datetime


@dataclass(frozen=True)
class Verdict:
    """The row as it should be, and what else there is to do about it."""

    change: RunChange
    # The Job must go although Kubernetes would keep it.
    remove_job: bool = False
    # Kubernetes should have made a pod by now: its events say why not.
    stalled: bool = False
    # The run is to be tried again, with this sentence, instead of ended by the change.
    again: str | None = None


def judge(run: Run, sight: Sight, image_wait: float) -> Verdict:
    """The state of a run whose Job exists."""
    job, pods = sight.job, sight.pods
    all_pods = [*pods, *sight.gone]
    seen = _seen(RunChange.of(run), run, pods)
    complete, failed = condition(job, "Complete"), condition(job, "Failed")
    if complete:
        end = _time(job["status"].get("completionTime")) or sight.now
        ending = endings.of_exits(run, all_pods) or Ending(RunState.SUCCEEDED, None, 0)
        return _final(run, _seen(seen, run, all_pods), ending, _finished(pods) or end)
    lost = endings.of_loss(pods)
    if lost:
        # The Job itself would wait for the pod to end, which it never does.
        return _final(run, seen, lost, sight.now, remove_job=True)
    if failed:
        ending = endings.of_failed_job(run, failed, all_pods)
        end = _time(failed.get("lastTransitionTime")) or sight.now
        return _final(run, _seen(seen, run, all_pods), ending, _finished(pods) or end)
    if job["spec"].get("suspend"):
        return _suspended(run, seen, sight)
    if not condition(job, "FailureTarget"):
        # Kubernetes takes two more seconds to say it of the pod and of the Job.
        ended = endings.of_exits(run, pods)
        if ended:
            return _final(run, seen, ended, _finished(pods) or sight.now)
    if len(pods) < run.nodes:
        return _without_pods(run, seen, sight, image_wait)
    if all(container(pod).keys() & {"running", "terminated"} and _started(pod) for pod in pods):
        return Verdict(seen.model_copy(update={"state": RunState.RUNNING, "reason": _ending_soon(pods)}))
    return _starting(run, seen, sight, image_wait)


def _suspended(run: Run, seen: RunChange, sight: Sight) -> Verdict:
    """The Job waits in the queue: since it was made, or because its place was taken."""
    seen = _seen(seen, run, [*sight.pods, *sight.gone])
    if run.state is not RunState.QUEUED and seen.started_at:
        evicted = condition(sight.workload, "Evicted")
        suspended = _time((condition(sight.job, "Suspended") or {}).get("lastTransitionTime"))
        if not evicted and (not suspended or (sight.now - suspended).total_seconds() < _EVICTION_SECONDS):
            return Verdict(seen)  # the news of why is on its way
        return _final(run, seen, endings.of_eviction(sight.workload), sight.now, remove_job=True)
    # Its command had not begun: nothing is lost, and Kueue starts the same Job when it is its turn again.
    empty = {"reason": run.reason, "started_at": None, "node": None, "exit_code": None}
    return Verdict(RunChange.of(run).model_copy(update={"state": RunState.QUEUED, **empty}))


def _without_pods(run: Run, seen: RunChange, sight: Sight, image_wait: float) -> Verdict:
    if run.started_at:
        return Verdict(seen)  # they were taken away: the Job is about to say why
    begun = _time(sight.job.get("status", {}).get("startTime"))
    waited = (sight.now - begun).total_seconds() if begun else 0.0
    if waited > image_wait and not sight.pods:
        ending = Ending(RunState.FAILED, run.reason or "its pod was never made")
        return _final(run, seen, ending, sight.now, remove_job=True)
    stalled = waited > _POD_SECONDS
    reason = run.reason if stalled else None
    return Verdict(seen.model_copy(update={"state": RunState.STARTING, "reason": reason}), stalled=stalled)


def _starting(run: Run, seen: RunChange, sight: Sight, image_wait: float) -> Verdict:
    for pod in sight.pods:
        reason, hopeless = _waiting(pod)
        if reason is None:
            continue
        if run.nodes > 1:
            reason = f"rank {rank(pod)}: {reason}"
        bound = _time((condition(pod, "PodScheduled") or {}).get("lastTransitionTime"))
        waited = (sight.now - bound).total_seconds() if bound else 0.0
        if hopeless or (bound and waited > image_wait and _stuck(pod)):
            return _final(run, seen, Ending(RunState.FAILED, reason), sight.now, remove_job=True)
        return Verdict(seen.model_copy(update={"state": RunState.STARTING, "reason": reason}))
    return Verdict(seen.model_copy(update={"state": RunState.STARTING, "reason": None}))


def _final(run: Run, seen: RunChange, ending: Ending, end: datetime, *, remove_job: bool = False) -> Verdict:
    """The run's end, or its next attempt if the cluster is to blame and the run may be tried again."""
    reason, again = ending.reason, None
    if ending.again:
        if seen.started_at and not run.requeue:
            reason = f"{reason}; with --requeue it would have been queued again"
        elif run.attempt >= MOST_ATTEMPTS and not ending.preempted:
            reason = f"{reason}, at attempt {run.attempt}: it is not tried again"
        else:
            again = reason
    finished = max(end, seen.started_at) if seen.started_at else end
    update = {"state": ending.state, "reason": reason, "finished_at": finished, "exit_code": ending.exit_code}
    return Verdict(seen.model_copy(update=update), remove_job=remove_job, again=again)


def _seen(change: RunChange, run: Run, pods: Sequence[KubeObject]) -> RunChange:
    """What the pods tell of nodes and start, kept when they are gone. A run has started when all have."""
    nodes = sorted({str(pod["spec"]["nodeName"]) for pod in pods if pod["spec"].get("nodeName")})
    starts = [start for pod in pods if (start := _started(pod))]
    begun = max(starts) if len(starts) == run.nodes else change.started_at
    return change.model_copy(update={"node": ",".join(nodes) or change.node, "started_at": begun})


def _ending_soon(pods: Sequence[KubeObject]) -> str | None:
    """A pod that is being ended has some seconds left to save what it has."""
    for pod in pods:
        if pod["metadata"].get("deletionTimestamp"):
            return f"its pod on {pod['spec'].get('nodeName') or 'its node'} is being ended"
    return None


def _waiting(pod: KubeObject) -> tuple[str | None, bool]:
    """Why a pod has not started, and whether it never will."""
    unbound = next(
        (
            c
            for c in pod.get("status", {}).get("conditions") or []
            if c["type"] == "PodScheduled" and c["status"] == "False"
        ),
        None,
    )
    if unbound:
        # What follows the first sentence is about preemption, which Kueue does and not the scheduler.
        message = line(unbound.get("message")).split(". ")[0]
        return f"no node has room for it now: {message}", False
    for status in _statuses(pod):
        waiting = status.get("state", {}).get("waiting") or {}
        why, message = waiting.get("reason"), line(waiting.get("message"))
        image = re.sub(r"@sha256:[0-9a-f]+$", "", str(status.get("image", "its image")))
        if why in _BROKEN:
            return f"image {image} cannot be used: {message}", True
        if why in _PULL:
            return f"image {image} cannot be pulled: {message}", False
        if why in _CONFIG:
            return f"could not be started: {message}", False
    return None, False


def _stuck(pod: KubeObject) -> bool:
    reasons = {(s.get("state", {}).get("waiting") or {}).get("reason") for s in _statuses(pod)}
    return bool(reasons & (_PULL | _CONFIG))


def _statuses(pod: KubeObject) -> Iterable[dict[str, Any]]:
    status = pod.get("status", {})
    yield from status.get("initContainerStatuses") or []
    yield from status.get("containerStatuses") or []


def _started(pod: KubeObject) -> datetime | None:
    state = container(pod)
    return _time((state.get("running") or state.get("terminated") or {}).get("startedAt"))


def _finished(pods: Sequence[KubeObject]) -> datetime | None:
    ends = [end for pod in pods if (end := _time((container(pod).get("terminated") or {}).get("finishedAt")))]
    return max(ends, default=None)


def _time(text: Any) -> datetime | None:
    # A container that never started "started" in 1970.
    if not isinstance(text, str) or text.startswith(("1970-", "0001-")):
        return None
    return datetime.fromisoformat(text)
