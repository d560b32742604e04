"""Verdicts on repeated runs in PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from labcluster.adapters.postgres import reachable
from labcluster.adapters.tables import REPRODUCTIONS
from labcluster.models.reproductions import ReproductionReport
from labcluster.models.runs import Run

_KEY = (REPRODUCTIONS.c.of, REPRODUCTIONS.c.again)


class PostgresReproductions:
    """Implements `services.reproductions.ReproductionStore`."""

    def __init__(self, pool: sa.Engine) -> None:
        self._pool = pool

    def keep(self, of: Run, found: ReproductionReport) -> None:
        """Write a verdict down; a later one about the same two runs takes its place."""
        values = found.model_dump() | {
            "of": of.id,
            "again": found.again or "",
            "verdict": found.verdict.value,
        }
        statement = insert(REPRODUCTIONS).values(values)
        statement = statement.on_conflict_do_update(index_elements=list(_KEY), set_=values)
        with reachable(), self._pool.begin() as connection:
            connection.execute(statement)

    def about(self, ids: Collection[str]) -> Sequence[ReproductionReport]:
        """Verdicts on runs or on their being repetitions, oldest first."""
        wanted = sorted(ids)
        query = (
            sa.select(REPRODUCTIONS)
            .where(sa.or_(REPRODUCTIONS.c.of.in_(wanted), REPRODUCTIONS.c.again.in_(wanted)))
            .order_by(REPRODUCTIONS.c.at)
        )
        with reachable(), self._pool.connect() as connection:
            rows = connection.execute(query).all()
        return [ReproductionReport(**{**row._mapping, "again": row.again or None}) for row in rows]
