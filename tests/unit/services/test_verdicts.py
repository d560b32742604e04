"""Verdicts on a run by its repetition: tolerances, curves, ends, and what a drift is held against."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from labcluster.errors import UsageError
from labcluster.models.records import DataVersion, Metric, Point, Record
from labcluster.services.verdicts import Judgement, judge, needed, parse_tolerances


def metric(key: str, *values: float, steps: Sequence[float] | None = None) -> Metric:
    points = tuple(
        Point(step, value, None) for step, value in zip(steps or range(len(values)), values, strict=True)
    )
    return Metric(key, len(points), points[-1], None, None, None, 0, None, points)


def record(number: int = 7, *metrics: Metric, **more: Any) -> Record:
    told = {"project": "vision", "state": "succeeded", "exit_code": 0, "node": "gpu1", **more.pop("run", {})}
    return Record(f"vision-{number}", told, metrics={one.key: one for one in metrics}, **more)


def verdict(before: Sequence[Metric], after: Sequence[Metric], *words: str, **options: Any) -> Judgement:
    return judge(record(7, *before), record(8, *after), parse_tolerances(words), **options)


def test_the_same_values_are_reproduced_and_any_other_is_a_drift() -> None:
    same = verdict([metric("loss", 0.5, 0.25)], [metric("loss", 0.5, 0.25)])
    assert (same.verdict, same.line) == ("reproduced", "succeeded again, 1 metric the same (exact)")
    apart = verdict([metric("loss", 0.25)], [metric("loss", 0.25000001)])
    assert apart.verdict == "drifted"
    assert apart.line.startswith("loss was 0.25 and is 0.25000001")
    assert "not deterministic" in apart.line


@pytest.mark.parametrize(
    ("before", "after", "word", "same"),
    [
        (100.0, 101.0, "loss=1%", True),
        (100.0, 101.1, "loss=1%", False),
        (-100.0, -101.0, "loss=1%", True),
        (0.9, 0.904, "loss=0.005", True),
        (0.9, 0.906, "loss=0.005", False),
        (0.0, 1e-9, "loss=50%", False),
        (1.0, 9.0, "loss=any", True),
        (1.0, 1.5, "50%", True),
        (1.0, 1.5, "lo*=50%", True),
        (1.0, 1.5, "other=50%", False),
        (float("nan"), float("nan"), "loss=0", True),
        (float("nan"), 1.0, "loss=1000", False),
        (float("inf"), float("inf"), "loss=0", True),
        (float("inf"), 1.0, "loss=100%", False),
    ],
)
def test_tolerance(before: float, after: float, word: str, same: bool) -> None:
    found = verdict([metric("loss", before)], [metric("loss", after)], word)
    assert found.verdict == ("reproduced" if same else "drifted")
    json.dumps(found.as_json(), allow_nan=False)


def test_a_name_comes_before_a_pattern_and_the_last_of_several_counts() -> None:
    tolerances = parse_tolerances(["loss=1%", "*=any", "2%", "loss=3%"])
    assert (tolerances.of("loss").text, tolerances.of("acc").text) == ("3%", "2%")


@pytest.mark.parametrize("word", ["loss", "loss=", "=1%", "loss=-1", "loss=nan", "loss=x%", "loss=inf"])
def test_a_tolerance_that_is_none(word: str) -> None:
    with pytest.raises(UsageError, match="METRIC"):
        parse_tolerances([word])


def test_metrics_of_only_one_run_are_a_drift_and_uses_of_the_machine_count_for_nothing() -> None:
    cpu = metric("system/cpu_utilization_percentage", 5.0)
    found = verdict([metric("loss", 1.0), metric("acc", 1.0), cpu], [metric("loss", 1.0)])
    assert (found.verdict, found.line.split(";")[0]) == ("drifted", "acc: only in vision-7")
    assert [one.metric for one in found.metrics] == ["acc", "loss"]
    assert verdict([cpu], []).verdict == "reproduced"


def test_curves_are_held_against_one_another_only_if_asked() -> None:
    before, after = [metric("loss", 3.0, 2.0, 1.0)], [metric("loss", 3.0, 2.5, 1.0)]
    assert verdict(before, after).verdict == "reproduced"
    found = verdict(before, after, curves=True)
    assert found.line.startswith("loss was 2 and is 2.5 at step 1 (+25.00%)")
    assert verdict(before, after, "25%", curves=True).verdict == "reproduced"
    shorter = verdict(before, [metric("loss", 3.0, 1.0)], "any", "loss=99%", curves=True)
    assert shorter.line.startswith("loss: 3 and 2 values")
    moved = verdict(before, [metric("loss", 3.0, 2.0, 1.0, steps=[0, 1, 3])], curves=True)
    assert moved.line.startswith("loss: other steps")


def test_failed_runs_are_reproduced_by_failing_the_same_way() -> None:
    def failed(number: int, code: int) -> Record:
        return record(number, run={"state": "failed", "exit_code": code})

    same = judge(failed(7, 3), failed(8, 3), parse_tolerances([]))
    assert (same.verdict, same.line) == ("reproduced", "failed with exit status 3 again")
    assert same.notes == ("there are no metrics: only how it ended was judged",)
    other = judge(failed(7, 3), failed(8, 4), parse_tolerances([]))
    assert other.line.startswith("it failed with exit status 3 and now failed with exit status 4")
    assert judge(failed(7, 3), record(8), parse_tolerances([])).verdict == "drifted"


def test_a_drift_names_what_else_differs() -> None:
    before = record(7, metric("loss", 1.0), packages={"torch": "2.0"}, node={"driver": "580", "pod": "a"})
    after = record(8, metric("loss", 2.0), packages={"torch": "2.1"}, node={"driver": "581", "pod": "b"})
    found = judge(before, after, parse_tolerances([]))
    assert found.differences == {"packages": {"torch": ("2.0", "2.1")}, "node": {"driver": ("580", "581")}}
    assert found.line.endswith("also different: packages torch, node driver")


def test_other_bytes_make_it_impossible_whatever_the_metrics_say() -> None:
    def saw(number: int, digest: str | None, **more: Any) -> Record:
        data = (DataVersion("/lab/datasets/a", digest, None, 1, 1),) if digest else ()
        return record(number, metric("loss", 1.0), data=data, **more)

    found = judge(saw(7, "a" * 64), saw(8, "b" * 64), parse_tolerances([]))
    assert found.verdict == "impossible"
    assert "data changed: /lab/datasets/a was aaaaaaaaaaaa" in found.line
    gone = {"state": "failed", "reason": "--data /lab/datasets/a: the node cannot read it"}
    found = judge(saw(7, "a" * 64), saw(8, None, run=gone), parse_tolerances([]))
    assert (found.verdict, "the node cannot read it" in found.line) == ("impossible", True)
    assert judge(saw(7, "a" * 64), saw(8, "a" * 64), parse_tolerances([])).verdict == "reproduced"


def test_the_tolerance_that_would_do_is_enough() -> None:
    before, after = [metric("loss", 3.0), metric("acc", 0.9)], [metric("loss", 3.01), metric("acc", 0.9)]
    word = needed(verdict(before, after).metrics)
    assert word == "0.34%"
    assert verdict(before, after, word).verdict == "reproduced"
    assert needed(verdict([metric("loss", 0.0)], [metric("loss", 1.0)]).metrics) is None
