"""How a run's pods can end: for each way the state, the sentence, and whether the cluster is to blame.

What the command does wrong ends the run. What the cluster does to it (a lost node, a drain, preemption) may
be tried again: always if the command had not begun, else if the run was submitted with --requeue.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from labcluster.models import labels
from labcluster.models.runs import Run, RunState
from labcluster.services.jobs import CONTAINER, RECORDER
from labcluster.services.ports import KubeObject


@dataclass(frozen=True)
class Ending:
    """One way to end."""

    state: RunState
    reason: str | None = None
    exit_code: int | None = None
    # The cluster's doing: another attempt may go better.
    again: bool = False
    # By the queue's own rules, which may happen any number of times.
    preempted: bool = False


# Why Kubernetes itself ended a pod, by the reason of its DisruptionTarget condition.
_DISRUPTIONS = {
    "DeletionByTaintManager": (RunState.LOST, "node {node} was lost while it ran"),
    "DeletionByPodGC": (RunState.LOST, "node {node} was removed while it ran"),
    "EvictionByEvictionAPI": (RunState.FAILED, "node {node} was drained while it ran"),
    "PreemptionByScheduler": (RunState.FAILED, "it had to give way to a more important pod on {node}"),
    "TerminationByKubelet": (RunState.FAILED, "node {node} shut down or ran short of memory or disk"),
}
# Disruptions after which nothing more is heard of the pod: its node is gone.
LOSSES = frozenset({"DeletionByTaintManager", "DeletionByPodGC"})

# Why Kueue took a run's place, by the reason of its workload's Preempted condition.
_PREEMPTIONS = {
    "InClusterQueue": "preempted: its project needed the place for a run of higher priority",
    "InCohortReclamation": "preempted: another project took back what it had lent",
    "InCohortFairSharing": "preempted: another project had less than its share",
    "InCohortReclaimWhileBorrowing": "preempted: another project took back what it had lent",
}

# The container is gone and nobody saw how it ended: its node was restarted.
_UNSEEN = frozenset({"ContainerStatusUnknown", "Unknown"})


def condition(thing: KubeObject | None, kind: str) -> dict[str, Any] | None:
    """The condition of that type if it is true."""
    for entry in (thing or {}).get("status", {}).get("conditions") or []:
        if entry["type"] == kind and entry["status"] == "True":
            return dict(entry)
    return None


def disruption(pod: KubeObject) -> str | None:
    """Why Kubernetes ends this pod, if it does."""
    found = condition(pod, "DisruptionTarget")
    return str(found.get("reason")) if found else None


def container(pod: KubeObject) -> dict[str, Any]:
    """The state of the pod's main container: at most one of waiting, running, terminated."""
    for status in pod.get("status", {}).get("containerStatuses") or []:
        if status["name"] == CONTAINER:
            return dict(status.get("state") or {})
    return {}


def exited(pod: KubeObject) -> KubeObject | None:
    """How the command ended by itself: not one that was ended with its pod, for a reason of the cluster's."""
    if pod["metadata"].get("deletionTimestamp") or condition(pod, "DisruptionTarget"):
        return None
    if pod.get("status", {}).get("reason") == "Evicted":
        return None
    end = container(pod).get("terminated")
    return dict(end) if end and end.get("reason") not in _UNSEEN else None


def rank(pod: KubeObject) -> int:
    """Which of the run's pods it is."""
    return int(pod["metadata"].get("labels", {}).get(labels.RANK, 0))


def of_exits(run: Run, pods: Sequence[KubeObject]) -> Ending | None:
    """How a run ended whose commands have ended by themselves; None while it goes on."""
    ends = [(end, pod) for pod in pods if (end := exited(pod))]
    for end, _ in ends:
        if _ended_by(end) == "time_limit":
            return Ending(RunState.TIMED_OUT, _time_is_up(run, end), end["exitCode"])
    failed = [(end, pod) for end, pod in ends if end["exitCode"] != 0]
    if failed:
        end, pod = min(failed, key=lambda pair: str(pair[0].get("finishedAt")))
        return _which(run, pod, Ending(RunState.FAILED, _exit_reason(run, end), end["exitCode"]))
    if len(ends) == run.nodes:
        return Ending(RunState.SUCCEEDED, None, 0)
    return None


def of_loss(pods: Iterable[KubeObject]) -> Ending | None:
    """The end of a run that has a pod on a lost node, of which nothing more will be heard."""
    for pod in pods:
        reason = disruption(pod)
        if reason in LOSSES:
            state, sentence = _DISRUPTIONS[reason]
            return Ending(state, sentence.format(node=_node(pod)), again=True)
    return None


def of_failed_job(run: Run, failed: KubeObject, pods: Sequence[KubeObject]) -> Ending:
    """Why Kubernetes says that the Job has failed."""
    if failed.get("reason") == "DeadlineExceeded":
        limit = clock(run.time_seconds)
        reason = f"stopped by the cluster: it did not end by itself at its time limit of {limit}"
        return Ending(RunState.TIMED_OUT, reason)
    if not pods:
        return Ending(RunState.FAILED, "its pod was removed before its end was seen")
    pod = _to_blame(pods)
    return of_exits(run, [pod]) or _which(run, pod, _of_pod(run, pod, failed))


def of_eviction(workload: KubeObject | None) -> Ending:
    """Why the queue took back what a run had."""
    preempted = condition(workload, "Preempted")
    if preempted:
        reason = _PREEMPTIONS.get(str(preempted.get("reason")), "preempted by the queue")
        return Ending(RunState.FAILED, reason, again=True, preempted=True)
    evicted = condition(workload, "Evicted") or {}
    if evicted.get("reason") == "PodsReadyTimeout":
        why = "not all of its pods could be started in time"
    else:
        why = line(evicted.get("message")) or "an administrator stopped the queue"
    return Ending(RunState.FAILED, f"put back by the queue: {why}", again=True, preempted=True)


def _of_pod(run: Run, pod: KubeObject, failed: KubeObject) -> Ending:
    """The end of a pod that did not end by its command's own will."""
    node, status = _node(pod), pod.get("status", {})
    said = line(status.get("message"))
    code = (container(pod).get("terminated") or {}).get("exitCode")
    if status.get("reason") == "Evicted":
        if re.search(r"exceed", said):
            own = "it wrote too much to the node's own disk; write to /lab instead"
            return Ending(RunState.FAILED, f"evicted from {node}: {own} ({said})", code)
        return Ending(RunState.FAILED, f"evicted from {node}: {said}", code, again=True)
    reason = disruption(pod)
    if reason in _DISRUPTIONS:
        state, sentence = _DISRUPTIONS[reason]
        return Ending(state, sentence.format(node=node), code, again=True)
    end = container(pod).get("terminated")
    if end and end.get("reason") in _UNSEEN:
        return Ending(RunState.LOST, f"node {node} was restarted while it ran", again=True)
    if end:
        return Ending(RunState.FAILED, _exit_reason(run, end), code)
    prepare = _failed_init(pod)
    if prepare:
        told = line(prepare.get("message")) or f"exit code {prepare['exitCode']}"
        return Ending(RunState.FAILED, f"it could not be prepared: {told}")
    if status.get("reason"):
        # The kubelet refused it: UnexpectedAdmissionError, OutOfcpu, NodeShutdown, …
        return Ending(RunState.LOST, f"node {node} could not take it: {said or status['reason']}", again=True)
    return Ending(RunState.FAILED, line(failed.get("message")) or "its pod failed")


def _to_blame(pods: Sequence[KubeObject]) -> KubeObject:
    """The pod that began it: one that the cluster ended, else the first that failed by itself."""
    disrupted = [pod for pod in pods if disruption(pod)]
    failed = [
        pod
        for pod in pods
        if pod.get("status", {}).get("phase") == "Failed" and not pod["metadata"].get("deletionTimestamp")
    ]
    alone = [pod for pod in pods if (end := exited(pod)) and end["exitCode"] != 0]
    candidates = disrupted or alone or failed or pods
    return min(
        candidates, key=lambda pod: str((container(pod).get("terminated") or {}).get("finishedAt", "~"))
    )


def _which(run: Run, pod: KubeObject, ending: Ending) -> Ending:
    """With several pods it must be said which one."""
    if run.nodes == 1:
        return ending
    return replace(ending, reason=f"rank {rank(pod)} on {_node(pod)}: {ending.reason}")


def _ended_by(end: KubeObject) -> str | None:
    """What labrun left as its last word; a program may have written there too."""
    try:
        said = json.loads(str(end.get("message", "")))
        return str(said.get("ended_by"))
    except (ValueError, AttributeError):
        return None


def _time_is_up(run: Run, end: KubeObject) -> str:
    limit = f"stopped at its time limit of {clock(run.time_seconds)}"
    if end["exitCode"] == 137:
        return f"{limit}: it did not end when it was warned, and was killed"
    return f"{limit}: it was warned and ended" + ("" if end["exitCode"] in (0, 143) else f" ({_code(end)})")


def _exit_reason(run: Run, end: KubeObject) -> str:
    code, why, message = end["exitCode"], end.get("reason"), str(end.get("message", ""))
    if why == "OOMKilled":
        return f"out of memory: it used more than its --memory {run.memory}"
    if why in ("StartError", "ContainerCannotRun"):
        if "chdir" in message or "mkdir" in message:
            return f"its working directory {run.workdir} does not exist or is not readable for {run.user}"
        return f"could not be started: {line(message)}"
    if code == 127:
        return f"command not found: {run.command[0]}"
    if code == 126:
        return f"command cannot be executed: {run.command[0]}"
    return _code(end)


def _code(end: KubeObject) -> str:
    code = end["exitCode"]
    if code > 128:
        try:
            name = signal.Signals(code - 128).name
        except ValueError:
            return f"ended with exit code {code}"
        return f"ended by {name}" + (", perhaps out of memory" if code == 137 else "")
    return f"ended with exit code {code}"


def _failed_init(pod: KubeObject) -> KubeObject | None:
    for status in pod.get("status", {}).get("initContainerStatuses") or []:
        end = status.get("state", {}).get("terminated")
        # How the recorder ended says nothing of the run.
        if end and end["exitCode"] != 0 and status["name"] != RECORDER:
            return dict(end)
    return None


def _node(pod: KubeObject) -> str:
    return str(pod["spec"].get("nodeName") or "its node")


def line(text: Any) -> str:
    """One line of at most 300 characters."""
    words = " ".join(str(text or "").split())
    return words if len(words) <= 300 else words[:299] + "…"


def clock(seconds: int | None) -> str:
    """A duration as h:mm:ss."""
    if not seconds:
        return "its project"
    hours, rest = divmod(seconds, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
