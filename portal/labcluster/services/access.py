"""Who may enter which running pod, and how many connections he may have."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from labcluster.errors import ConflictError, NotAllowedError, NotFoundError
from labcluster.models import labels
from labcluster.models.callers import Caller
from labcluster.models.runs import Run
from labcluster.services.jobs import CONTAINER
from labcluster.services.ports import ClusterView, KubeObject

#: What speaks ssh in the pod; `labrun prepare` has put it there.
SERVER = ("/labcluster/labssh",)

# An editor opens a handful of connections, a parallel copy some more.
SESSIONS_OF_ONE = 32
SESSIONS_OF_ALL = 512


class Runs(Protocol):
    """The part of the run service that is needed here."""

    def get(self, caller: Caller, run_id: str) -> Run:
        """A run of one of the caller's projects."""


class ExecStream(Protocol):
    """A command that runs in a pod. What is not taken is not read, in both directions."""

    @property
    def complaint(self) -> str:
        """What the command wrote to standard error last."""

    @property
    def succeeded(self) -> bool:
        """Whether the command has ended by itself, and well."""

    async def send(self, block: bytes) -> None:
        """Give the command input; waits while it does not take it."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The command's output until its end."""

    async def close(self) -> None:
        """End the command's input and the connection."""


class ExecApi(Protocol):
    """Commands in pods."""

    async def open(
        self, namespace: str, pod: str, container: str, command: Sequence[str], *, user: str
    ) -> ExecStream:
        """Start a command under the name of a user; it has printed its first bytes."""


@dataclass(frozen=True)
class Door:
    """A container that its user may enter now."""

    run: Run
    pod: str
    user: str

    @property
    def namespace(self) -> str:
        """Where the pod is."""
        return self.run.namespace

    @property
    def container(self) -> str:
        """The run's own container."""
        return CONTAINER


class AccessService:
    """Opens doors into the callers' own pods."""

    def __init__(self, runs: Runs, view: ClusterView) -> None:
        self._runs = runs
        self._view = view

    def door(self, caller: Caller, run_id: str, rank: int = 0) -> Door:
        """The way into the caller's own run, if it is running; `rank` chooses among the pods of a gang."""
        run = self._runs.get(caller, run_id)
        if caller.admin or run.user != caller.user:
            raise NotAllowedError(f"run {run.id} belongs to {run.user}: only {run.user} may enter it")
        if run.state.final:
            raise ConflictError(f"run {run.id} has ended ({run.state}): only a running one can be entered")
        pods = self._pods(run)
        pod = next((pod for pod in pods if _rank(pod) == rank), None)
        if pod is None and rank and pods:
            raise NotFoundError(f"run {run.id} has no pod of rank {rank}: ranks are 0 to {len(pods) - 1}")
        if pod is None or not _runs(pod):
            because = f": {run.reason}" if run.reason else ""
            raise ConflictError(f"run {run.id} is not running yet, it is {run.state}{because}")
        # The row says whose run it is, the label whose pod: they differ only if somebody has tampered.
        if pod["metadata"].get("labels", {}).get(labels.USER) != caller.user:
            raise NotAllowedError(f"the pod of run {run.id} is not {caller.user}'s")
        return Door(run, str(pod["metadata"]["name"]), caller.user)

    def ended(self, door: Door) -> bool:
        """Whether the run's container behind a door has ended, as far as the watches know."""
        pod = next((p for p in self._pods(door.run) if p["metadata"]["name"] == door.pod), None)
        return pod is None or not _runs(pod) or "deletionTimestamp" in pod["metadata"]

    def _pods(self, run: Run) -> Sequence[KubeObject]:
        """The pods of the run's present Job: anybody may write a run's id on a pod of his own."""
        return [
            pod
            for pod in self._view.pods_of(run)
            if run.job_uid and pod["metadata"].get("labels", {}).get(labels.JOB_UID) == run.job_uid
        ]


class Sessions:
    """Counts connections; used by the event loop alone."""

    def __init__(self, of_one: int = SESSIONS_OF_ONE, of_all: int = SESSIONS_OF_ALL) -> None:
        self._of_one = of_one
        self._of_all = of_all
        self._open: Counter[str] = Counter()

    @contextmanager
    def enter(self, user: str) -> Iterator[None]:
        """Hold one place for a user; ConflictError when there is none."""
        if self._open[user] >= self._of_one:
            raise ConflictError(
                f"{user} has {self._of_one} connections into runs already: close one, or share one"
                " (ControlMaster of ssh)"
            )
        if self._open.total() >= self._of_all:
            raise ConflictError("too many people are in their runs now: try again in a while")
        self._open[user] += 1
        try:
            yield
        finally:
            self._open[user] -= 1
            if not self._open[user]:
                del self._open[user]


def _rank(pod: KubeObject) -> int:
    """A pod's place in its gang; a run of one pod has rank 0."""
    return int(pod["metadata"].get("labels", {}).get(labels.RANK, 0))


def _runs(pod: KubeObject) -> bool:
    statuses: Sequence[KubeObject] = pod.get("status", {}).get("containerStatuses") or []
    return any(
        status["name"] == CONTAINER and "running" in (status.get("state") or {}) for status in statuses
    )
