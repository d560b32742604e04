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

from labcluster.models.members import (
    MEMBER_NAME,
    MEMBER_UIDS,
    PROJECT_GIDS,
    Directory,
    Group,
    Member,
)
from labcluster.models.projects import Project
from labcluster.models.quantities import parse
from labcluster.models.settings import OutsideNetwork
from labcluster.services.manifests import GPU, Capacity, Object, cohort, impersonator, project_objects


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


def plan(
    directory: Directory,
    projects: Iterable[Project],
    capacity: Capacity,
    outside: Iterable[OutsideNetwork] = (),
) -> Plan:
    """Everything that the controller keeps in the cluster; `outside`: where pods may go besides."""
    outside = tuple(outside)
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

    objects: list[Object] = [cohort(projects, capacity), impersonator(members)]
    for project in projects:
        people = [members[name] for name in verdicts[project.name].members]
        objects += project_objects(project, people, gids_of, groups, outside)
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
        elif not member.disabled:  # one who is disabled is a member nowhere, and that is no fault
            accepted[name] = member
    return accepted, faults


def _judge(
    project: Project, directory: Directory, groups: Mapping[str, Group], members: Mapping[str, Member]
) -> Verdict:
    group = groups.get(project.name)
    if group:
        people = tuple(sorted(set(group.members) & members.keys()))
        disabled = {name for name, member in directory.members.items() if member.disabled}
        unknown = sorted(set(group.members) - members.keys() - disabled)
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
