"""Pods that a dead node would keep for ever.

A pod ends when its node says so. A node that is gone says nothing: the pod stays, and with it the GPUs in the
books and the Job that a next attempt waits for. After the time that a run stays with a silent node anyway,
the pod is taken off the books. The node may only be cut off and the command still run: then labrun ends it
when the next attempt claims the run's folder, and kubelet when the node comes back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from labcluster.services.ports import KubeObject

# After its time to end is over a pod gets so long to be reported gone.
_LATE = timedelta(seconds=10)
_NAMESPACES = "project-"


def unreachable_pods(
    pods: Iterable[KubeObject], nodes: Sequence[KubeObject], now: datetime, patience: timedelta
) -> list[KubeObject]:
    """Pods of projects that were to be gone by now, on nodes that have been silent for `patience`."""
    answering = {node["metadata"]["name"] for node in nodes if not _silent(node, now, patience)}
    return [
        pod
        for pod in pods
        if pod["metadata"]["namespace"].startswith(_NAMESPACES)
        and pod["metadata"].get("deletionTimestamp")
        and now - datetime.fromisoformat(pod["metadata"]["deletionTimestamp"]) > _LATE
        and pod["spec"].get("nodeName")
        and pod["spec"]["nodeName"] not in answering
    ]


def _silent(node: KubeObject, now: datetime, patience: timedelta) -> bool:
    for condition in node.get("status", {}).get("conditions") or []:
        if condition["type"] == "Ready" and condition["status"] != "True":
            since = condition.get("lastTransitionTime")
            return since is None or now - datetime.fromisoformat(since) >= patience
    return False
