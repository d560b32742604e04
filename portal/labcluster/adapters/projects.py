"""Project objects in the cluster."""

from __future__ import annotations

from contextlib import suppress

from labcluster.adapters.kube import KubeApi
from labcluster.errors import NotFoundError
from labcluster.models.projects import COLLECTION, Project, ProjectSpec

# Its own name, so that what the administrator said and what the controller adds never mix.
_MANAGER = "labcluster-portal"


class KubeProjects:
    """Reads and writes Projects; implements `services.projects.ProjectStore`."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api

    def list(self) -> list[Project]:
        """All projects."""
        return [Project.from_object(item) for item in self._api.list(COLLECTION)]

    def remove(self, name: str) -> None:
        """Remove one, whose namespace the controller then removes; an absent one counts as removed."""
        with suppress(NotFoundError):
            self._api.delete(f"{COLLECTION}/{name}")

    def apply(self, name: str, spec: ProjectSpec) -> None:
        """Make or change one."""
        body = Project(name=name, spec=spec).to_object()
        self._api.apply(f"{COLLECTION}/{name}", body, manager=_MANAGER)
