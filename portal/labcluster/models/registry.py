"""The image registry: who asks for what, and how much a project has there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

GIB = 1024**3


@dataclass(frozen=True)
class Scope:
    """What somebody wants to do with a thing of the registry: `repository:vision/net:pull,push`."""

    kind: str
    name: str
    actions: tuple[str, ...]

    @property
    def owner(self) -> str:
        """The folder of a repository: a project, `common` or `labcluster`."""
        return self.name.split("/", 1)[0]


@dataclass(frozen=True)
class Account:
    """Who has proven himself to the token service."""

    name: str
    #: cluster: the platform itself; node: what pulls for pods; admin: a site administrator; member: of LDAP.
    kind: Literal["cluster", "node", "admin", "member"]


class LoginRequest(BaseModel):
    """For what somebody wants to log in to the registry."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    push: str | None = Field(None, description="the image that will be pushed; None for pulling only")


class Removal(BaseModel):
    """An image that was removed, or would be."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    repository: str
    tags: list[str]
    digest: str


class RegistryLogin(BaseModel):
    """A user name and a short-lived password for the registry, for programs that act for somebody."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    registry: str = Field(description="host:port as it stands in image references")
    username: str
    password: str
    expires_in: int = Field(description="seconds")


class RegistryUsage(BaseModel):
    """How much the images of a project take."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    project: str
    used_bytes: int | None = Field(
        description="blobs that its manifests name, each counted once; None: not known now"
    )
    quota_bytes: int | None = Field(description="None: no quota")


class ImageView(BaseModel):
    """An image that a run may use."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reference: str
    tag: str
    digest: str
    size_bytes: int | None = Field(default=None, description="its layers, as they are sent")


class ImageList(BaseModel):
    """The images of projects and the common ones, and what the projects use."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    items: list[ImageView]
    usage: list[RegistryUsage]
