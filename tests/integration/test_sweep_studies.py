"""Sweeps on a real PostgreSQL: the table's part and Optuna's, beside each other in one database."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from labcluster.adapters.studies import SCHEMA, OptunaStudies
from labcluster.adapters.sweeps import PostgresSweeps
from labcluster.models.runs import NewArray, Run, RunArray, RunChange, RunState, Submission
from labcluster.models.sweeps import SweepSpec
from labcluster.services.sweeps import Sweeper
from test_postgres import NEW

SPEC = SweepSpec.model_validate(
    {
        "params": {"lr": {"low": 0.001, "high": 0.1, "log": True}, "opt": ["sgd", "adam"]},
        "arms": 12,
        "metric": "accuracy",
    }
)


@pytest.fixture
def table(pool: sa.Engine) -> PostgresSweeps:
    with pool.begin() as connection:
        connection.execute(sa.text("TRUNCATE runs, arrays, run_counters"))
        connection.execute(sa.text("DROP SCHEMA optuna CASCADE"))
        connection.execute(sa.text("CREATE SCHEMA optuna"))
    return PostgresSweeps(pool)


@pytest.fixture
def studies(server: str, table: PostgresSweeps) -> Iterator[OptunaStudies]:
    found = OptunaStudies(server, {"options": f"-c search_path={SCHEMA}"})
    yield found
    found.close()


def submit(table: PostgresSweeps, spec: SweepSpec = SPEC) -> Run:
    array = NewArray(
        text=spec.indices(), indices=tuple(range(spec.total())), parallel=spec.limit(), sweep=spec
    )
    run = NEW.model_copy(update={"seed": 7, "params": {"epochs": "3"}})
    return table.add([Submission(run=run, array=array, held_reason="held")], str(uuid.uuid4()), "f")[0][0]


class Metrics:
    """Accuracy is highest where lr is."""

    def history(self, run: Run, metric: str) -> list[tuple[int, float]]:
        return [(0, float(run.params["lr"]))]


def end(table: PostgresSweeps, run: Run) -> None:
    now = datetime.now(UTC)
    assert table.change(run, RunChange(state=RunState.SUCCEEDED, finished_at=now, exit_code=0))
    with table._pool.begin() as connection:
        connection.execute(
            sa.text("UPDATE runs SET recorded_at = now() WHERE trial = :trial"), {"trial": run.trial}
        )


def test_sweep_goes_to_its_end_and_its_record_stays_with_the_array(
    table: PostgresSweeps, studies: OptunaStudies
) -> None:
    first = submit(table)
    assert (first.drawn, first.reason) == (False, None)
    drawn: list[int] = []
    for _ in range(12):
        # Each turn is a new controller's.
        studies.close()
        Sweeper(table=table, study_of=studies, metrics=Metrics()).turn()
        arms = table.members("vision", first.number)
        drawn.append(sum(arm.drawn for arm in arms))
        for arm in arms:
            if arm.drawn and not arm.state.final:
                end(table, arm)
                break
    Sweeper(table=table, study_of=studies, metrics=Metrics()).turn()
    arms = table.members("vision", first.number)
    assert drawn == [4, 5, 6, 7, 8, 9, 10, 11, 12, 12, 12, 12]
    assert len({arm.params["lr"] for arm in arms}) == 12
    assert all(arm.params["epochs"] == "3" and arm.value == float(arm.params["lr"]) for arm in arms)
    assert (table.pending(), table.open()) == (False, [])
    whole = table.array("vision", first.number)
    assert isinstance(whole, RunArray)
    assert (whole.summary.sweep, whole.state) == (SPEC, RunState.SUCCEEDED)


def test_arm_is_drawn_once_and_never_after_its_end(table: PostgresSweeps) -> None:
    first = submit(table)
    assert table.draw(first, {"lr": "1"})
    assert not table.draw(first, {"lr": "2"})
    second = table.members("vision", first.number)[1]
    table.end("vision", first.number, [1], RunChange(state=RunState.CANCELLED, finished_at=datetime.now(UTC)))
    assert not table.draw(second, {"lr": "3"})
    assert [arm.params for arm in table.members("vision", first.number)][:2] == [{"lr": "1"}, {"epochs": "3"}]


def test_next_attempt_is_judged_anew(table: PostgresSweeps) -> None:
    first = submit(table)
    table.draw(first, {"lr": "1"})
    table.end(
        "vision", first.number, None, RunChange(state=RunState.CANCELLED, finished_at=datetime.now(UTC))
    )
    for arm in table.members("vision", first.number):
        table.judge(arm, 0.5, datetime.now(UTC))
    assert table.open() == []
    [again] = table.requeue([first], "again")
    assert (again.value, again.judged_at, again.drawn, again.params) == (None, None, True, {"lr": "1"})
    assert table.pending()
    assert len(table.open()) == 1


def test_only_one_is_alone(table: PostgresSweeps) -> None:
    with table.alone() as first, table.alone() as second:
        assert (first, second) == (True, False)
    with table.alone() as again:
        assert again
    with pytest.raises(RuntimeError), table.alone():
        raise RuntimeError
    with table.alone() as after_a_fault:
        assert after_a_fault


def test_optunas_tables_are_beside_ours(
    table: PostgresSweeps, studies: OptunaStudies, pool: sa.Engine
) -> None:
    submit(table)
    [sweep] = table.open()
    studies(sweep).draw(0)
    look = sa.inspect(pool)
    assert "trials" in look.get_table_names(schema=SCHEMA)
    assert "trials" not in look.get_table_names()
    with pool.connect() as connection:
        assert (
            connection.execute(sa.text("SELECT version_num FROM public.alembic_version")).scalar() == "0008"
        )
