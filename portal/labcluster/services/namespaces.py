"""What every project is in Kubernetes: from directory, Projects and nodes to the full list of objects.

Pure: the same input gives the same objects, and the controller makes the cluster equal to them.

Whoever can write the directory decides who somebody is, so that each entry is judged before it counts:
uids and gids out of range, shared by two, or not those that the project's files carry, make nobody a
member. It is better to lock somebody out, and say so, than to let him in as somebody else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from labcluster.models.members import (
    MEMBER_NAME,
    MEMBER_UIDS,
    PROJECT_GIDS,
    Directory,
    Group,
    Member,
)
from labcluster.models.projects import LABEL_PROJECT, Project
from labcluster.models.quantities import parse

Object = dict[str, Any]

MANAGER = "labcluster-controller"
OWNED = {"app.kubernetes.io/managed-by": MANAGER}
OWNED_SELECTOR = f"app.kubernetes.io/managed-by={MANAGER}"

SYSTEM_NAMESPACE = "labcluster"
MEMBERS = "labcluster-members"
PASSWD = "labcluster-passwd"  # noqa: S105 - a ConfigMap
MEMBER_ROLE = "labcluster-member"
IMPERSONATOR_ROLE = "labcluster-impersonator"
QUEUE = "default"
COHORT = "lab"
# Made by chart `queues`: one kind of GPU, one flavor.
FLAVOR = "default"
CLAIM = "lab"
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


@dataclass(frozen=True)
class Verdict:
    """What is to be said of one project."""

    members: tuple[str, ...]
    reason: str = "Reconciled"
    message: str = "everything is as the directory and the Project say"

    @property
    def ready(self) -> bool:
        """Whether there is nothing to complain of."""
        return self.reason == "Reconciled"


@dataclass(frozen=True)
class Plan:
    """What there must be, and what is to be said about it."""

    objects: tuple[Object, ...]
    verdicts: Mapping[str, Verdict]
    faults: tuple[str, ...] = field(default=())


def plan(directory: Directory, projects: Iterable[Project], capacity: Capacity) -> Plan:
    """Everything that the controller keeps in the cluster."""
    projects = sorted(projects, key=lambda project: project.name)
    members, faults = _accepted(directory)
    gids = Counter(project.spec.gid for project in projects)
    groups = {
        project.name: directory.groups[project.name]
        for project in projects
        if project.name in directory.groups
        and directory.groups[project.name].gid == project.spec.gid
        and project.spec.gid in PROJECT_GIDS
        and gids[project.spec.gid] == 1
    }
    verdicts = {project.name: _judge(project, directory, groups, members) for project in projects}
    gids_of = _gids_by_member(groups, members)

    objects: list[Object] = [_cohort(projects, capacity), _impersonator(members)]
    for project in projects:
        people = [members[name] for name in verdicts[project.name].members]
        objects += _project_objects(project, people, gids_of, groups)
    return Plan(tuple(objects), verdicts, tuple(faults))


def node_capacity(nodes: Iterable[Object]) -> Capacity:
    """The sum over nodes that take runs: ready, not cordoned, no part of the control plane."""
    gpus = milli_cpus = memory = 0
    for node in nodes:
        spec, status = node.get("spec", {}), node.get("status", {})
        ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or [])
        kept_away = any(
            taint.get("effect") in ("NoSchedule", "NoExecute")
            and taint["key"].startswith("node-role.kubernetes.io/")
            for taint in spec.get("taints") or []
        )
        if not ready or kept_away or spec.get("unschedulable"):
            continue
        allocatable = status.get("allocatable", {})
        gpus += int(parse(allocatable.get(GPU, "0")))
        milli_cpus += int(parse(allocatable.get("cpu", "0")) * 1000)
        memory += int(parse(allocatable.get("memory", "0")))
    return Capacity(gpus, milli_cpus, memory // 1024)


def _accepted(directory: Directory) -> tuple[dict[str, Member], list[str]]:
    """Those entries under ou=people that may be somebody, and what is wrong with the others."""
    owners = Counter(member.uid for member in directory.members.values())
    accepted: dict[str, Member] = {}
    faults: list[str] = []
    for name, member in sorted(directory.members.items()):
        if not MEMBER_NAME.fullmatch(name):
            faults.append(f"LDAP entry {name!r} is ignored: its name cannot be that of a member")
        elif member.uid not in MEMBER_UIDS:
            faults.append(
                f"LDAP entry {name!r} is ignored: uidNumber {member.uid} is not between "
                f"{MEMBER_UIDS.start} and {MEMBER_UIDS.stop - 1}"
            )
        elif owners[member.uid] > 1:
            faults.append(f"LDAP entry {name!r} is ignored: uidNumber {member.uid} belongs to another too")
        else:
            accepted[name] = member
    return accepted, faults


def _judge(
    project: Project, directory: Directory, groups: Mapping[str, Group], members: Mapping[str, Member]
) -> Verdict:
    group = groups.get(project.name)
    if group:
        people = tuple(sorted(set(group.members) & members.keys()))
        unknown = sorted(set(group.members) - members.keys())
        if unknown:
            return Verdict(people, "UnknownMembers", f"no usable LDAP entry for {', '.join(unknown)}")
        return Verdict(people)
    found = directory.groups.get(project.name)
    if found is None:
        message = f"LDAP has no group cn={project.name} under ou=projects, so that nobody is a member"
        return Verdict((), "GroupMissing", message)
    if found.gid != project.spec.gid:
        message = (
            f"the group has gidNumber {found.gid} in LDAP, but the project's files carry "
            f"{project.spec.gid}; nobody is a member until they agree"
        )
        return Verdict((), "GidMismatch", message)
    message = f"gid {project.spec.gid} is out of range or belongs to another project too"
    return Verdict((), "GidNotUsable", message)


def _gids_by_member(groups: Mapping[str, Group], members: Mapping[str, Member]) -> dict[str, list[int]]:
    gids: dict[str, list[int]] = {name: [] for name in members}
    for group in groups.values():
        for name in set(group.members) & members.keys():
            gids[name].append(group.gid)
    return {name: sorted(numbers) for name, numbers in gids.items()}


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


def _cohort(projects: Iterable[Project], capacity: Capacity) -> Object:
    """What belongs to no project: all processors and memory, and the GPUs that nobody owns."""
    owned = sum(project.spec.gpus for project in projects)
    groups = _quota(
        max(0, capacity.gpus - owned),
        most=None,
        milli_cpus=capacity.milli_cpus,
        memory_kib=capacity.memory_kib,
    )
    return _object(_KUEUE, "Cohort", COHORT, spec={"resourceGroups": groups})


def _impersonator(members: Mapping[str, Member]) -> Object:
    """Whom the portal may act for: members, by name. A rule without names would mean everybody."""
    names = sorted(members)
    rule = {"apiGroups": [""], "resources": ["users"], "verbs": ["impersonate"], "resourceNames": names}
    return _object(f"{_RBAC}/v1", "ClusterRole", IMPERSONATOR_ROLE, rules=[rule] if members else [])


def _project_objects(
    project: Project,
    people: list[Member],
    gids_of: Mapping[str, list[int]],
    groups: Mapping[str, Group],
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
        _network_policy(inside),
        _object(
            "v1",
            "ResourceQuota",
            "labcluster",
            **inside,
            spec={
                "hard": {
                    "count/jobs.batch": "10k",
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


def _network_policy(inside: Mapping[str, str]) -> Object:
    """Pods of a project reach one another, names, and the portal; nobody else reaches them."""
    same_project: list[Object] = [{"podSelector": {}}]
    dns = {
        "to": [
            {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
                "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
            }
        ],
        "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}],
    }
    services = {
        "to": [
            {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": SYSTEM_NAMESPACE}},
                "podSelector": {
                    "matchExpressions": [
                        {"key": "app.kubernetes.io/name", "operator": "In", "values": ["portal", "mlflow"]}
                    ]
                },
            }
        ]
    }
    return _object(
        "networking.k8s.io/v1",
        "NetworkPolicy",
        "labcluster",
        namespace=inside["namespace"],
        project=inside["project"],
        spec={
            "podSelector": {},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": same_project}],
            "egress": [{"to": same_project}, dns, services],
        },
    )
