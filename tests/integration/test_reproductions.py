"""Verdicts on repeated runs on a real PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from labcluster.adapters.postgres import PostgresRuns
from labcluster.adapters.reproductions import PostgresReproductions
from labcluster.models.reproductions import ReproductionReport, Verdict
from labcluster.models.runs import Run, Submission
from test_postgres import NEW

AT = datetime(2026, 11, 21, 8, tzinfo=UTC)


@pytest.fixture
def store(pool: sa.Engine) -> PostgresReproductions:
    with pool.begin() as connection:
        connection.execute(sa.text("TRUNCATE runs, arrays, run_counters, reproductions"))
    return PostgresReproductions(pool)


@pytest.fixture
def run(pool: sa.Engine, store: PostgresReproductions) -> Run:
    [run], _ = PostgresRuns(pool).add([Submission(run=NEW)], "key-0001", "print")
    return run


def found(run: Run, again: str | None, verdict: Verdict, minutes: int = 0) -> ReproductionReport:
    at = AT + timedelta(minutes=minutes)
    return ReproductionReport(
        of=run.id, again=again, verdict=verdict, line="why", by="ada", at=at, report={"metrics": [1.5]}
    )


def test_the_last_verdict_on_a_pair_is_kept_and_found_from_both_sides(
    store: PostgresReproductions, run: Run
) -> None:
    first, last = found(run, "vision-9", Verdict.DRIFTED), found(run, "vision-9", Verdict.REPRODUCED, 1)
    store.keep(run, first)
    store.keep(run, last)
    gone = found(run, None, Verdict.IMPOSSIBLE, 2)
    store.keep(run, gone)
    assert store.about([run.id]) == [last, gone]
    assert store.about(["vision-9"]) == [last]
    assert store.about(["vision-10"]) == []
