"""A sweep's table over the fake run table, metrics that tests set, and studies of real Optuna in a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from labcluster.adapters.studies import OptunaStudies
from labcluster.errors import UnreachableError
from labcluster.models.arms import Sweep
from labcluster.models.runs import Run, RunChange, RunState
from labcluster.services.sweeps import Sweeper


class FakeSweeps:
    """Sweeps in the fake run table."""

    def __init__(self, lab: Any) -> None:
        self._store = lab.store
        self.taken = False

    @contextmanager
    def alone(self) -> Iterator[bool]:
        yield not self.taken

    def pending(self) -> bool:
        return bool(self.open())

    def open(self) -> list[Sweep]:
        found = []
        for (project, number), array in self._store.arrays.items():
            arms = self._store.members(project, number)
            if array.sweep and any(arm.judged_at is None for arm in arms):
                found.append(Sweep(project, number, array.sweep, arms))
        return found

    def draw(self, arm: Run, params: Mapping[str, str]) -> bool:
        row = self._store.rows[arm.id]
        if row.drawn or row.state.final:
            return False
        self._store.rows[arm.id] = row.model_copy(update={"drawn": True, "params": dict(params)})
        return True

    def judge(self, arm: Run, value: float | None, moment: datetime) -> None:
        row = self._store.rows[arm.id]
        self._store.rows[arm.id] = row.model_copy(update={"value": value, "judged_at": moment})

    def end(
        self, project: str, number: int, trials: Sequence[int] | None, change: RunChange
    ) -> Sequence[Run]:
        ended: Sequence[Run] = self._store.end(project, number, trials, change)
        return ended


class FakeMetrics:
    """Values by run and step."""

    def __init__(self) -> None:
        self.values: dict[str, list[tuple[int, float]]] = {}
        self.away = False

    def history(self, run: Run, metric: str) -> Sequence[tuple[int, float]]:
        if self.away:
            raise UnreachableError("MLflow does not answer")
        return self.values.get(run.id, [])


class Sweeping:
    """A laboratory in which sweeps are followed."""

    def __init__(self, lab: Any, folder: Path) -> None:
        self.lab = lab
        self.table = FakeSweeps(lab)
        self.metrics = FakeMetrics()
        self._url = f"sqlite:///{folder / 'studies.db'}"
        self.restart()

    def restart(self) -> None:
        """A new controller, which remembers nothing."""
        if hasattr(self, "studies"):
            self.studies.close()
        self.studies = OptunaStudies(self._url)
        self.sweeper = Sweeper(
            table=self.table, study_of=self.studies, metrics=self.metrics, clock=self.lab.clock
        )

    def turn(self) -> None:
        """Some seconds go by."""
        self.lab.clock.advance(10)
        self.sweeper.turn()
        self.lab.reconciler.reconcile_once()

    def arms(self) -> list[Run]:
        """All arms of the first sweep."""
        found: list[Run] = self.lab.store.members("vision", 1)
        return found

    def drawn(self) -> list[int]:
        """Arms that have parameters."""
        return [arm.trial for arm in self.arms() if arm.drawn]

    def set(self, trial: int, state: RunState, **changes: Any) -> None:
        """What the cluster says of an arm."""
        name = f"vision-1.{trial}"
        row = self.lab.store.rows[name]
        update = {"state": state, "started_at": row.started_at or self.lab.clock(), **changes}
        if state.final:
            update |= {"finished_at": self.lab.clock(), "exit_code": int(state is not RunState.SUCCEEDED)}
            job = self.lab.cluster.jobs.get((row.namespace, row.job_name))
            if job is not None:
                job["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
        self.lab.store.rows[name] = row.model_copy(update=update)

    def finish(self, trial: int, value: float | None, state: RunState = RunState.SUCCEEDED) -> None:
        """An arm ends after it reported a value, and its record is complete."""
        if value is not None:
            self.metrics.values[f"vision-1.{trial}"] = [(0, value)]
        self.set(trial, state, recorded_at=self.lab.clock())
