"""The outside world of the portal, in memory: each class stands for one adapter."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from labcluster.errors import (
    ConflictError,
    LabclusterError,
    NotAuthenticatedError,
    NotFoundError,
    UncertainError,
)
from labcluster.models.callers import Credential
from labcluster.models.runs import (
    ACTIVE_STATES,
    ArraySlots,
    ArraySummary,
    Member,
    NewArray,
    ProjectShare,
    Run,
    RunArray,
    RunChange,
    RunFilter,
    RunState,
    Submission,
)

REGISTRY = "registry.lab.internal:5000"
DIGEST = "sha256:" + "a" * 64
NOW = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)


class Clock:
    """A time that only moves when told."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class FakeStore:
    """A run table."""

    def __init__(self, clock: Clock) -> None:
        self.rows: dict[str, Run] = {}
        self.keys: dict[tuple[str, str], tuple[list[str], str]] = {}
        self.arrays: dict[tuple[str, int], NewArray] = {}
        self.counters: dict[str, Iterator[int]] = {}
        self.clock = clock
        self.broken: LabclusterError | None = None
        self.lose_answers = 0

    def _check(self) -> None:
        if self.broken:
            raise self.broken

    def add(self, items: Sequence[Submission], key: str, fingerprint: str) -> tuple[list[Run], bool]:
        known = self.by_key(items[0].run.user, key, fingerprint, len(items))
        if known:
            return known, False
        self.clock.advance(0.001)
        firsts = [self._add(item) for item in items]
        self.keys[items[0].run.user, key] = ([run.id for run in firsts], fingerprint)
        if self.lose_answers:
            self.lose_answers -= 1
            raise UncertainError("the run database died over a commit: connection lost")
        return firsts, True

    def _add(self, item: Submission) -> Run:
        run = item.run
        number = next(self.counters.setdefault(run.project, itertools.count(1)))
        values = {**run.model_dump(), "number": number, "state": RunState.QUEUED, "reason": item.reason}
        values["submitted_at"] = self.clock()
        if item.array is None:
            row = Run(**values)
            self.rows[row.id] = row
            return row
        self.arrays[run.project, number] = item.array
        for place, index in enumerate(item.array.indices):
            own = {"trial": index, "array_index": index, "array_size": len(item.array.indices)}
            if item.array.parallel is not None and place >= item.array.parallel:
                own["reason"] = item.held_reason
            row = Run(**values | own)
            self.rows[row.id] = row
        return self.members(run.project, number)[0]

    def by_key(self, user: str, key: str, fingerprint: str, items: int = 1) -> list[Run]:
        self._check()
        found = self.keys.get((user, key))
        if found is None:
            return []
        if found[1] != fingerprint:
            raise ConflictError("this idempotency key was used for another request")
        return [self.rows[run] for run in found[0]]

    def get(self, project: str, number: int, trial: int) -> Run | None:
        self._check()
        whole = f"{project}-{number}"
        return self.rows.get(f"{whole}.{trial}") or (None if trial else self.rows.get(whole))

    def members(self, project: str, number: int) -> list[Run]:
        self._check()
        rows = [row for row in self.rows.values() if (row.project, row.number) == (project, number)]
        return sorted((row for row in rows if row.array_index is not None), key=lambda row: row.trial)

    def array(self, project: str, number: int) -> RunArray | None:
        members, spec = self.members(project, number), self.arrays.get((project, number))
        if spec is None:
            return None
        counts = dict(Counter(row.state for row in members))
        return RunArray(
            first=members[0],
            summary=ArraySummary(
                indices=spec.text, total=len(members), parallel=spec.parallel, counts=counts
            ),
            started_at=min((row.started_at for row in members if row.started_at), default=None),
            finished_at=max((row.finished_at for row in members if row.finished_at), default=None),
            exit_code=max((row.exit_code for row in members if row.exit_code is not None), default=None),
        )

    def states(self, runs: Iterable[tuple[str, int, int | None]]) -> dict[str, Counter[RunState]]:
        self._check()
        found = {}
        for project, number, trial in runs:
            whole = f"{project}-{number}"
            name = whole if trial is None else f"{whole}.{trial}"
            rows = [row for row in self.rows.values() if name in (row.id, row.array_id)]
            if rows:
                found[name] = Counter(row.state for row in rows)
        return found

    def slots(self, arrays: Iterable[tuple[str, int]]) -> dict[tuple[str, int], ArraySlots]:
        self._check()
        found = {}
        for key in arrays:
            members = [row for row in self.members(*key) if not row.state.final]
            parallel = self.arrays[key].parallel if key in self.arrays else None
            waits = [row for row in members if row.state is RunState.QUEUED and row.job_uid is None]
            if parallel is not None and members:
                waiting = tuple(row.trial for row in waits)
                taken = len(members) - len(waits)
                found[key] = ArraySlots(parallel=parallel, taken=taken, waiting=waiting)
        return found

    def find(self, query: RunFilter) -> list[Run | RunArray]:
        self._check()
        arrays = [self.array(*key) for key in self.arrays]
        units = [row for row in self.rows.values() if row.array_index is None]
        return [
            unit
            for unit in sorted(
                [*units, *filter(None, arrays)], key=lambda one: one.submitted_at, reverse=True
            )
            if self._matches(unit, query)
        ][: query.limit]

    def _matches(self, unit: Run | RunArray, query: RunFilter) -> bool:
        row = unit if isinstance(unit, Run) else unit.first
        states = {unit.state} if isinstance(unit, Run) else set(unit.summary.counts)
        return (
            (query.projects is None or row.project in query.projects)
            and (query.user is None or row.user == query.user)
            and (query.states is None or bool(states & query.states))
        )

    def active(self) -> list[Run]:
        self._check()
        return [row for row in self.rows.values() if row.state in ACTIVE_STATES]

    def ended_since(self, moment: datetime) -> list[Run]:
        return [row for row in self.rows.values() if row.finished_at and row.finished_at > moment]

    def change(self, run: Run, change: RunChange) -> bool:
        self._check()
        row = self.rows[run.id]
        if row.state.final or row.attempt != run.attempt:
            return False
        self.rows[run.id] = row.model_copy(update=change.model_dump())
        return True

    def end(self, project: str, number: int, trials: Sequence[int] | None, change: RunChange) -> list[Run]:
        self._check()
        update = change.model_dump(include={"state", "reason", "finished_at"})
        changed = []
        for row in self.members(project, number):
            if not row.state.final and (trials is None or row.trial in trials):
                self.rows[row.id] = row.model_copy(update=update)
                changed.append(self.rows[row.id])
        return changed

    def requeue(self, runs: Sequence[Run], reason: str) -> list[Run]:
        self._check()
        emptied = dict.fromkeys(("started_at", "finished_at", "exit_code", "node", "job_uid"))
        changed = []
        for run in runs:
            row = self.rows[run.id]
            if row.attempt == run.attempt:
                update = {"state": RunState.QUEUED, "reason": reason, "attempt": row.attempt + 1, **emptied}
                self.rows[run.id] = row.model_copy(update=update)
                changed.append(self.rows[run.id])
        return changed

    def set_job(self, run: Run, job_uid: str) -> None:
        self._check()
        if self.rows[run.id].attempt == run.attempt:
            self.rows[run.id] = self.rows[run.id].model_copy(update={"job_uid": job_uid})

    def ping(self) -> None:
        self._check()


class FakeCluster:
    """Jobs, pods and nodes, as apiserver and as watch cache."""

    def __init__(self) -> None:
        self.members: dict[str, dict[str, Member]] = {}
        self.shares: dict[str, ProjectShare] = {}
        self.node_list: list[dict[str, Any]] = []
        self.jobs: dict[tuple[str, str], dict[str, Any]] = {}
        self.pod_list: list[dict[str, Any]] = []
        self.workloads: dict[str, dict[str, Any]] = {}
        self.created_by: list[str] = []
        self.deleted_by: list[str] = []
        self.failures: list[LabclusterError] = []
        self.refusal: LabclusterError | None = None
        self.listeners: list[Callable[[str], None]] = []
        self.is_fresh = True
        self.complaints: dict[str, str] = {}

    def join(self, project: str, user: str, uid: int, gid: int, gpus: int = 4, max_gpus: int = 8) -> None:
        self.members.setdefault(project, {})[user] = Member(user=user, uid=uid, gid=gid, groups=(gid,))
        self.shares[project] = ProjectShare(name=project, gid=gid, gpus=gpus, max_gpus=max_gpus)

    def add_node(self, name: str, gpus: int = 4, cpus: str = "8", memory: str = "32Gi") -> None:
        allocatable = {"cpu": cpus, "memory": memory, "nvidia.com/gpu": str(gpus)}
        self.node_list.append(
            {
                "metadata": {"name": name},
                "spec": {},
                "status": {
                    "allocatable": allocatable,
                    "conditions": [{"type": "Ready", "status": "True"}],
                },
            }
        )

    # JobApi
    def create(self, job: Any, user: str, *, dry_run: bool = False) -> str:
        if dry_run:
            if self.refusal:
                raise self.refusal
            return "judged"
        if self.failures:
            raise self.failures.pop(0)
        metadata = job["metadata"]
        self.created_by.append(user)
        uid = f"uid-{metadata['name']}"
        made = {**job, "metadata": {**metadata, "uid": uid}, "status": {}}
        self.jobs[metadata["namespace"], metadata["name"]] = made
        return uid

    def delete(self, namespace: str, name: str, user: str) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.deleted_by.append(user)
        self.jobs.pop((namespace, name), None)

    def trouble(self, namespace: str, name: str) -> str | None:
        return self.complaints.get(name)

    def exists(self, namespace: str, name: str) -> bool:
        return (namespace, name) in self.jobs

    # ClusterView
    def memberships(self, user: str) -> dict[str, Member]:
        return {project: users[user] for project, users in self.members.items() if user in users}

    def user_by_uid(self, uid: int) -> str | None:
        everybody = [member for users in self.members.values() for member in users.values()]
        return next((member.user for member in everybody if member.uid == uid), None)

    def project(self, name: str) -> ProjectShare | None:
        return self.shares.get(name)

    def projects(self) -> list[ProjectShare]:
        return list(self.shares.values())

    def nodes(self) -> list[dict[str, Any]]:
        return self.node_list

    def pods(self) -> list[dict[str, Any]]:
        return self.pod_list

    def job(self, run: Run) -> dict[str, Any] | None:
        return self.jobs.get((run.namespace, run.job_name))

    def pod(self, run: Run) -> dict[str, Any] | None:
        return next(iter(self.pods_of(run)), None)

    def pods_of(self, run: Run) -> list[dict[str, Any]]:
        return [
            p for p in reversed(self.pod_list) if p["metadata"]["labels"]["labcluster.internal/run"] == run.id
        ]

    def workload(self, run: Run) -> dict[str, Any] | None:
        return self.workloads.get(run.id)

    def fresh(self) -> bool:
        return self.is_fresh

    def subscribe(self, listener: Callable[[str], None]) -> None:
        self.listeners.append(listener)

    # Lifecycle
    def start(self) -> None: ...
    def stop(self) -> None: ...


class FakeRegistry:
    """Tags by repository."""

    host = REGISTRY

    def __init__(self) -> None:
        self.images = {
            "common/python-ml": {"1.9": DIGEST, "1.10": "sha256:" + "b" * 64},
            "vision/net": {"1": DIGEST},
            "speech/asr": {"1": DIGEST},
            "labcluster/portal": {"0.1.0": DIGEST},
        }

    def digest(self, repository: str, tag: str) -> str | None:
        tags = self.images.get(repository, {})
        return tags.get(tag) or (tag if tag in tags.values() else None)

    def tags(self, repository: str) -> list[str]:
        return list(self.images.get(repository, {}))

    def repositories(self) -> list[str]:
        return list(self.images)


class FakeLogs:
    """Logs by pod name: each opening gives the next list of lines."""

    def __init__(self) -> None:
        self.streams: dict[str, list[list[bytes]]] = {}
        self.opened: list[tuple[str, str | None, str | None]] = []

    def open(
        self, namespace: str, pod: str, *, user: str | None, follow: bool, since: str | None = None
    ) -> FakeLog:
        self.opened.append((pod, user, since))
        if not self.streams.get(pod):
            raise NotFoundError(f"pods {pod!r} not found")
        return FakeLog(self.streams[pod].pop(0))


class FakeLog:
    """One opening of a log."""

    def __init__(self, lines: list[bytes]) -> None:
        self.lines = lines

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.lines)

    def close(self) -> None: ...


class FakeMunge:
    """Credentials of the form `<uid>:<anything>`; each is good once, and says what `payloads` holds."""

    def __init__(self) -> None:
        self.payloads: dict[str, bytes] = {}
        self.seen: set[str] = set()

    def decode(self, credential: str) -> Credential:
        if credential in self.seen or credential not in self.payloads:
            raise NotAuthenticatedError("the munge credential is refused")
        self.seen.add(credential)
        return Credential(int(credential.split(":")[0]), self.payloads[credential])


def pod_of(
    run: Run, *, node: str | None = "gpu1", state: dict[str, Any] | None = None, **status: Any
) -> dict[str, Any]:
    """A pod of a run with the state of its main container."""
    containers = [{"name": "run", "state": state}] if state else []
    return {
        "metadata": {
            "name": f"{run.job_name}-x7",
            "namespace": run.namespace,
            "labels": {"labcluster.internal/run": run.id},
            "creationTimestamp": NOW.isoformat(),
        },
        "spec": {
            "nodeName": node,
            "containers": [
                {
                    "name": "run",
                    "resources": {"requests": {"cpu": "1", "memory": "4Gi", "nvidia.com/gpu": str(run.gpus)}},
                }
            ],
        },
        "status": {"containerStatuses": containers, **status},
    }
