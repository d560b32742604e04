"""What the run table knows of sweeps, and the metrics of their arms in MLflow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime

import sqlalchemy as sa

from labcluster.adapters.mlflow import MlflowApi
from labcluster.adapters.postgres import PUBLIC, PostgresRuns, reachable, run_of
from labcluster.adapters.recording import MlflowRecords
from labcluster.adapters.tables import ACTIVE_SQL, ARRAYS, RUNS
from labcluster.errors import NotFoundError
from labcluster.models.arms import Sweep
from labcluster.models.runs import Run
from labcluster.models.sweeps import SweepSpec

_LOCK = sa.text("SELECT pg_try_advisory_lock(hashtext('labcluster sweeps'))")
_UNLOCK = sa.text("SELECT pg_advisory_unlock(hashtext('labcluster sweeps'))")
_PAGE = 25_000


_SAME = (RUNS.c.project == ARRAYS.c.project, RUNS.c.number == ARRAYS.c.number)
_OPEN = sa.select(ARRAYS).where(
    ARRAYS.c.sweep.is_not(None), sa.exists().where(*_SAME, RUNS.c.judged_at.is_(None))
)


class PostgresSweeps(PostgresRuns):
    """Implements `services.sweeps.SweepTable`."""

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether nobody else draws now; PostgreSQL itself ends the lock of who dies."""
        with reachable():
            connection = self._pool.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            with reachable():
                alone = bool(connection.execute(_LOCK).scalar())
            yield alone
            if alone:
                with reachable():
                    connection.execute(_UNLOCK)
        except BaseException:
            connection.invalidate()  # with it goes the lock
            raise
        finally:
            connection.close()

    def pending(self) -> bool:
        """Whether there is any such sweep."""
        with reachable(), self._pool.connect() as connection:
            return bool(connection.execute(sa.select(sa.exists(_OPEN))).scalar())

    def open(self) -> Sequence[Sweep]:
        """Sweeps with arms whose end was not taken note of, the oldest first."""
        with reachable(), self._pool.connect() as connection:
            rows = connection.execute(_OPEN.order_by(ARRAYS.c.submitted_at)).all()
            if not rows:
                return []
            keys = [(row.project, row.number) for row in rows]
            arms: dict[tuple[str, int], list[Run]] = {key: [] for key in keys}
            of_them = sa.select(*PUBLIC).where(sa.tuple_(RUNS.c.project, RUNS.c.number).in_(keys))
            for row in connection.execute(of_them.order_by(RUNS.c.trial)):
                arms[row.project, row.number].append(run_of(row))
        return [
            Sweep(row.project, row.number, SweepSpec.model_validate(row.sweep), arms[row.project, row.number])
            for row in rows
        ]

    def draw(self, arm: Run, params: Mapping[str, str]) -> bool:
        """Give an arm its parameters, once."""
        waits = (RUNS.c.drawn.is_(False), sa.text(ACTIVE_SQL))
        update = RUNS.update().where(*_same(arm), *waits).values(params=dict(params), drawn=True)
        return self._write(update)

    def judge(self, arm: Run, value: float | None, moment: datetime) -> None:
        """Take note of this attempt's end."""
        attempt = RUNS.c.attempt == arm.attempt
        self._write(RUNS.update().where(*_same(arm), attempt).values(value=value, judged_at=moment))


def _same(run: Run) -> tuple[sa.ColumnElement[bool], ...]:
    return (RUNS.c.project == run.project, RUNS.c.number == run.number, RUNS.c.trial == run.trial)


class MlflowMetrics:
    """Implements `services.sweeps.Metrics`."""

    def __init__(self, api: MlflowApi) -> None:
        self._api = api
        self._records = MlflowRecords(api)
        self._found: dict[tuple[str, int], str] = {}

    def history(self, run: Run, metric: str) -> Sequence[tuple[int, float]]:
        """Its values by step, of one step the last, as far as MLflow has them."""
        key = (run.id, run.attempt)
        if key not in self._found:
            found = self._records.find(run)
            if found is None:
                return ()
            self._found[key] = found.id
        values: dict[int, float] = {}
        asked = {"run_id": self._found[key], "metric_key": metric, "max_results": _PAGE}
        while True:
            try:
                answer = self._api.get(run.project, "metrics/get-history", asked)
            except NotFoundError:
                self._found.pop(key)
                return ()
            for point in answer.get("metrics") or []:
                values[int(point.get("step", 0))] = float(point["value"])
            if not answer.get("next_page_token"):
                return sorted(values.items())
            asked["page_token"] = answer["next_page_token"]
