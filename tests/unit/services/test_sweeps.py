"""Sweeps: what is accepted, drawn, judged, ended early, and found again after a crash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from labcluster.errors import LabclusterError, UsageError
from labcluster.models.runs import RunArray, RunState
from labcluster.models.sweeps import Range, SweepSpec, batched
from labcluster.services.holding import WAITS_FOR_DRAW
from pydantic import ValidationError
from sweep_fakes import Sweeping

LR = {"low": 0.0001, "high": 0.1, "log": True}
TPE: dict[str, Any] = {"params": {"lr": LR, "opt": ["sgd", "adam"]}, "arms": 12, "metric": "accuracy"}
GRID: dict[str, Any] = {
    "params": {"lr": ["0.1", "0.01"], "layers": {"low": 2, "high": 4, "integer": True}},
    "sampler": "grid",
    "parallel": 2,
    "metric": "loss",
    "goal": "min",
}


@pytest.fixture
def sweeping(lab: Any, tmp_path: Path) -> Sweeping:
    return Sweeping(lab, tmp_path)


def made(lab: Any) -> list[int]:
    """Arms that have a Job."""
    return sorted(int(name.rsplit("-", 1)[1]) for _, name in lab.cluster.jobs)


def submit(lab: Any, spec: dict[str, Any], **changes: Any) -> Any:
    command = ["python", "train.py", "--lr", "{lr}"]
    return lab.submit(**{"command": command, "gpus": 0, "sweep": spec, **changes})


def test_arms_are_drawn_as_places_become_free_until_the_best_is_known(lab: Any, sweeping: Sweeping) -> None:
    first = submit(lab, TPE)
    assert (first.id, first.array_size, first.drawn, made(lab)) == ("vision-1.0", 12, False, [])
    sweeping.turn()
    assert sweeping.drawn() == made(lab) == [0, 1, 2, 3]
    for arm in sweeping.arms()[:4]:
        assert 0.0001 <= float(arm.params["lr"]) <= 0.1
        assert arm.params["opt"] in ("sgd", "adam")
    assert lab.store.rows["vision-1.4"].reason == WAITS_FOR_DRAW
    pod = lab.cluster.jobs["project-vision", "run-vision-1-2"]["spec"]["template"]["spec"]
    assert sweeping.arms()[2].params["lr"] in str(pod)
    for trial in range(12):
        sweeping.finish(trial, trial / 20 if trial != 7 else 0.9)
        sweeping.turn()
    view = lab.runs.sweep(lab.ada, "vision-1")
    assert (view.best, view.run.state, view.run.exit_code) == ("vision-1.7", RunState.SUCCEEDED, 0)
    assert [arm.value for arm in view.arms][6:8] == [0.3, 0.9]
    assert len({arm.params["lr"] for arm in view.arms}) == 12
    assert view.run.params == {}
    assert sweeping.table.open() == []


def test_grid_has_every_point_once_and_the_lowest_can_be_the_best(lab: Any, sweeping: Sweeping) -> None:
    submit(lab, GRID)
    for trial in range(6):
        sweeping.turn()
        sweeping.finish(trial, 1.0 + abs(trial - 3))
    sweeping.turn()
    points = {(arm.params["lr"], arm.params["layers"]) for arm in sweeping.arms()}
    assert points == {(lr, layers) for lr in ("0.1", "0.01") for layers in ("2", "3", "4")}
    assert lab.runs.sweep(lab.ada, "vision-1").best == "vision-1.3"


@pytest.mark.parametrize("spec", [TPE, GRID, {**TPE, "sampler": "random"}], ids=["tpe", "grid", "random"])
def test_crash_between_drawing_and_writing_gives_the_arm_the_same_parameters(
    lab: Any, sweeping: Sweeping, spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(lab, spec)
    drawn = []

    def dies(arm: Any, params: Any) -> bool:
        drawn.append(dict(params))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sweeping.table, "draw", dies)
        sweeping.sweeper.turn()
    sweeping.restart()
    sweeping.turn()
    assert sweeping.arms()[0].params == drawn[0]
    sweeping.restart()
    before = [arm.params for arm in sweeping.arms()]
    sweeping.turn()
    assert [arm.params for arm in sweeping.arms()] == before
    shown = [tuple(arm.params.items()) for arm in sweeping.arms() if arm.drawn]
    assert len(set(shown)) == len(shown)


def test_draws_go_on_differently_after_a_restart(lab: Any, sweeping: Sweeping) -> None:
    submit(lab, {**TPE, "sampler": "random", "parallel": 1})
    for trial in range(4):
        sweeping.restart()
        sweeping.turn()
        sweeping.finish(trial, 0.5)
    assert len({arm.params["lr"] for arm in sweeping.arms()[:4]}) == 4


def test_half_drawn_arm_is_completed(lab: Any, sweeping: Sweeping, monkeypatch: pytest.MonkeyPatch) -> None:
    import optuna

    submit(lab, TPE)
    suggest, calls = optuna.Trial._suggest, []

    def dies(self: Any, name: str, distribution: Any) -> Any:
        calls.append(name)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return suggest(self, name, distribution)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(optuna.Trial, "_suggest", dies)
        sweeping.sweeper.turn()
    sweeping.restart()
    sweeping.turn()
    assert sweeping.drawn() == [0, 1, 2, 3]
    assert set(sweeping.arms()[0].params) == {"lr", "opt"}


def test_arm_that_falls_behind_is_ended_with_a_reason(lab: Any, sweeping: Sweeping) -> None:
    submit(lab, {**TPE, "stop_early": True, "grace": 3})
    sweeping.turn()
    for trial, level in enumerate((0.9, 0.1)):
        sweeping.set(trial, RunState.RUNNING)
        sweeping.metrics.values[f"vision-1.{trial}"] = [(step, level) for step in range(40)]
        sweeping.sweeper.turn()
    good, bad = sweeping.arms()[:2]
    assert good.state is RunState.RUNNING
    assert bad.state is RunState.CANCELLED
    assert bad.reason == "pruned at step 3: accuracy 0.1 falls behind the other arms'"
    sweeping.turn()
    assert sweeping.arms()[1].judged_at
    assert sweeping.arms()[1].value == 0.1
    assert 4 in sweeping.drawn()


def test_arm_is_measured_by_one_that_ended_between_two_looks(lab: Any, sweeping: Sweeping) -> None:
    submit(lab, {**TPE, "stop_early": True, "grace": 2})
    sweeping.turn()
    sweeping.metrics.values["vision-1.0"] = [(step, 0.9) for step in range(5)]
    sweeping.set(0, RunState.SUCCEEDED, recorded_at=lab.clock())
    sweeping.turn()
    sweeping.set(1, RunState.RUNNING)
    sweeping.metrics.values["vision-1.1"] = [(step, 0.1) for step in range(5)]
    sweeping.turn()
    assert sweeping.arms()[0].value == 0.9
    assert (sweeping.arms()[1].reason or "").startswith("pruned at step 2: accuracy 0.1")


def test_no_arm_is_ended_before_a_first_one_has_finished(lab: Any, sweeping: Sweeping) -> None:
    submit(lab, {**TPE, "stop_early": True})
    sweeping.turn()
    for trial, level in enumerate((0.9, 0.1, 0.2, 0.3)):
        sweeping.set(trial, RunState.RUNNING)
        sweeping.metrics.values[f"vision-1.{trial}"] = [(step, level) for step in range(40)]
    sweeping.turn()
    assert {arm.state for arm in sweeping.arms()[:4]} == {RunState.RUNNING}


def test_arms_without_a_result_cost_their_place_only(lab: Any, sweeping: Sweeping) -> None:
    submit(lab, TPE)
    sweeping.turn()
    sweeping.finish(0, 0.99, RunState.FAILED)
    sweeping.finish(1, None)
    sweeping.finish(2, float("nan"))
    lab.runs.cancel(lab.ada, "vision-1", "3,4")
    sweeping.turn()
    assert [arm.value for arm in sweeping.arms()[:5]] == [None] * 5
    assert sweeping.drawn() == [0, 1, 2, 3, 5, 6, 7, 8]
    assert lab.runs.sweep(lab.ada, "vision-1").best is None


def test_tpe_waits_a_while_for_the_metric_of_an_arm_that_ended(lab: Any, sweeping: Sweeping) -> None:
    submit(lab, {**TPE, "parallel": 1})
    sweeping.turn()
    sweeping.set(0, RunState.SUCCEEDED)
    sweeping.turn()
    assert sweeping.drawn() == [0]
    lab.clock.advance(300)
    sweeping.turn()
    assert sweeping.drawn() == [0, 1]
    sweeping.finish(0, 0.5)
    sweeping.turn()
    assert sweeping.arms()[0].value == 0.5


def test_mlflow_away_keeps_no_grid_from_going_on(lab: Any, sweeping: Sweeping) -> None:
    submit(lab, GRID)
    sweeping.turn()
    sweeping.finish(0, 0.5)
    sweeping.metrics.away = True
    sweeping.turn()
    assert sweeping.drawn() == [0, 1, 2]
    sweeping.metrics.away = False
    sweeping.turn()
    assert sweeping.arms()[0].value == 0.5


def test_only_one_controller_draws(lab: Any, sweeping: Sweeping) -> None:
    submit(lab, TPE)
    sweeping.table.taken = True
    sweeping.turn()
    assert sweeping.drawn() == []


def test_arm_that_is_queued_again_keeps_its_parameters_and_is_judged_again(
    lab: Any, sweeping: Sweeping
) -> None:
    submit(lab, TPE)
    sweeping.turn()
    sweeping.finish(0, 0.2, RunState.FAILED)
    sweeping.turn()
    before = sweeping.arms()[0].params
    lab.runs.requeue(lab.ada, "vision-1.0")
    sweeping.turn()
    sweeping.finish(0, 0.8)
    sweeping.turn()
    assert (sweeping.arms()[0].params, sweeping.arms()[0].value) == (before, 0.8)


def test_sweep_is_listed_and_ended_as_one(lab: Any, sweeping: Sweeping) -> None:
    submit(lab, TPE)
    sweeping.turn()
    whole = lab.runs.cancel(lab.ada, "vision-1")
    assert isinstance(whole, RunArray)
    assert whole.state is RunState.CANCELLED
    sweeping.turn()
    sweeping.turn()
    assert sweeping.drawn() == [0, 1, 2, 3]
    assert sweeping.table.open() == []


@pytest.mark.parametrize(
    ("spec", "changes", "says"),
    [
        (TPE, {"array": "0-3"}, "leave --array out"),
        (TPE, {"params": {"lr": "1"}}, "--set lr: the sweep chooses lr itself"),
        (TPE, {"nodes": 2}, "--nodes and sweep"),
        ({**TPE, "arms": 99_999}, {}, "at most"),
    ],
)
def test_contradictions_are_told(lab: Any, spec: Any, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(LabclusterError, match=says):
        submit(lab, spec, **changes)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({**TPE, "metric": None}, "needs the metric"),
        ({**GRID, "metric": None, "stop_early": True}, "needs the metric"),
        ({**GRID, "params": {"lr": LR}}, "a grid needs values"),
        ({**TPE, "params": {"lr": {"low": 1, "high": 0}}}, "the lower one stands first"),
        ({**TPE, "params": {"lr": {"low": 0, "high": 1, "log": True}}}, "above 0"),
        ({**TPE, "params": {"lr": ["1", "1"]}}, "twice"),
        ({**TPE, "params": {"n": {"low": 0.5, "high": 2, "integer": True}}}, "whole ends"),
        ({**TPE, "params": {}}, "at least 1"),
    ],
)
def test_unsound_spaces_are_told(spec: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        SweepSpec.model_validate(spec)


def test_run_that_is_no_sweep_says_so(lab: Any) -> None:
    lab.submit(array="0-3")
    with pytest.raises(UsageError, match="is no sweep"):
        lab.runs.sweep(lab.ada, "vision-1")


def test_points_of_a_range_are_as_typed() -> None:
    assert Range(low=0.1, high=0.5, step=0.1).points() == ["0.1", "0.2", "0.3", "0.4", "0.5"]
    assert Range(low=2, high=8, step=3, integer=True).points() == ["2", "5", "8"]


def test_many_values_are_thinned_evenly_to_the_last() -> None:
    thin = batched([(step, 0.0) for step in range(1000)], 50)
    assert (len(thin), thin[-1][0]) == (50, 999)
