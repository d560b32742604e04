"""The Kubernetes objects of a project, as they are applied: what each of them is for, and no decisions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from labcluster.models.labels import GANG as LABEL_GANG
from labcluster.models.members import Group, Member
from labcluster.models.projects import LABEL_PROJECT, Project
from labcluster.models.settings import OutsideNetwork

Object = dict[str, Any]

MANAGER = "labcluster-controller"
OWNED = {"app.kubernetes.io/managed-by": MANAGER}
OWNED_SELECTOR = f"app.kubernetes.io/managed-by={MANAGER}"

SYSTEM_NAMESPACE = "labcluster"
MEMBERS = "labcluster-members"
PASSWD = "labcluster-passwd"  # noqa: S105 - a ConfigMap
MEMBER_ROLE = "labcluster-member"
# Whom the portal acts as, after it has seen that the pod is the caller's own. The apiserver's authentication
# refuses a token that claims such a group, so that nobody else ever is in it.
SHELL = "labcluster-shell"
SHELL_GROUP = "labcluster:shell"
IMPERSONATOR_ROLE = "labcluster-impersonator"
QUEUE = "default"
COHORT = "lab"
# Made by chart `queues`: one kind of GPU, one flavor.
FLAVOR = "default"
CLAIM = "lab"
# Where the portal listens in its pod.
PORTAL_PORT = 8443
# Gives the pods of runs on several nodes names: <job>-<rank>.runs
GANGS = "runs"
GPU = "nvidia.com/gpu"

_KUEUE = "kueue.x-k8s.io/v1beta2"
_RBAC = "rbac.authorization.k8s.io"
# The tree is one for all projects and has its own quotas; a volume needs some size.
_TREE_SIZE = "1Ti"


@dataclass(frozen=True)
class Capacity:
    """What the nodes that take runs have together."""

    gpus: int = 0
    milli_cpus: int = 0
    memory_kib: int = 0


def _object(
    api_version: str,
    kind: str,
    name: str,
    namespace: str | None = None,
    project: str | None = None,
    **body: Any,
) -> Object:
    metadata: Object = {"name": name, "labels": dict(OWNED)}
    if namespace:
        metadata["namespace"] = namespace
    if project:
        metadata["labels"][LABEL_PROJECT] = project
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **body}


def _quota(gpus: int, *, most: int | None, milli_cpus: int = 0, memory_kib: int = 0) -> list[Object]:
    gpu: Object = {"name": GPU, "nominalQuota": str(gpus)}
    if most is not None:
        gpu["borrowingLimit"] = str(most - gpus)
    resources = [
        {"name": "cpu", "nominalQuota": f"{milli_cpus}m" if milli_cpus % 1000 else str(milli_cpus // 1000)},
        {"name": "memory", "nominalQuota": _binary(memory_kib)},
        gpu,
    ]
    return [
        {
            "coveredResources": [resource["name"] for resource in resources],
            "flavors": [{"name": FLAVOR, "resources": resources}],
        }
    ]


def _binary(kib: int) -> str:
    """A size in the form that Kubernetes writes it, so that what comes back compares equal."""
    units = ["Ki", "Mi", "Gi", "Ti", "Pi"]
    while kib and kib % 1024 == 0 and len(units) > 1:
        kib //= 1024
        units.pop(0)
    return f"{kib}{units[0]}" if kib else "0"


def cohort(projects: Iterable[Project], capacity: Capacity) -> Object:
    """What belongs to no project: all processors and memory, and the GPUs that nobody owns."""
    owned = sum(project.spec.gpus for project in projects)
    groups = _quota(
        max(0, capacity.gpus - owned),
        most=None,
        milli_cpus=capacity.milli_cpus,
        memory_kib=capacity.memory_kib,
    )
    return _object(_KUEUE, "Cohort", COHORT, spec={"resourceGroups": groups})


def impersonator(members: Mapping[str, Member]) -> Object:
    """Whom the portal may act for: members, by name. A rule without names would mean everybody."""
    names = sorted(members)
    rule = {"apiGroups": [""], "resources": ["users"], "verbs": ["impersonate"], "resourceNames": names}
    return _object(f"{_RBAC}/v1", "ClusterRole", IMPERSONATOR_ROLE, rules=[rule] if members else [])


def project_objects(
    project: Project,
    people: list[Member],
    gids_of: Mapping[str, list[int]],
    groups: Mapping[str, Group],
    outside: Iterable[OutsideNetwork] = (),
) -> list[Object]:
    name, namespace = project.name, project.namespace
    inside = {"namespace": namespace, "project": name}
    volume = f"lab-{name}"
    return [
        _namespace(project),
        _object("v1", "ConfigMap", MEMBERS, **inside, data=_parameters(project, people, gids_of)),
        _object("v1", "ConfigMap", PASSWD, **inside, data=_passwd(project, people, gids_of, groups)),
        _object(
            f"{_RBAC}/v1",
            "RoleBinding",
            MEMBERS,
            **inside,
            roleRef={"apiGroup": _RBAC, "kind": "ClusterRole", "name": MEMBER_ROLE},
            subjects=[{"apiGroup": _RBAC, "kind": "User", "name": member.name} for member in people],
        ),
        _object(
            f"{_RBAC}/v1",
            "RoleBinding",
            SHELL,
            **inside,
            roleRef={"apiGroup": _RBAC, "kind": "ClusterRole", "name": SHELL},
            subjects=[{"apiGroup": _RBAC, "kind": "Group", "name": SHELL_GROUP}],
        ),
        # No pod of a member needs a token, and the apiserver mounts one into each that leaves it open.
        _object("v1", "ServiceAccount", "default", **inside, automountServiceAccountToken=False),
        _cluster_queue(project),
        _object(_KUEUE, "LocalQueue", QUEUE, **inside, spec={"clusterQueue": namespace}),
        _object(
            "v1",
            "PersistentVolume",
            volume,
            project=name,
            spec={
                "capacity": {"storage": _TREE_SIZE},
                "accessModes": ["ReadWriteMany"],
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": "",
                "claimRef": {
                    "apiVersion": "v1",
                    "kind": "PersistentVolumeClaim",
                    "namespace": namespace,
                    "name": CLAIM,
                },
                "hostPath": {"path": "/lab", "type": "Directory"},
            },
        ),
        _object(
            "v1",
            "PersistentVolumeClaim",
            CLAIM,
            **inside,
            spec={
                "accessModes": ["ReadWriteMany"],
                "storageClassName": "",
                "volumeName": volume,
                "resources": {"requests": {"storage": _TREE_SIZE}},
            },
        ),
        _object(
            "v1",
            "Service",
            GANGS,
            **inside,
            spec={
                "clusterIP": "None",
                "selector": {LABEL_GANG: "true"},
                # The pods of a run look for one another while they start.
                "publishNotReadyAddresses": True,
            },
        ),
        _network_policy(inside, outside),
        _object(
            "v1",
            "ResourceQuota",
            "labcluster",
            **inside,
            spec={
                "hard": {
                    "count/jobs.batch": "10k",
                    "count/services": "100",
                    "persistentvolumeclaims": "1",
                    "services.loadbalancers": "0",
                    "services.nodeports": "0",
                }
            },
        ),
        _object(
            "v1",
            "LimitRange",
            "labcluster",
            **inside,
            spec={
                "limits": [
                    {
                        "type": "Container",
                        "default": {"cpu": "1", "memory": "1Gi"},
                        "defaultRequest": {"cpu": "100m", "memory": "128Mi"},
                    }
                ]
            },
        ),
    ]


def _namespace(project: Project) -> Object:
    found = _object("v1", "Namespace", project.namespace, project=project.name)
    for mode in ("enforce", "audit", "warn"):
        found["metadata"]["labels"][f"pod-security.kubernetes.io/{mode}"] = "restricted"
    return found


def _parameters(
    project: Project, people: Iterable[Member], gids_of: Mapping[str, list[int]]
) -> dict[str, str]:
    """What the admission policies go by. Keys that begin with a dot cannot be the names of members."""
    return {
        ".images": " ".join(project.spec.images),
        ".max-gpus": str(project.spec.max_gpus),
        **{
            member.name: f"{member.uid} {project.spec.gid} {','.join(map(str, gids_of[member.name]))}"
            for member in people
        },
    }


def _passwd(
    project: Project,
    people: Iterable[Member],
    gids_of: Mapping[str, list[int]],
    groups: Mapping[str, Group],
) -> dict[str, str]:
    """passwd and group for pods, so that whoami and ssh work in any image. In a pod the project's gid is
    the primary one."""
    people = list(people)
    passwd = ["root:x:0:0:root:/root:/usr/sbin/nologin", "nobody:x:65534:65534:nobody:/:/usr/sbin/nologin"]
    passwd += [
        f"{member.name}:x:{member.uid}:{project.spec.gid}:{_gecos(member.full_name)}:{member.home}:{member.shell}"
        for member in people
    ]
    names = {member.name for member in people}
    used = {gid for name in names for gid in gids_of[name]} | {project.spec.gid}
    lines = ["root:x:0:", "nogroup:x:65534:"]
    for group in sorted(groups.values(), key=lambda group: group.gid):
        if group.gid in used:
            lines.append(f"{group.name}:x:{group.gid}:{','.join(sorted(names & set(group.members)))}")
    return {"passwd": "\n".join(passwd) + "\n", "group": "\n".join(lines) + "\n"}


def _gecos(text: str) -> str:
    return "".join(letter for letter in text if letter not in ":,\n\r")


def _cluster_queue(project: Project) -> Object:
    return _object(
        _KUEUE,
        "ClusterQueue",
        project.namespace,
        project=project.name,
        spec={
            "cohortName": COHORT,
            "queueingStrategy": "BestEffortFIFO",
            "namespaceSelector": {"matchLabels": {LABEL_PROJECT: project.name}},
            "fairSharing": {"weight": str(project.spec.weight)},
            "preemption": {"reclaimWithinCohort": "Any", "withinClusterQueue": "LowerPriority"},
            "resourceGroups": _quota(project.spec.gpus, most=project.spec.max_gpus),
        },
    )


def _network_policy(inside: Mapping[str, str], outside: Iterable[OutsideNetwork]) -> Object:
    """Nobody reaches a project's pods, not even its own; they reach names, the portal and `outside`.

    The pods of one run talk to one another by a policy that is made with the run.
    """
    return _object(
        "networking.k8s.io/v1",
        "NetworkPolicy",
        "labcluster",
        namespace=inside["namespace"],
        project=inside["project"],
        spec={
            "podSelector": {},
            "policyTypes": ["Ingress", "Egress"],
            "egress": [
                {
                    "to": [_pods_of("kube-system", "k8s-app", "kube-dns")],
                    "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}],
                },
                {
                    "to": [_pods_of(SYSTEM_NAMESPACE, "app.kubernetes.io/name", "portal")],
                    "ports": [{"port": PORTAL_PORT, "protocol": "TCP"}],
                },
                *map(_outside, outside),
            ],
        },
    )


def _pods_of(namespace: str, label: str, value: str) -> Object:
    return {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "podSelector": {"matchLabels": {label: value}},
    }


def _outside(network: OutsideNetwork) -> Object:
    block: Object = {"cidr": network.cidr}
    if network.excluded:
        block["except"] = list(network.excluded)
    rule: Object = {"to": [{"ipBlock": block}]}
    if network.ports:
        rule["ports"] = [{"port": port, "protocol": "TCP"} for port in network.ports]
    return rule
