"""What the services need from the outside; adapters provide it, tests replace it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from labcluster.models.runs import (
    ArraySlots,
    Member,
    ProjectShare,
    Run,
    RunArray,
    RunChange,
    RunFilter,
    RunState,
    Submission,
)

KubeObject = Mapping[str, Any]


class RunStore(Protocol):
    """The run table. Every method is one transaction; UnreachableError when the database is away."""

    def add(self, items: Sequence[Submission], key: str, fingerprint: str) -> tuple[list[Run], bool]:
        """Commit runs under their projects' next numbers, all or none, or give those of that user and key.

        Of an array its first member is given. The flag says whether they are new. ConflictError when
        the key was used for another request."""

    def by_key(self, user: str, key: str, fingerprint: str, items: int = 1) -> list[Run]:
        """What an earlier request with this key made; empty if there was none."""

    def get(self, project: str, number: int, trial: int) -> Run | None:
        """One run."""

    def members(self, project: str, number: int) -> Sequence[Run]:
        """The members of an array by index; empty if there is no such array."""

    def array(self, project: str, number: int) -> RunArray | None:
        """One array."""

    def find(self, query: RunFilter) -> Sequence[Run | RunArray]:
        """Runs and arrays, newest first."""

    def states(self, runs: Iterable[tuple[str, int, int | None]]) -> Mapping[str, Counter[RunState]]:
        """How many are in which state, by id, of runs and (where the index is None) of whole arrays."""

    def slots(self, arrays: Iterable[tuple[str, int]]) -> Mapping[tuple[str, int], ArraySlots]:
        """What is taken and who waits in those arrays, given by project and number, that have a limit."""

    def active(self) -> Sequence[Run]:
        """All runs that are not final, oldest first."""

    def ended_since(self, moment: datetime) -> Sequence[Run]:
        """Runs that became final after `moment`."""

    def change(self, run: Run, change: RunChange) -> bool:
        """Write what happened to an active run; false (and nothing written) if it was final already, or
        is in another attempt than the one given."""

    def explain(self, runs: Sequence[Run], reason: str) -> None:
        """Write what queued runs wait for, and nothing else; a run that waits no more is left as it is."""

    def end(
        self, project: str, number: int, trials: Sequence[int] | None, change: RunChange
    ) -> Sequence[Run]:
        """Write state, reason and end to those members of an array that are active (None: all); give them."""

    def requeue(self, runs: Sequence[Run], reason: str) -> Sequence[Run]:
        """Queue the next attempt of runs, all of one number and in whatever state.

        What the last attempt left in the row is emptied, its Job's uid too. A run that is in another
        attempt by now is left as it is. The answer is what was changed."""

    def set_job(self, run: Run, job_uid: str) -> None:
        """Note that the Job of the run's attempt was made."""

    def ping(self) -> None:
        """Raise UnreachableError unless the database answers."""


class JobApi(Protocol):
    """Jobs, made and removed under the name of the user whose run they are."""

    def create(self, job: KubeObject, user: str, *, dry_run: bool = False) -> str:
        """Make the Job (one of that name counts as made) and give its uid; a dry run only judges it."""

    def delete(self, namespace: str, name: str, user: str | None) -> None:
        """Remove the Job as `user` (None: as ourselves); it goes after its pods; absent counts as removed."""

    def release_pod(self, namespace: str, name: str) -> None:
        """Take a pod that is being removed off the cluster's books without an answer from its node."""

    def allow(self, policy: KubeObject) -> None:
        """Make a NetworkPolicy, as ourselves; one that exists stays as it is."""

    def exists(self, namespace: str, name: str) -> bool:
        """Ask the apiserver, past every cache."""

    def trouble(self, namespace: str, name: str) -> str | None:
        """The newest complaint among the Job's events."""


class LogStream(Protocol):
    """Log lines that arrive."""

    def __iter__(self) -> Iterator[bytes]: ...

    def close(self) -> None:
        """Stop; may be called from another thread while one waits for the next line."""


class LogApi(Protocol):
    """Logs of pods, read under the name of the user who asks."""

    def open(
        self, namespace: str, pod: str, *, user: str, follow: bool, since: str | None = None
    ) -> LogStream:
        """The log of the run's main container, each line with its time before it."""


class ClusterView(Protocol):
    """The cluster as the watches last saw it: answers at once, never asks the apiserver."""

    def memberships(self, user: str) -> Mapping[str, Member]:
        """The projects of a user, by name."""

    def user_by_uid(self, uid: int) -> str | None:
        """The member with this uid."""

    def project(self, name: str) -> ProjectShare | None:
        """One project."""

    def projects(self) -> Sequence[ProjectShare]:
        """All projects."""

    def nodes(self) -> Sequence[KubeObject]:
        """All nodes."""

    def pods(self) -> Sequence[KubeObject]:
        """All pods that are bound to a node or belong to a run."""

    def job(self, run: Run) -> KubeObject | None:
        """The run's Job."""

    def pod(self, run: Run, rank: int = 0) -> KubeObject | None:
        """The run's newest pod of that rank."""

    def job_pods(self, run: Run, *, gone: bool = False) -> Sequence[KubeObject]:
        """The pods of the run's present Job by rank; with `gone` those that are gone, as last seen."""

    def pods_of(self, run: Run) -> Sequence[KubeObject]:
        """All pods of the run, newest first."""

    def workload(self, run: Run) -> KubeObject | None:
        """What Kueue made of the run's Job."""

    def fresh(self) -> bool:
        """Whether every watch has had its first list and is open."""

    def subscribe(self, listener: Callable[[str], None]) -> None:
        """Call `listener(run id)` whenever something of a run changes."""


class ImageRegistry(Protocol):
    """The private registry."""

    @property
    def host(self) -> str:
        """host:port as it stands in image references."""

    def digest(self, repository: str, tag: str) -> str | None:
        """The digest behind a tag or a digest; None if there is none."""

    def tags(self, repository: str) -> Sequence[str]:
        """Tags of a repository, empty for an unknown one."""

    def repositories(self) -> Sequence[str]:
        """Names of all repositories."""
