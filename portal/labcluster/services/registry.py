"""What people do with images: list them, remove them, and get a login for programs that push and pull."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from labcluster.errors import ConflictError, NotAllowedError, NotFoundError, UnreachableError, UsageError
from labcluster.models.callers import Caller
from labcluster.models.registry import (
    GIB,
    ImageList,
    LoginRequest,
    RegistryLogin,
    RegistryUsage,
    Removal,
)
from labcluster.models.runs import Run
from labcluster.services import images
from labcluster.services.ports import ClusterView, ImageRegistry
from labcluster.services.registry_tokens import COMMON, PLATFORM


class ImageStore(ImageRegistry, Protocol):
    """The registry with its token service. Every method raises UnreachableError when it is away."""

    def size(self, repository: str, digest: str) -> int | None:
        """Bytes of an image's layers; None if it is gone."""

    def remove(self, repository: str, digest: str) -> bool:
        """Remove an image with all its tags; False if it was gone."""

    def login(self, user: str, *, admin: bool) -> tuple[str, int]:
        """A password for somebody, and the seconds that it lasts."""

    def usage(self) -> Mapping[str, int]:
        """Bytes by project."""


class RegistryService:
    """Images as people see them."""

    def __init__(self, store: ImageStore, view: ClusterView, active: Callable[[], Sequence[Run]]) -> None:
        self._store = store
        self._view = view
        self._active = active

    def images(self, caller: Caller, project: str | None) -> ImageList:
        """Images for the runs of a project, or of all of the caller's, and how full their shares are."""
        projects = [self._member_of(caller, project)] if project else self._projects(caller)
        found = images.list_images(self._store, projects)
        sized = [
            image.model_copy(
                update={"size_bytes": self._store.size(_repository(image.reference), image.digest)}
            )
            for image in found
        ]
        used = self._used()
        return ImageList(items=sized, usage=[self._usage(project, used) for project in projects])

    def login(self, caller: Caller, request: LoginRequest) -> RegistryLogin:
        """A login for the caller, after saying clearly what the registry would only call denied."""
        if request.push:
            repository, _, _ = images.split(self._store.host, request.push)
            self._require_push(caller, repository)
        password, seconds = self._store.login(caller.user, admin=caller.admin)
        return RegistryLogin(
            registry=self._store.host, username=caller.user, password=password, expires_in=seconds
        )

    def remove(self, caller: Caller, name: str, *, dry_run: bool = False) -> Removal:
        """Remove an image. Its layers are freed by the registry's next garbage collection."""
        repository, tag, digest = images.split(self._store.host, name)
        self._require_write(caller, repository)
        if not tag and not digest:
            raise UsageError(f"{name!r}: say which one, as {repository}:TAG or {repository}@sha256:…")
        found = self._store.digest(repository, digest or str(tag))
        if found is None:
            there = ", ".join(sorted(self._store.tags(repository))) or "nothing"
            raise NotFoundError(f"image {name!r} is not in the registry: {repository} has {there}")
        tags = sorted(t for t in self._store.tags(repository) if self._store.digest(repository, t) == found)
        if digest is None and len(tags) > 1:
            raise ConflictError(
                f"{repository}:{tag} is also {', '.join(t for t in tags if t != tag)}, and an image goes with"
                f" all its tags: to remove them all, name {repository}@{found}"
            )
        users = [run.id for run in self._active() if run.image_digest == found and _is_of(run, repository)]
        if users:
            raise ConflictError(f"{name} is the image of {', '.join(users[:5])}, which is not over yet")
        if not dry_run and not self._store.remove(repository, found):
            raise NotFoundError(f"image {name!r} has just been removed by somebody else")
        return Removal(repository=repository, tags=tags, digest=found)

    def _require_push(self, caller: Caller, repository: str) -> None:
        self._require_write(caller, repository)
        owner = repository.split("/", 1)[0]
        quota = self._quota(owner)
        if quota is not None and not caller.admin:
            used = self._store.usage().get(owner, 0)
            if used >= quota:
                raise ConflictError(
                    f"project {owner} uses {used / GIB:.1f} GiB of its {quota / GIB:g} GiB in the registry:"
                    " remove images (labctl image rm) or ask your administrator for more"
                )

    def _require_write(self, caller: Caller, repository: str) -> None:
        owner = repository.split("/", 1)[0]
        if owner == PLATFORM:
            raise NotAllowedError(f"{repository}: the images of the platform are the cluster's own")
        if owner == COMMON:
            if not caller.admin:
                raise NotAllowedError(f"{repository}: only administrators change the common images")
            return
        self._member_of(caller, owner)

    def _member_of(self, caller: Caller, project: str) -> str:
        if self._view.project(project) is None:
            there = ", ".join(self._projects(caller)) or "none"
            raise NotFoundError(f"there is no project {project!r}; yours: {there}")
        if not caller.admin and project not in self._view.memberships(caller.user):
            raise NotAllowedError(f"{caller.user} is no member of project {project}")
        return project

    def _projects(self, caller: Caller) -> list[str]:
        if caller.admin:
            return sorted(share.name for share in self._view.projects())
        return sorted(self._view.memberships(caller.user))

    def _quota(self, project: str) -> int | None:
        share = self._view.project(project)
        return share.registry_gib * GIB if share is not None and share.registry_gib else None

    def _used(self) -> Mapping[str, int] | None:
        try:
            return self._store.usage()
        except UnreachableError:  # a list without it is better than none
            return None

    def _usage(self, project: str, used: Mapping[str, int] | None) -> RegistryUsage:
        bytes_used = None if used is None else used.get(project, 0)
        return RegistryUsage(project=project, used_bytes=bytes_used, quota_bytes=self._quota(project))


def _repository(reference: str) -> str:
    return reference.split("/", 1)[1].rpartition(":")[0]


def _is_of(run: Run, repository: str) -> bool:
    """Whether a run's image is this repository's: another one may hold the same under its own name."""
    return run.image.split("/", 1)[-1].partition("@")[0].partition(":")[0] == repository
