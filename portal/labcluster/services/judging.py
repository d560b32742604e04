"""What the objects of a run's Job mean for the run: its state, and the sentence that says why."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from labcluster.models.runs import Run, RunChange, RunState
from labcluster.services.jobs import CONTAINER
from labcluster.services.ports import KubeObject

_PULL = frozenset({"ErrImagePull", "ImagePullBackOff", "RegistryUnavailable"})
_BROKEN = frozenset({"InvalidImageName", "ErrImageNeverPull"})
_CONFIG = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})

# A pod is made within a second; after this something refuses it.
_POD_SECONDS = 10.0

# Why Kubernetes itself ended a pod, by the reason of its DisruptionTarget condition.
_DISRUPTIONS = {
    "DeletionByTaintManager": (RunState.LOST, "node {node} was lost while it ran"),
    "DeletionByPodGC": (RunState.LOST, "node {node} was removed while it ran"),
    "EvictionByEvictionAPI": (RunState.FAILED, "node {node} was drained while it ran"),
    "PreemptionByScheduler": (RunState.FAILED, "it had to give way to a more important pod on {node}"),
    "TerminationByKubelet": (RunState.FAILED, "node {node} shut down or ran short of memory or disk"),
}


@dataclass(frozen=True)
class Verdict:
    """The row as it should be, and what else there is to do about it."""

    change: RunChange
    # The Job must go although Kubernetes would keep it.
    remove_job: bool = False
    # Kubernetes should have made a pod by now: its events say why not.
    stalled: bool = False


def judge(run: Run, job: KubeObject, pod: KubeObject | None, now: datetime, image_wait: float) -> Verdict:
    """The state of a run whose Job exists."""
    complete, failed = condition(job, "Complete"), condition(job, "Failed")
    before = RunChange.of(run)
    seen = _seen(before, pod)
    if complete:
        end = _time(job["status"].get("completionTime")) or now
        return _final(seen, RunState.SUCCEEDED, None, _finished(pod) or end, 0)
    if failed:
        state, why, code = _failure(run, failed, pod)
        end = _time(failed.get("lastTransitionTime")) or now
        return _final(seen, state, why, _finished(pod) or end, code)
    if job["spec"].get("suspend"):
        empty = {"reason": run.reason, "started_at": None, "node": None, "exit_code": None}
        return Verdict(before.model_copy(update={"state": RunState.QUEUED, **empty}))
    exited = ended(pod)
    if exited and not condition(job, "FailureTarget"):
        # Kubernetes takes two more seconds to say it of the pod and of the Job.
        code, final = exited["exitCode"], _finished(pod) or now
        if code == 0:
            return _final(seen, RunState.SUCCEEDED, None, final, 0)
        return _final(seen, RunState.FAILED, _exit_reason(run, exited), final, code)
    if pod is None:
        begun = _time(job.get("status", {}).get("startTime"))
        waited = (now - begun).total_seconds() if begun else 0.0
        if waited > image_wait:
            verdict = _final(seen, RunState.FAILED, run.reason or "its pod was never made", now, None)
            return Verdict(verdict.change, remove_job=True)
        stalled = waited > _POD_SECONDS
        reason = run.reason if stalled else None
        return Verdict(
            seen.model_copy(update={"state": RunState.STARTING, "reason": reason}), stalled=stalled
        )
    status = _container(pod)
    if (status or {}).get("state", {}).keys() & {"running", "terminated"} and _started(pod):
        return Verdict(seen.model_copy(update={"state": RunState.RUNNING, "reason": None}))
    reason, hopeless = _waiting(pod)
    bound = _time((condition(pod, "PodScheduled") or {}).get("lastTransitionTime"))
    waited = (now - bound).total_seconds() if bound else 0.0
    if reason and (hopeless or (bound and waited > image_wait and _stuck(pod))):
        verdict = _final(seen, RunState.FAILED, reason, now, None)
        return Verdict(verdict.change, remove_job=True)
    return Verdict(seen.model_copy(update={"state": RunState.STARTING, "reason": reason}))


def ended(pod: KubeObject | None) -> KubeObject | None:
    """How the command ended by itself: not one that was ended with its pod, for a reason of the cluster's."""
    if pod is None or pod["metadata"].get("deletionTimestamp") or condition(pod, "DisruptionTarget"):
        return None
    end = (_container(pod) or {}).get("state", {}).get("terminated")
    return dict(end) if end and end.get("reason") != "ContainerStatusUnknown" else None


def condition(thing: KubeObject, kind: str) -> dict[str, Any] | None:
    """The condition of that type if it is true."""
    for entry in thing.get("status", {}).get("conditions") or []:
        if entry["type"] == kind and entry["status"] == "True":
            return dict(entry)
    return None


def _final(seen: RunChange, state: RunState, reason: str | None, end: datetime, code: int | None) -> Verdict:
    started = seen.started_at
    finished = max(end, started) if started else end
    return Verdict(
        seen.model_copy(update={"state": state, "reason": reason, "finished_at": finished, "exit_code": code})
    )


def _seen(change: RunChange, pod: KubeObject | None) -> RunChange:
    """What the pod tells of node and start, kept when the pod is gone."""
    if pod is None:
        return change
    node = pod["spec"].get("nodeName") or change.node
    return change.model_copy(update={"node": node, "started_at": _started(pod) or change.started_at})


def _failure(run: Run, failed: KubeObject, pod: KubeObject | None) -> tuple[RunState, str, int | None]:
    last = ((_container(pod) or {}).get("state", {}).get("terminated") or {}) if pod else {}
    code = last.get("exitCode")
    if failed.get("reason") == "DeadlineExceeded":
        return RunState.TIMED_OUT, f"stopped at its time limit of {_duration(run.time_seconds)}", code
    if pod is None:
        return RunState.FAILED, "its pod was removed before its end was seen", None
    node = pod["spec"].get("nodeName") or "its node"
    disruption = condition(pod, "DisruptionTarget")
    if disruption and disruption.get("reason") in _DISRUPTIONS:
        state, sentence = _DISRUPTIONS[disruption["reason"]]
        return state, sentence.format(node=node), code
    why = pod.get("status", {}).get("reason")
    if why == "Evicted":
        return RunState.FAILED, f"evicted from {node}: {_line(pod['status'].get('message'))}", code
    if why in ("NodeLost", "NodeShutdown", "Terminated", "UnexpectedAdmissionError"):
        return RunState.LOST, f"node {node} could not keep it: {_line(pod['status'].get('message'))}", code
    prepare = _ended_init(pod)
    if prepare:
        said = _line(prepare.get("message")) or f"exit code {prepare['exitCode']}"
        return RunState.FAILED, f"it could not be prepared: {said}", None
    if not last:
        return RunState.FAILED, _line(failed.get("message")) or "its pod failed", None
    return RunState.FAILED, _exit_reason(run, last), code


def _exit_reason(run: Run, end: KubeObject) -> str:
    code, why, message = end["exitCode"], end.get("reason"), str(end.get("message", ""))
    if why == "OOMKilled":
        return f"out of memory: it used more than its --memory {run.memory}"
    if why in ("StartError", "ContainerCannotRun"):
        if "chdir" in message or "mkdir" in message:
            return f"its working directory {run.workdir} does not exist or is not readable for {run.user}"
        return f"could not be started: {_line(message)}"
    if code == 127:
        return f"command not found: {run.command[0]}"
    if code == 126:
        return f"command cannot be executed: {run.command[0]}"
    if code > 128:
        try:
            name = signal.Signals(code - 128).name
        except ValueError:
            return f"ended with exit code {code}"
        return f"ended by {name}" + (", perhaps out of memory" if code == 137 else "")
    return f"ended with exit code {code}"


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
        message = _line(unbound.get("message")).split(". ")[0]
        return f"no node has room for it now: {message}", False
    for status in _statuses(pod):
        waiting = status.get("state", {}).get("waiting") or {}
        why, message = waiting.get("reason"), _line(waiting.get("message"))
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


def _container(pod: KubeObject) -> dict[str, Any] | None:
    for status in pod.get("status", {}).get("containerStatuses") or []:
        if status["name"] == CONTAINER:
            return dict(status)
    return None


def _ended_init(pod: KubeObject) -> dict[str, Any] | None:
    for status in pod.get("status", {}).get("initContainerStatuses") or []:
        ended = status.get("state", {}).get("terminated")
        if ended and ended["exitCode"] != 0:
            return dict(ended)
    return None


def _started(pod: KubeObject) -> datetime | None:
    state = (_container(pod) or {}).get("state", {})
    return _time((state.get("running") or state.get("terminated") or {}).get("startedAt"))


def _finished(pod: KubeObject | None) -> datetime | None:
    state = ((_container(pod) or {}) if pod else {}).get("state", {})
    return _time((state.get("terminated") or {}).get("finishedAt"))


def _time(text: Any) -> datetime | None:
    # A container that never started "started" in 1970.
    if not isinstance(text, str) or text.startswith(("1970-", "0001-")):
        return None
    return datetime.fromisoformat(text)


def _line(text: Any) -> str:
    """One line of at most 300 characters."""
    line = " ".join(str(text or "").split())
    return line if len(line) <= 300 else line[:299] + "…"


def _duration(seconds: int | None) -> str:
    if not seconds:
        return "its project"
    hours, rest = divmod(seconds, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
