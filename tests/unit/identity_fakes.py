"""A directory and a cluster in memory, for the tests of members, projects and the controller."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from labcluster.errors import LabclusterError, NotFoundError, UnreachableError
from labcluster.models.members import Directory, Group, Member
from labcluster.models.projects import Project, ProjectSpec


def member(name: str, uid: int, **changes: Any) -> Member:
    """A member as the directory gives him."""
    return Member(name=name, uid=uid, full_name=name.title(), home=f"/lab/home/{name}").model_copy(
        update=changes
    )


def directory(people: Mapping[str, int], **groups: tuple[int, str]) -> Directory:
    """People by uid; projects as name=(gid, "member member")."""
    return Directory(
        members={name: member(name, uid) for name, uid in people.items()},
        groups={
            name: Group(name=name, gid=gid, members=tuple(users.split()))
            for name, (gid, users) in groups.items()
        },
    )


def project(name: str, gid: int, gpus: int = 0, most: int = 0, **changes: Any) -> Project:
    """A Project object."""
    spec = ProjectSpec(gid=gid, gpus=gpus, max_gpus=max(gpus, most), **changes)
    return Project(name=name, spec=spec, uid=f"uid-{name}", generation=1)


@dataclass
class FakeDirectory:
    """Implements services.members.DirectoryStore."""

    state: Directory = field(default_factory=Directory)
    passwords: dict[str, str] = field(default_factory=dict)
    away: bool = False
    reads: int = 0

    def read(self) -> Directory:
        self.reads += 1
        if self.away:
            raise UnreachableError("the directory does not answer")
        return self.state

    def add_member(self, member: Member) -> None:
        self._put(members={**self.state.members, member.name: member})

    def modify_member(self, old: Member, new: Member) -> None:
        assert self.state.members[old.name] == old
        self.add_member(new)

    def set_password(self, name: str, password: str) -> None:
        self.passwords[name] = password

    def has_password(self, name: str, password: str) -> bool:
        return self.passwords.get(name) == password

    def add_group(self, group: Group) -> None:
        self._put(groups={**self.state.groups, group.name: group})

    def modify_group(self, old: Group, new: Group) -> None:
        assert self.state.groups[old.name] == old
        self.add_group(new)

    def remove_group(self, group: Group) -> None:
        groups = {name: other for name, other in self.state.groups.items() if name != group.name}
        self._put(groups=groups, removed=(*self.state.removed, group.model_copy(update={"members": ()})))

    def _put(self, **changes: Any) -> None:
        self.state = self.state.model_copy(update=changes)


@dataclass
class FakeProjects:
    """Implements services.projects.ProjectStore."""

    specs: dict[str, ProjectSpec] = field(default_factory=dict)
    fails: bool = False

    def list(self) -> list[Project]:
        return [Project(name=name, spec=spec) for name, spec in self.specs.items()]

    def apply(self, name: str, spec: ProjectSpec) -> None:
        if self.fails:
            raise UnreachableError("the Kubernetes API does not answer")
        self.specs[name] = spec

    def remove(self, name: str) -> None:
        if self.fails:
            raise UnreachableError("the Kubernetes API does not answer")
        self.specs.pop(name, None)


class FakeApi:
    """The part of KubeApi that the controller writes by; apply replaces what it names, as owners do."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []
        self.deleted: list[str] = []
        self.applied: list[str] = []
        self.refused: dict[str, LabclusterError] = {}
        self._version = 0

    def apply(self, path: str, body: dict[str, Any], *, manager: str) -> dict[str, Any]:
        assert manager == "labcluster-controller"
        if path in self.refused:
            raise self.refused[path]
        self.applied.append(path)
        old = self.objects.get(path, {})
        stored = _merged(old, json.loads(json.dumps(body)))
        if stored == old:
            return copy.deepcopy(old)
        self._version += 1
        stored["metadata"]["resourceVersion"] = str(self._version)
        self.objects[path] = stored
        return copy.deepcopy(stored)

    def request(self, method: str, path: str, *, body: dict[str, Any], content_type: str) -> dict[str, Any]:
        assert (method, content_type) == ("PATCH", "application/merge-patch+json")
        for part, keys in body.items():
            for key in keys:
                del self.objects[path][part][key]
        self._version += 1
        self.objects[path]["metadata"]["resourceVersion"] = str(self._version)
        return copy.deepcopy(self.objects[path])

    def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        assert path.endswith("/events")
        self.events.append(body)
        return body

    def delete(self, path: str) -> dict[str, Any]:
        if path not in self.objects:
            raise NotFoundError(path)
        self.deleted.append(path)
        return self.objects.pop(path)


def _merged(old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}
    return new
