"""Projects: a group in the directory and a Project object in the cluster, made and changed together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from labcluster.errors import ConflictError, NotFoundError, UsageError
from labcluster.models.members import PROJECT_GIDS, PROJECT_NAME, Change, Directory, Group
from labcluster.models.projects import Project, ProjectRequest, ProjectSpec, ProjectView
from labcluster.services.members import DirectoryStore, lowest_free, require_member

# Folders of the registry that belong to no project.
_RESERVED = frozenset({"common", "labcluster"})


class ProjectStore(Protocol):
    """The Project objects, as `adapters.projects` offers them."""

    def list(self) -> list[Project]: ...
    def apply(self, name: str, spec: ProjectSpec) -> None: ...


def validate_project_name(name: str) -> None:
    """Refuse what cannot be a group, a namespace and a part of a path at the same time."""
    if not PROJECT_NAME.fullmatch(name):
        raise UsageError(
            f"project name {name!r}: use 1 to 40 of a-z, 0-9 and '-', beginning with a letter and ending "
            "with a letter or digit"
        )
    if name in _RESERVED:
        raise UsageError(f"project name {name!r} is taken by the registry; choose another")


def ensure_project(
    store: DirectoryStore,
    projects: ProjectStore,
    name: str,
    request: ProjectRequest,
    *,
    dry_run: bool = False,
) -> Change:
    """Make or change a project so that it is as `request` says.

    The group comes first: it gives the gid. When we are interrupted in between, the next call finds the
    group and makes the object with the same gid.
    """
    validate_project_name(name)
    directory = store.read()
    known = {project.name: project for project in projects.list()}
    if request.owner is not None:
        require_member(directory, request.owner)
    group, old = directory.groups.get(name), known.get(name)
    if group and old and group.gid != old.spec.gid:
        raise ConflictError(
            f"project {name} has gid {old.spec.gid} in the cluster but {group.gid} in LDAP: "
            "its files carry one of them; set the group's gidNumber back"
        )
    actions: list[str] = []
    if group is None:
        if name in directory.members:
            raise ConflictError(f"{name!r} is a member; a project needs another name")
        gid = old.spec.gid if old else lowest_free(_gids(directory, known.values()), PROJECT_GIDS, "gid")
        group = Group(name=name, gid=gid, description=request.description)
        actions.append(f"add project {name} with gid {gid} to the directory")
        if not dry_run:
            store.add_group(group)
    elif group.description != request.description:
        actions.append(f"change the description of project {name}")
        if not dry_run:
            store.modify_group(group, group.model_copy(update={"description": request.description}))
    spec = ProjectSpec(
        description=request.description,
        owner=request.owner,
        gid=group.gid,
        gpus=request.gpus,
        max_gpus=request.gpus if request.max_gpus is None else request.max_gpus,
        weight=request.weight,
        storage_gib=request.storage_gib,
        registry_gib=request.registry_gib,
        images=request.images,
    )
    if old is None or old.spec != spec:
        actions.append(_describe(name, old.spec if old else None, spec))
        if not dry_run:
            projects.apply(name, spec)
    return Change(actions=tuple(actions))


def list_projects(directory: Directory, projects: Iterable[Project]) -> list[ProjectView]:
    """All projects of the cluster with their members, by name."""
    views = []
    for project in sorted(projects, key=lambda project: project.name):
        group = directory.groups.get(project.name)
        ready = project.condition()
        views.append(
            ProjectView(
                name=project.name,
                gid=project.spec.gid,
                description=project.spec.description,
                owner=project.spec.owner,
                gpus=project.spec.gpus,
                max_gpus=project.spec.max_gpus,
                weight=project.spec.weight,
                members=sorted(group.members) if group else [],
                ready=ready.get("status") == "True",
                reason=None if ready.get("status") == "True" else ready.get("message"),
            )
        )
    return views


def add_member(store: DirectoryStore, project: str, user: str, *, dry_run: bool = False) -> Change:
    """Make `user` a member of `project`."""
    directory = store.read()
    group = require_group(directory, project)
    require_member(directory, user)
    if user in group.members:
        return Change()
    if not dry_run:
        store.modify_group(group, group.model_copy(update={"members": (*group.members, user)}))
    return Change(actions=(f"add {user} to project {project}",))


def remove_member(store: DirectoryStore, project: str, user: str, *, dry_run: bool = False) -> Change:
    """Take `user` out of `project`; one who is in none of it, or gone altogether, counts as taken out."""
    group = require_group(store.read(), project)
    if user not in group.members:
        return Change()
    if not dry_run:
        rest = tuple(member for member in group.members if member != user)
        store.modify_group(group, group.model_copy(update={"members": rest}))
    return Change(actions=(f"remove {user} from project {project}",))


def require_group(directory: Directory, name: str) -> Group:
    """The project's group, or an error that names those there are."""
    if name in directory.groups:
        return directory.groups[name]
    there = ", ".join(sorted(directory.groups)) or "none yet"
    raise NotFoundError(f"there is no project {name!r}; projects: {there}")


def _gids(directory: Directory, projects: Iterable[Project]) -> list[int]:
    return [group.gid for group in directory.groups.values()] + [p.spec.gid for p in projects]


def _describe(name: str, old: ProjectSpec | None, new: ProjectSpec) -> str:
    if old is None:
        return f"create project {name}: {new.gpus} GPUs of its own, {new.max_gpus} at most"
    before, after = old.to_json(), new.to_json()
    changed = [
        f"{key} {before.get(key)} → {after.get(key)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]
    return f"change project {name}: {', '.join(changed)}"
