"""Runs, and what the portal says about them: the vocabulary of REST, database and reconciler."""

from __future__ import annotations

import re
from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RunState(StrEnum):
    """Where a run is in its life; the last five are final."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    LOST = "lost"

    @property
    def final(self) -> bool:
        """Whether a run in this state changes no more."""
        return self not in ACTIVE_STATES


ACTIVE_STATES = frozenset({RunState.QUEUED, RunState.STARTING, RunState.RUNNING})

RUN_ID = re.compile(
    r"(?P<project>[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)-(?P<number>[0-9]{1,9})(?:\.(?P<trial>[0-9]{1,6}))?"
)


class RunRequest(_Model):
    """What `labctl submit` sends. Limits of sizes keep a Job well below what etcd takes."""

    command: list[Annotated[str, Field(max_length=32_768)]] = Field(default=[], max_length=1000)
    workdir: str = Field(max_length=1000)
    project: str | None = Field(None, max_length=63)
    name: str | None = Field(None, max_length=64)
    image: str | None = Field(None, max_length=300)
    gpus: int = Field(0, ge=0)
    cpus: float = Field(1.0, gt=0, allow_inf_nan=False)
    memory: str = Field("4Gi", max_length=20)
    time_seconds: int | None = Field(None, ge=1)
    env: dict[str, str] = Field(default={}, max_length=500)
    idempotency_key: str = Field(min_length=8, max_length=100, pattern=r"^[A-Za-z0-9._:-]+$")


class NewRun(_Model):
    """A request after every check, with all names resolved: ready to be written down."""

    project: str
    name: str
    user: str
    uid: int
    gid: int
    image: str
    image_digest: str
    command: tuple[str, ...]
    workdir: str
    gpus: int
    cpus: float
    memory: str
    time_seconds: int | None
    env: dict[str, str]


class Run(NewRun):
    """A row of the run table."""

    number: int
    trial: int = 0
    state: RunState
    reason: str | None = None
    submitted_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    exit_code: int | None = None
    node: str | None = None
    job_uid: str | None = Field(None, exclude=True)

    @property
    def id(self) -> str:
        """The name that people use."""
        return f"{self.project}-{self.number}" + (f".{self.trial}" if self.trial else "")

    @property
    def job_name(self) -> str:
        """The name of its Kubernetes Job."""
        return f"run-{self.project}-{self.number}" + (f"-{self.trial}" if self.trial else "")

    @property
    def namespace(self) -> str:
        """The Kubernetes namespace of its project."""
        return f"project-{self.project}"

    @property
    def directory(self) -> str:
        """Where its files are, on every node and in every pod."""
        return f"/lab/projects/{self.project}/runs/{self.number}_{self.trial}_{self.name}"


class RunView(_Model):
    """A run as REST and `run.json` show it."""

    id: str
    project: str
    number: int
    trial: int
    name: str
    user: str
    uid: int
    gid: int
    state: RunState
    reason: str | None
    image: str
    image_digest: str
    command: tuple[str, ...]
    workdir: str
    gpus: int
    cpus: float
    memory: str
    time_seconds: int | None
    env: dict[str, str]
    submitted_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    exit_code: int | None
    node: str | None
    directory: str

    @classmethod
    def of(cls, run: Run) -> RunView:
        """The public form of a row."""
        return cls(id=run.id, directory=run.directory, **run.model_dump())


class RunList(_Model):
    """An answer with several runs, newest first."""

    items: list[RunView]


class RunFilter(_Model):
    """Which runs to list; `projects` bounds what the caller may see (None: all)."""

    projects: frozenset[str] | None = None
    user: str | None = None
    states: frozenset[RunState] | None = None
    limit: int = Field(50, ge=1, le=1000)


class RunChange(_Model):
    """All that changes in a row's life; None empties a field."""

    state: RunState
    reason: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    exit_code: int | None = None
    node: str | None = None

    @classmethod
    def of(cls, run: Run) -> RunChange:
        """The fields as the row has them: what to start from."""
        return cls(**{name: getattr(run, name) for name in cls.model_fields})


class Member(_Model):
    """One user within one project, as the controller published him for the admission policies."""

    user: str
    uid: int
    gid: int
    groups: tuple[int, ...]


class ProjectShare(_Model):
    """A project's part of the cluster."""

    name: str
    gid: int
    gpus: int
    max_gpus: int


class WhoAmI(_Model):
    """Who the caller is and where he may submit."""

    user: str
    uid: int
    admin: bool
    projects: list[ProjectShare]


class QueueItem(_Model):
    """A run that waits or runs, in the order in which the queue serves them."""

    run: str
    project: str
    user: str
    name: str
    gpus: int
    state: RunState
    position: int | None
    reason: str | None
    submitted_at: datetime


class Queue(_Model):
    """Everything that waits or runs."""

    items: list[QueueItem]


class NodeView(_Model):
    """What a node has and how much of it runs have taken."""

    name: str
    ready: bool
    gpus: int
    gpus_used: int
    cpus: float
    cpus_used: float
    memory: int
    memory_used: int
    runs: list[str]


class NodeList(_Model):
    """All nodes that can run something."""

    items: list[NodeView]


class ImageView(_Model):
    """An image that a run may use."""

    reference: str
    tag: str
    digest: str


class ImageList(_Model):
    """The images of a project and the common ones."""

    items: list[ImageView]


class Problem(BaseModel):
    """An RFC 9457 problem document; `code` is labctl's exit status."""

    type: str
    title: str
    status: int
    detail: str
    code: int
