"""What nodes have, and how much of it is taken."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from labcluster.models import labels, quantities
from labcluster.models.nodes import NodeView
from labcluster.services.ports import KubeObject

GPU = "nvidia.com/gpu"
_CONTROL_PLANE = "node-role.kubernetes.io/control-plane"


@dataclass(frozen=True)
class Amount:
    """An amount of each thing that is shared out."""

    gpus: int = 0
    cpus: float = 0.0
    memory: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.gpus + other.gpus, self.cpus + other.cpus, self.memory + other.memory)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(
            self.gpus - other.gpus, max(0.0, self.cpus - other.cpus), max(0, self.memory - other.memory)
        )


def runs_users(node: KubeObject) -> bool:
    """Whether runs are ever placed here: the control plane is not for users."""
    taints = node.get("spec", {}).get("taints") or []
    return not any(t["key"] == _CONTROL_PLANE and t["effect"] != "PreferNoSchedule" for t in taints)


def capacity(node: KubeObject) -> Amount:
    """What a node offers to runs; nothing where no run is ever placed."""
    return _amount(node.get("status", {}).get("allocatable", {})) if runs_users(node) else Amount()


def ready(node: KubeObject) -> bool:
    """Whether the node is well and takes new runs."""
    conditions = node.get("status", {}).get("conditions") or []
    well = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
    return well and not node.get("spec", {}).get("unschedulable")


def list_nodes(nodes: Sequence[KubeObject], pods: Sequence[KubeObject]) -> list[NodeView]:
    """The nodes that can run something, with what is taken by all pods on them."""
    used: defaultdict[str, Amount] = defaultdict(Amount)
    runs: defaultdict[str, list[str]] = defaultdict(list)
    for pod in pods:
        node = pod["spec"].get("nodeName")
        if node and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
            used[node] += pod_amount(pod)
            run = pod["metadata"].get("labels", {}).get(labels.RUN)
            if run:
                runs[node].append(run)
    views = []
    for node in sorted(nodes, key=lambda n: str(n["metadata"]["name"])):
        if not runs_users(node):
            continue
        name = node["metadata"]["name"]
        has, takes = capacity(node), used[name]
        views.append(
            NodeView(
                name=name,
                ready=ready(node),
                gpus=has.gpus,
                gpus_used=takes.gpus,
                cpus=has.cpus,
                cpus_used=round(takes.cpus, 3),
                memory=has.memory,
                memory_used=takes.memory,
                runs=sorted(runs[name]),
            )
        )
    return views


def pod_amount(pod: KubeObject) -> Amount:
    """What the scheduler counts for a pod: containers and sidecars, or its largest init container."""
    spec = pod["spec"]
    together = Amount()
    first = spec.get("initContainers") or []
    sidecars = [container for container in first if container.get("restartPolicy") == "Always"]
    for container in [*spec.get("containers", []), *sidecars]:
        together += _requests(container)
    largest = [_requests(container) for container in first]
    return Amount(
        max([together.gpus, *(a.gpus for a in largest)]),
        max([together.cpus, *(a.cpus for a in largest)]),
        max([together.memory, *(a.memory for a in largest)]),
    )


def _requests(container: KubeObject) -> Amount:
    resources = container.get("resources") or {}
    return _amount({**(resources.get("limits") or {}), **(resources.get("requests") or {})})


def _amount(resources: KubeObject) -> Amount:
    return Amount(
        gpus=int(quantities.parse(resources.get(GPU, "0"))),
        cpus=quantities.parse(resources.get("cpu", "0")),
        memory=int(quantities.parse(resources.get("memory", "0"))),
    )
