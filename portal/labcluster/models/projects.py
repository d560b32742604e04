"""Projects: the custom resource, what an administrator asks for, and what is shown of them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic.alias_generators import to_camel

from labcluster.models.members import OneLine

API_VERSION = "labcluster.internal/v1"
KIND = "Project"
COLLECTION = "/apis/labcluster.internal/v1/projects"

# Labels that everything of a project, and everything that runs in one, carries.
LABEL_PROJECT = "labcluster.internal/project"
LABEL_USER = "labcluster.internal/user"

Count = Annotated[int, Field(ge=0, le=100_000)]
Repository = Annotated[str, StringConstraints(max_length=255, pattern=r"^[a-z0-9][a-z0-9._:/-]*[a-z0-9]$")]


def removed_folder(name: str, gid: int) -> str:
    """Where the files of a removed project are kept; labcluster-tree moves them there."""
    return f"/lab/projects/.removed/{name}-{gid}"


def _alias(name: str) -> str:
    return to_camel(name).replace("Gib", "GiB")


class ProjectSpec(BaseModel):
    """`spec` of the custom resource; in Python by snake_case, in JSON by camelCase."""

    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True, alias_generator=_alias)

    description: str = ""
    owner: str | None = None
    gid: int
    gpus: Count = 0
    max_gpus: Count = 0
    weight: Annotated[int, Field(ge=1, le=1000)] = 1
    storage_gib: int = Field(0, ge=0)
    registry_gib: int = Field(0, ge=0)
    images: tuple[Repository, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As it is written into the cluster."""
        return self.model_dump(by_alias=True, mode="json", exclude_none=True)


class ProjectRequest(BaseModel):
    """What an administrator says of a project; the gid is the directory's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: OneLine = ""
    owner: str | None = None
    gpus: Count = 0
    max_gpus: Count | None = Field(None, description="left out: as many as are the project's own")
    weight: Annotated[int, Field(ge=1, le=1000)] = 1
    storage_gib: int = Field(0, ge=0)
    registry_gib: int = Field(0, ge=0)
    images: tuple[Repository, ...] = ()

    @model_validator(mode="after")
    def _check_maximum(self) -> ProjectRequest:
        if self.max_gpus is not None and self.max_gpus < self.gpus:
            raise ValueError(f"max_gpus ({self.max_gpus}) must not be less than gpus ({self.gpus})")
        return self


class ProjectChange(BaseModel):
    """What an administrator wants to be different; what is left out stays."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: OneLine = ""
    owner: str | None = None
    gpus: Count = 0
    max_gpus: Count = 0
    weight: Annotated[int, Field(ge=1, le=1000)] = 1
    storage_gib: int = Field(0, ge=0)
    registry_gib: int = Field(0, ge=0)
    images: tuple[Repository, ...] = ()


class Project(BaseModel):
    """A Project object of the cluster."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    spec: ProjectSpec
    uid: str = ""
    generation: int = 0
    status: dict[str, Any] = Field(default_factory=dict)

    @property
    def namespace(self) -> str:
        """Where everything of the project is."""
        return f"project-{self.name}"

    @classmethod
    def from_object(cls, item: dict[str, Any]) -> Project:
        """From what the apiserver gives."""
        metadata = item["metadata"]
        return cls(
            name=metadata["name"],
            spec=ProjectSpec.model_validate(item.get("spec") or {}),
            uid=metadata.get("uid", ""),
            generation=metadata.get("generation", 0),
            status=item.get("status") or {},
        )

    def to_object(self) -> dict[str, Any]:
        """As it is applied: what the controller says of it is left out."""
        return {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": self.name},
            "spec": self.spec.to_json(),
        }

    def condition(self, kind: str = "Ready") -> dict[str, Any]:
        """One condition of the status; empty while the controller has not said anything."""
        found = (c for c in self.status.get("conditions") or [] if c.get("type") == kind)
        return dict(next(found, {}))


class ProjectView(BaseModel):
    """A project as administrators list it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    gid: int
    description: str
    owner: str | None
    gpus: int
    max_gpus: int
    weight: int
    storage_gib: int
    registry_gib: int
    images: list[str]
    members: list[str]
    ready: bool
    reason: str | None
