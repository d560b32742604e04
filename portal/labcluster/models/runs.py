"""Runs, and what the portal says about them: the vocabulary of REST, database and reconciler."""

from __future__ import annotations

import re
from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from labcluster.models.code import MAX_SEED, CodeRef, Parameter, ParameterValue
from labcluster.models.reproductions import Reproduction
from labcluster.models.sweeps import SweepSpec


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


class Priority(StrEnum):
    """How a run stands beside others of its project in the queue, the first before the last."""

    INTERACTIVE = "interactive"
    NORMAL = "normal"
    LOW = "low"


class RunRequest(_Model):
    """What `labctl submit` sends. Limits of sizes keep a Job well below what etcd takes."""

    command: list[Annotated[str, Field(max_length=32_768)]] = Field(default=[], max_length=1000)
    workdir: str = Field(max_length=1000)
    project: str | None = Field(None, max_length=63)
    name: str | None = Field(None, max_length=64)
    image: str | None = Field(None, max_length=300)
    gpus: int = Field(0, ge=0, description="on each of its nodes, as are cpus and memory")
    cpus: float = Field(1.0, gt=0, allow_inf_nan=False)
    memory: str = Field("4Gi", max_length=20)
    time_seconds: int | None = Field(None, ge=1)
    nodes: int = Field(1, ge=1, le=1024, description="so many pods, started all or none")
    priority: Priority = Priority.NORMAL
    requeue: bool = Field(False, description="queue it again when the cluster ended it")
    array: str | None = Field(
        None, max_length=2000, description="indexes of its members: 0-499%20, 1,3,5-9:2"
    )
    after: list[Annotated[str, Field(max_length=100)]] = Field(
        default=[], max_length=100, description="runs that must have ended before: vision-3, or vision-3:ok"
    )
    env: dict[str, str] = Field(default={}, max_length=500)
    code: CodeRef | None = Field(None, description="what it works from; none: it works in `workdir` itself")
    params: dict[Parameter, ParameterValue] = Field(
        default={}, max_length=500, description="each `{name}` in the command is replaced by its value"
    )
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="none: one is drawn")
    data: list[Annotated[str, Field(max_length=1000)]] = Field(
        default=[], max_length=50, description="directories whose content is recorded before it starts"
    )
    parent: str | None = Field(None, max_length=100, description="the run that it repeats")
    sweep: SweepSpec | None = Field(None, description="one run for each set of parameters that it draws")
    idempotency_key: str = Field(min_length=8, max_length=100, pattern=r"^[A-Za-z0-9._:-]+$")


class BulkRequest(_Model):
    """Several submits of which all or none are accepted; the items' own keys count for nothing."""

    items: list[RunRequest] = Field(min_length=1, max_length=10_000)
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
    nodes: int = 1
    priority: Priority = Priority.NORMAL
    requeue: bool = False
    after: tuple[str, ...] = ()
    array_index: int | None = Field(default=None, description="which member of its array it is")
    array_size: int | None = Field(default=None, description="how many members its array has")
    env: dict[str, str]
    code: CodeRef | None = None
    params: dict[str, str] = {}
    seed: int | None = Field(None, description="of an array the first seed: a member has this plus its index")
    data: tuple[str, ...] = ()
    parent: str | None = Field(None, description="the run that it repeats")

    @property
    def all_gpus(self) -> int:
        """GPUs of all its nodes together."""
        return self.gpus * self.nodes


class NewArray(_Model):
    """The indexes of an array's members, and how many of them may have a Job at the same time."""

    text: str
    indices: tuple[int, ...]
    parallel: int | None = None
    sweep: SweepSpec | None = None


class Submission(_Model):
    """One run or array to be written down; the reasons are what its row says first."""

    run: NewRun
    array: NewArray | None = None
    reason: str | None = None
    held_reason: str | None = Field(None, description="of the members beyond the array's limit")


class ArraySlots(_Model):
    """How far an array is from its limit."""

    parallel: int
    taken: int = Field(description="members that have a Job, or had one and are not final")
    waiting: tuple[int, ...] = Field(description="indexes of those without one, in order")


class RunRecord(NewRun):
    """What is known of a run, in the table as in REST."""

    number: int
    trial: int = 0
    attempt: int = 1
    state: RunState
    reason: str | None = None
    submitted_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    exit_code: int | None = None
    node: str | None = None
    recorded_at: datetime | None = Field(None, description="when the experiment record got its result")
    drawn: bool = Field(default=True, description="false: an arm of a sweep that has no parameters yet")
    value: float | None = Field(None, description="of an arm: the last of the metric that it is judged by")
    judged_at: datetime | None = Field(None, description="of an arm: when its sweep took note of its end")


class Run(RunRecord):
    """A row of the run table."""

    job_uid: str | None = Field(None, exclude=True)

    @property
    def id(self) -> str:
        """The name that people use; every member of an array has its index in it."""
        member = self.array_index is not None or self.trial
        return f"{self.project}-{self.number}" + (f".{self.trial}" if member else "")

    @property
    def array_id(self) -> str | None:
        """The name of the array that it belongs to."""
        return f"{self.project}-{self.number}" if self.array_index is not None else None

    @property
    def job_name(self) -> str:
        """The name of its Kubernetes Job."""
        return f"run-{self.id}".replace(".", "-")

    @property
    def namespace(self) -> str:
        """The Kubernetes namespace of its project."""
        return f"project-{self.project}"

    @property
    def directory(self) -> str:
        """Where its files are, on every node and in every pod."""
        return f"/lab/projects/{self.project}/runs/{self.number}_{self.trial}_{self.name}"


class ArraySummary(_Model):
    """What an array is made of, and how its members stand."""

    indices: str = Field(description="as it was submitted, with its limit: 0-499%20")
    total: int
    parallel: int | None
    counts: dict[RunState, int] = Field(description="members by state; a state that none is in is left out")
    sweep: SweepSpec | None = Field(None, description="of a sweep: what is searched, and how")


class RunArray(_Model):
    """An array as the table has it: what its members share, and how they stand."""

    first: Run = Field(description="any one of its members")
    summary: ArraySummary
    started_at: datetime | None
    finished_at: datetime | None
    exit_code: int | None

    @property
    def id(self) -> str:
        """The name that people use."""
        return f"{self.first.project}-{self.first.number}"

    @property
    def submitted_at(self) -> datetime:
        """When all its members were."""
        return self.first.submitted_at

    @property
    def state(self) -> RunState:
        """What is most worth knowing of its members: that some run, else wait, else how the worst ended."""
        counts = self.summary.counts
        if self.summary.sweep and RunState.SUCCEEDED in counts and not ACTIVE_STATES & counts.keys():
            return RunState.SUCCEEDED  # that some arms are ended early or fail is what a sweep is for
        return next((state for state in _TELLING if counts.get(state)), RunState.QUEUED)


# An array is in the first of these states that any of its members is in.
_TELLING = (
    RunState.RUNNING,
    RunState.STARTING,
    RunState.QUEUED,
    RunState.FAILED,
    RunState.LOST,
    RunState.TIMED_OUT,
    RunState.CANCELLED,
    RunState.SUCCEEDED,
)


class RunView(RunRecord):
    """A run or an array as REST shows it, and a run as `run.json` has it."""

    id: str
    directory: str
    array: ArraySummary | None = Field(None, description="of an array as a whole only")
    reproductions: tuple[Reproduction, ...] = Field(
        default=(), description="verdicts on it: labctl reproduce"
    )

    @classmethod
    def of(cls, run: Run | RunArray) -> RunView:
        """The public form of a row; of an array it is one run whose state is that of its members together."""
        if isinstance(run, RunArray):
            return cls._of_array(run)
        return cls(id=run.id, directory=run.directory, **run.model_dump())

    @classmethod
    def _of_array(cls, array: RunArray) -> RunView:
        over = array.state.final
        own: dict[str, object] = {
            "trial": 0,
            "attempt": 1,
            "array_index": None,
            "state": array.state,
            "reason": None,
            "started_at": array.started_at,
            "finished_at": array.finished_at if over else None,
            "exit_code": array.exit_code if over else None,
            "node": None,
            "drawn": True,
            "value": None,
            "judged_at": None,
        }
        first = array.first
        if array.summary.sweep:
            searched = array.summary.sweep.params
            own["params"] = {name: value for name, value in first.params.items() if name not in searched}
            own["exit_code"] = 0 if array.state is RunState.SUCCEEDED else own["exit_code"]
        directory = f"/lab/projects/{first.project}/runs/{first.number}_*_{first.name}"
        return cls(id=array.id, directory=directory, array=array.summary, **{**first.model_dump(), **own})


class RunList(_Model):
    """An answer with several runs, newest first."""

    items: list[RunView]


class NewRunList(_Model):
    """What several submits would accept, in their order."""

    items: list[NewRun]


class BulkAnswer(_Model):
    """What several submits became, in their order; an array has one id."""

    ids: list[str]


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
    storage_gib: int = Field(0, description="0: no limit")
    registry_gib: int = Field(default=0, description="quota of its images; 0 for none")


class WhoAmI(_Model):
    """Who the caller is and where he may submit."""

    user: str
    uid: int
    admin: bool
    projects: list[ProjectShare]


class QueueItem(_Model):
    """A run or an array that waits or runs, in the order in which the queue serves them."""

    run: str
    project: str
    user: str
    name: str
    gpus: int = Field(description="of all its nodes; of an array those of the members that have them")
    priority: Priority
    state: RunState
    position: int | None
    reason: str | None
    submitted_at: datetime
    members: dict[RunState, int] | None = Field(None, description="of an array: its active members by state")


class Queue(_Model):
    """Everything that waits or runs."""

    items: list[QueueItem]
