"""Projects: a group in the directory and a Project object in the cluster, made and changed together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from pydantic import ValidationError

from labcluster.errors import ConflictError, NotFoundError, UsageError
from labcluster.models.members import PROJECT_GIDS, PROJECT_NAME, Change, Directory, Group
from labcluster.models.projects import (
    Project,
    ProjectChange,
    ProjectRequest,
    ProjectSpec,
    ProjectView,
    removed_folder,
)
from labcluster.services.experiments import RESERVED as RESERVED_BY_MLFLOW
from labcluster.services.leaving import RunTable, cancel
from labcluster.services.members import DirectoryStore, lowest_free, require_member

# Folders of the registry that belong to no project, and names that MLflow has for itself.
_RESERVED = frozenset({"common", "labcluster"}) | RESERVED_BY_MLFLOW


class ProjectStore(Protocol):
    """The Project objects, as `adapters.projects` offers them."""

    def list(self) -> list[Project]: ...
    def apply(self, name: str, spec: ProjectSpec) -> None: ...
    def remove(self, name: str) -> None: ...


def validate_project_name(name: str) -> None:
    """Refuse what cannot be a group, a namespace and a part of a path at the same time."""
    if not PROJECT_NAME.fullmatch(name):
        raise UsageError(
            f"project name {name!r}: use 1 to 40 of a-z, 0-9 and '-', beginning with a letter and ending "
            "with a letter or digit"
        )
    if name in _RESERVED:
        raise UsageError(f"project name {name!r} is taken by the cluster itself; choose another")


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
    if any(group.name == name for group in directory.removed):
        raise ConflictError(
            f"there was a project {name} before, and its runs and files are kept under that name: "
            "choose another name"
        )
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


def change_project(
    store: DirectoryStore,
    projects: ProjectStore,
    name: str,
    change: ProjectChange,
    *,
    dry_run: bool = False,
) -> Change:
    """Change what `change` names of a project, and nothing else."""
    old = require_project(projects.list(), name)
    asked = old.spec.model_dump(exclude={"gid"}) | change.model_dump(exclude_unset=True)
    try:
        request = ProjectRequest.model_validate(asked)
    except ValidationError as error:
        why = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UsageError(f"project {name}: {why}") from None
    return ensure_project(store, projects, name, request, dry_run=dry_run)


def remove_project(
    store: DirectoryStore,
    projects: ProjectStore,
    runs: RunTable,
    name: str,
    *,
    confirm: str | None,
    dry_run: bool = False,
) -> Change:
    """End a project: its runs, its namespace, its group. Its files, the record of its runs and its gid stay.

    Every step can be done again, and the project is there until the last one: interrupted, the same call
    goes on. The group goes before the object, so that nobody is a member of what is half removed.
    """
    directory = store.read()
    old = next((project for project in projects.list() if project.name == name), None)
    group = directory.groups.get(name)
    if old is None and group is None:
        if any(group.name == name for group in directory.removed):
            return Change()
        require_group(directory, name)
    gid = group.gid if group else old.spec.gid if old else 0
    group = group or Group(name=name, gid=gid, description=old.spec.description if old else "")
    active = [run for run in runs.active() if run.project == name]
    actions = [f"cancel {len(active)} runs of project {name}"] if active else []
    actions.append(f"remove project {name}: its queue, its namespace and the access of its members")
    actions.append(
        f"keep its files in {removed_folder(name, gid)}, for administrators only, and gid {gid} unused"
    )
    if dry_run:
        return Change(actions=tuple(actions))
    if confirm != name:
        raise UsageError(
            f"project {name} may have files and runs: they are kept, but its members lose them; "
            f"say so with --confirm {name}"
        )
    cancel(runs, active, f"project {name} was removed")
    store.remove_group(group)
    projects.remove(name)
    return Change(actions=tuple(actions))


def view_project(directory: Directory, projects: Iterable[Project], name: str) -> ProjectView:
    """One project with its members."""
    return list_projects(directory, [require_project(projects, name)])[0]


def require_project(projects: Iterable[Project], name: str) -> Project:
    """The project's object, or an error that names those there are."""
    known = {project.name: project for project in projects}
    if name in known:
        return known[name]
    raise NotFoundError(f"there is no project {name!r}; projects: {', '.join(sorted(known)) or 'none yet'}")


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
                storage_gib=project.spec.storage_gib,
                registry_gib=project.spec.registry_gib,
                images=list(project.spec.images),
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
    groups = (*directory.groups.values(), *directory.removed)
    return [group.gid for group in groups] + [project.spec.gid for project in projects]


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
