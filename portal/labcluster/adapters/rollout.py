"""Whether what a release consists of is there and works, and if not, which part and why."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from labcluster.adapters.kube import KubeApi
from labcluster.errors import LabclusterError, NotFoundError, UnreachableError

Json = dict[str, Any]

# The kinds that are looked at. Others (CRDs, RBAC) either exist or made Helm itself fail.
_PATHS = {
    "Deployment": "/apis/apps/v1/namespaces/{namespace}/deployments/{name}",
    "DaemonSet": "/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}",
    "StatefulSet": "/apis/apps/v1/namespaces/{namespace}/statefulsets/{name}",
    "Service": "/api/v1/namespaces/{namespace}/services/{name}",
    "ServiceAccount": "/api/v1/namespaces/{namespace}/serviceaccounts/{name}",
    "ConfigMap": "/api/v1/namespaces/{namespace}/configmaps/{name}",
    "PersistentVolumeClaim": "/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies/{name}",
    "APIService": "/apis/apiregistration.k8s.io/v1/apiservices/{name}",
}
WATCHED_KINDS = frozenset(_PATHS)
_POLL_SECONDS = 1.0
_LOG_LINES = 8
_EVENTS = 3


@dataclass(frozen=True)
class Part:
    """One object of a release, by what identifies it."""

    kind: str
    namespace: str
    name: str

    @property
    def path(self) -> str:
        return _PATHS[self.kind].format(namespace=self.namespace, name=self.name)

    def __str__(self) -> str:
        where = f"{self.namespace}/" if "{namespace}" in _PATHS[self.kind] else ""
        return f"{self.kind} {where}{self.name}"


class NotReadyError(LabclusterError):
    """A release was deployed and does not work; says which part of it, and what the cluster says about it."""

    title = "Not ready"


class Rollout:
    """Looks at the parts of releases in one cluster."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api

    def missing(self, parts: Iterable[Part]) -> list[Part]:
        """The parts that somebody deleted behind Helm's back."""
        return [part for part in parts if self._get(part) is None]

    def wait(self, parts: Iterable[Part], seconds: float) -> None:
        """Until every part works; `NotReadyError` with the reasons if that takes too long."""
        left = dict.fromkeys(parts, "")
        end = time.monotonic() + seconds
        while True:
            left = {part: why for part in left if (why := self._unready(part))}
            if not left:
                return
            if time.monotonic() >= end:
                break
            time.sleep(_POLL_SECONDS)
        reasons = [line for part, why in left.items() for line in (f"{part}: {why}", *self._diagnose(part))]
        raise NotReadyError(f"not ready after {seconds:.0f} s\n" + "\n".join(reasons))

    def _get(self, part: Part) -> Json | None:
        try:
            return self._api.get(part.path)
        except NotFoundError:
            return None

    def _unready(self, part: Part) -> str:
        try:
            item = self._get(part)
        except UnreachableError as error:  # an API server that restarts is waited for like everything else
            return error.detail
        return "does not exist" if item is None else unready(item, part.kind)

    def _diagnose(self, part: Part) -> list[str]:
        try:
            return self._details(part)
        except UnreachableError:
            return []

    def _details(self, part: Part) -> list[str]:
        item = self._get(part) or {}
        lines = [
            f"  {condition['reason']}: {condition['message']}"
            for condition in _conditions(item)
            if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True"
        ]
        labels = item.get("spec", {}).get("selector", {}).get("matchLabels")
        if part.kind in ("Deployment", "DaemonSet", "StatefulSet") and labels:
            selector = ",".join(f"{key}={value}" for key, value in labels.items())
            query = {"labelSelector": selector}
            pods = self._api.list(f"/api/v1/namespaces/{part.namespace}/pods", query=query)
            if not pods and not lines:
                lines = self._events(part.namespace, part.name) or ["  no pod was made for it"]
            for pod in pods:
                lines += self._diagnose_pod(part.namespace, pod)
        return lines

    def _diagnose_pod(self, namespace: str, pod: Json) -> list[str]:
        faults = pod_faults(pod)
        if not faults:
            return []
        name = pod["metadata"]["name"]
        node = pod.get("spec", {}).get("nodeName")
        lines = [f"  pod {name}{f' on {node}' if node else ''}:"]
        for container, fault in faults:
            lines.append(f"    {f'container {container}: ' if container else ''}{fault}")
            if container:
                lines += [f"      | {line}" for line in self._log(namespace, name, container, pod)]
        said = "\n".join(lines)
        events = [line for line in self._events(namespace, name) if line.partition(": ")[2] not in said]
        return lines + ["  " + line for line in events]

    def _log(self, namespace: str, pod: str, container: str, item: Json) -> list[str]:
        statuses = _statuses(item)
        state = next((status for status in statuses if status["name"] == container), {})
        # While it waits to be started again, what it said is the previous container's.
        previous = "waiting" in state.get("state", {}) and bool(state.get("restartCount"))
        query = {"container": container, "tailLines": _LOG_LINES, "previous": str(previous).lower()}
        try:
            stream = self._api.open(
                f"/api/v1/namespaces/{namespace}/pods/{pod}/log", query=query, idle_timeout=5.0
            )
        except LabclusterError:
            return []  # nothing ran yet, or its log is gone
        try:
            text = b"".join(stream.stream(65536)).decode(errors="replace")
        finally:
            stream.release_conn()
        return text.splitlines()[-_LOG_LINES:]

    def _events(self, namespace: str, name: str) -> list[str]:
        query = {"fieldSelector": f"involvedObject.name={name},type=Warning"}
        events = self._api.list(f"/api/v1/namespaces/{namespace}/events", query=query)
        events.sort(key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")
        last = events[-_EVENTS:]
        return [f"  event {event.get('reason')}: {event.get('message', '').strip()}" for event in last]


def unready(item: Mapping[str, Any], kind: str) -> str:
    """Why an object does not work yet, in a few words; empty when it does."""
    status = item.get("status", {})
    if kind in ("Deployment", "StatefulSet", "DaemonSet"):
        if status.get("observedGeneration", 0) < item["metadata"].get("generation", 0):
            return "its change is not seen yet"
        if kind == "DaemonSet":
            wanted = status.get("desiredNumberScheduled", 0)
            updated = status.get("updatedNumberScheduled", 0)
            available = status.get("numberAvailable", 0)
        else:
            wanted = item["spec"].get("replicas", 1)
            updated = status.get("updatedReplicas", 0)
            available = status.get("availableReplicas", 0)
        if updated < wanted:
            return f"{updated} of {wanted} pods are of the new version"
        if available < wanted:
            return f"{available} of {wanted} pods are ready"
        if kind == "Deployment" and status.get("replicas", 0) > updated:
            return f"{status['replicas'] - updated} pods of the old version are left"
    if kind == "PersistentVolumeClaim" and status.get("phase") != "Bound":
        return f"is {status.get('phase', 'new')}, not bound to its volume"
    if kind == "APIService":
        available = next((c for c in _conditions(item) if c.get("type") == "Available"), {})
        if available.get("status") != "True":
            return str(available.get("message") or "not available yet")
    return ""


def pod_faults(pod: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(container or "", what is wrong) for each fault of a pod that is not ready."""
    faults: list[tuple[str, str]] = []
    for condition in _conditions(pod):
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            faults.append(("", f"not scheduled: {condition.get('message', condition.get('reason'))}"))
    for status in _statuses(pod):
        waiting = status.get("state", {}).get("waiting")
        ended = status.get("state", {}).get("terminated") or status.get("lastState", {}).get("terminated")
        parts = []
        if waiting and waiting.get("reason") not in ("PodInitializing", "ContainerCreating"):
            parts.append(": ".join(filter(None, [waiting.get("reason"), waiting.get("message")])))
        elif waiting and waiting.get("reason") == "ContainerCreating":
            parts.append("is still being created")
        elif not status.get("ready") and "running" in status.get("state", {}):
            parts.append("runs, but its probe fails")
        if ended and ended.get("exitCode") != 0 and not status.get("ready"):
            parts.append(f"ended with {ended.get('exitCode')} ({ended.get('reason', 'Error')})")
        if parts:
            faults.append((status["name"], ", ".join(parts)))
    return faults


def _statuses(pod: Mapping[str, Any]) -> list[Json]:
    status = pod.get("status", {})
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def _conditions(item: Mapping[str, Any]) -> list[Json]:
    return item.get("status", {}).get("conditions") or []
