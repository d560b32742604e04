"""What the database knows of usage: sums over the run table, and the file server's newest report."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from labcluster.adapters.postgres import reachable
from labcluster.adapters.tables import REPORTS, RUNS
from labcluster.models.usage import Consumption, StorageReport

_STORAGE = "storage"


class PostgresUsage:
    """Implements `services.usage.UsageStore`."""

    def __init__(self, pool: sa.Engine) -> None:
        self._pool = pool

    def consumed(
        self, since: datetime, until: datetime, projects: frozenset[str] | None, user: str | None
    ) -> tuple[Sequence[Consumption], Sequence[Consumption]]:
        """By project and by user. A run counts with the part of its time that lies within."""
        columns = RUNS.c
        span = sa.func.least(sa.func.coalesce(columns.finished_at, until), until) - sa.func.greatest(
            columns.started_at, since
        )
        hours = sa.func.greatest(sa.extract("epoch", span), 0) / 3600.0
        # greatest and least pass over what is NULL: a run that never started would count from `since`.
        started = columns.started_at.is_not(None)
        waited = sa.extract("epoch", columns.started_at - columns.submitted_at)
        query = (
            sa.select(
                columns.project,
                columns.user,
                sa.func.count(),
                sa.func.coalesce(sa.func.sum(hours * columns.gpus * columns.nodes).filter(started), 0),
                sa.func.coalesce(sa.func.sum(hours * columns.cpus * columns.nodes).filter(started), 0),
                sa.func.percentile_cont(0.5).within_group(waited).filter(started),
            )
            .where(
                columns.submitted_at < until,
                sa.or_(columns.finished_at.is_(None), columns.finished_at >= since),
            )
            .group_by(sa.func.grouping_sets(sa.tuple_(columns.project), sa.tuple_(columns.user)))
        )
        if projects is not None:
            query = query.where(columns.project.in_(sorted(projects)))
        if user is not None:
            query = query.where(columns.user == user)
        by_project: list[Consumption] = []
        by_user: list[Consumption] = []
        with reachable(), self._pool.connect() as connection:
            for project, person, runs, gpu_hours, cpu_hours, wait in connection.execute(query):
                line = Consumption(
                    name=person if project is None else project,
                    runs=runs,
                    gpu_hours=float(gpu_hours),
                    cpu_hours=float(cpu_hours),
                    wait_seconds=None if wait is None else float(wait),
                )
                (by_user if project is None else by_project).append(line)
        return by_project, by_user

    def keep_storage(self, report: StorageReport) -> None:
        """Remember the newest report of the file server."""
        values: dict[str, Any] = {"name": _STORAGE, "report": report.model_dump(mode="json")}
        statement = (
            insert(REPORTS)
            .values(values)
            .on_conflict_do_update(index_elements=["name"], set_={"report": values["report"]})
        )
        with reachable(), self._pool.begin() as connection:
            connection.execute(statement)

    def storage(self) -> StorageReport | None:
        """The newest report."""
        query = sa.select(REPORTS.c.report).where(REPORTS.c.name == _STORAGE)
        with reachable(), self._pool.connect() as connection:
            found = connection.execute(query).scalar_one_or_none()
        return StorageReport.model_validate(found) if found is not None else None
