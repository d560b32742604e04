"""Who used how much: what the file server reports, and what people are shown."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(min_length=1, max_length=63)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StorageAmount(_Model):
    """What files take on the shared tree."""

    bytes: int = Field(ge=0)
    files: int = Field(ge=0)


class StorageReport(_Model):
    """What the file server counted; it sends this every few minutes."""

    measured_at: datetime
    quotas: bool = Field(description="whether the file system enforces the projects' limits")
    projects: dict[Name, StorageAmount] = Field(max_length=10_000)
    people: dict[Name, StorageAmount] = Field(
        max_length=10_000, description="home and scratch directories together"
    )


class StorageLimits(_Model):
    """What the file server is to enforce, in bytes by project; a project that is not named has no limit."""

    projects: dict[str, int]


class Consumption(_Model):
    """What runs of one project or user took within a time."""

    name: str
    runs: int
    gpu_hours: float
    cpu_hours: float
    wait_seconds: float | None = Field(description="the median wait from submission to start")


class UsageLine(Consumption):
    """The same, with what is stored."""

    storage_bytes: int | None = None
    storage_files: int | None = None
    storage_limit_bytes: int | None = None
    registry_bytes: int | None = Field(None, description="images of a project; None: not known now")


class Usage(_Model):
    """Usage within a time, as far as the caller may see it: all of his projects, an administrator all."""

    since: datetime
    until: datetime
    projects: list[UsageLine]
    users: list[UsageLine]
    storage_measured_at: datetime | None = Field(description="None: the file server has not reported yet")
    storage_enforced: bool = Field(description="whether limits are more than a figure")
