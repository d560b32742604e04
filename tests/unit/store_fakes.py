"""The run table of the portal, in memory, and a time that moves when told."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

from labcluster.errors import ConflictError, LabclusterError, UncertainError
from labcluster.models.code import member_seed
from labcluster.models.runs import (
    ACTIVE_STATES,
    ArraySlots,
    ArraySummary,
    NewArray,
    Run,
    RunArray,
    RunChange,
    RunFilter,
    RunState,
    Submission,
)

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
            if item.array.sweep is not None:
                own |= {"drawn": False, "reason": item.held_reason if place else item.reason}
            if run.seed is not None:
                own["seed"] = member_seed(run.seed, index)
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
                indices=spec.text,
                total=len(members),
                parallel=spec.parallel,
                counts=counts,
                sweep=spec.sweep,
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

    def explain(self, runs: Sequence[Run], reason: str) -> None:
        self._check()
        for run in runs:
            row = self.rows[run.id]
            if row.state is RunState.QUEUED and row.attempt == run.attempt:
                self.rows[run.id] = row.model_copy(update={"reason": reason})

    def end(self, project: str, number: int, trials: Sequence[int] | None, change: RunChange) -> list[Run]:
        self._check()
        update = change.model_dump(include={"state", "reason", "finished_at"})
        changed = []
        for row in sorted(self.rows.values(), key=lambda row: row.trial):
            if (row.project, row.number) != (project, number):
                continue
            if not row.state.final and (trials is None or row.trial in trials):
                self.rows[row.id] = row.model_copy(update=update)
                changed.append(self.rows[row.id])
        return changed

    def requeue(self, runs: Sequence[Run], reason: str) -> list[Run]:
        self._check()
        names = ("started_at", "finished_at", "exit_code", "node", "recorded_at", "job_uid")
        emptied = dict.fromkeys((*names, "value", "judged_at"))
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
