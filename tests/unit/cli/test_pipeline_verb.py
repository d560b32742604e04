"""labctl pipeline run: what is submitted, in which order."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import FakePortal, Labctl, run

NEEDS = {"gpus": 1, "cpus": 2, "memory": "8G", "time": "2h", "image": None}
PLAN: dict[str, Any] = {
    "root": "c",
    "cached": [{"id": "z", "name": "Rows(seed=0)"}],
    "runs": [
        {"id": "a", "task": "Weights", "name": "Weights(rate=0.5)", "needs": NEEDS, "after": []},
        {"id": "b", "task": "Score", "name": "Score()", "needs": NEEDS | {"gpus": 0}, "after": ["a"]},
        {"id": "c", "task": "Summary", "name": "Summary()", "needs": None, "after": ["a", "b"]},
    ],
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def planned(portal: FakePortal, folder: Path) -> Path:
    """A portal whose first run plans, and the directory of that run."""
    directory = folder / "runs/7_0_plan"
    (directory / "artifacts").mkdir(parents=True)
    (directory / "artifacts/plan.json").write_text(json.dumps(PLAN))
    planning = run("succeeded", directory=str(directory))
    portal.on("POST", "/runs", planning, *(run(id=f"vision-{number}") for number in (8, 9, 10)))
    portal.on("GET", "/runs/vision-7", planning)
    return directory


def bodies(portal: FakePortal) -> list[Any]:
    """What was submitted, in order."""
    return [request.body for request in portal.asked("POST") if request.path == "/runs"]


def test_by_default_it_is_one_run(portal: FakePortal, labctl: Labctl, folder: Path) -> None:
    portal.on("POST", "/runs", run())
    done = labctl("pipeline", "run", "flow:Summary", "-p", "rate=0.5", "--gpus", "1", "--no-code")
    assert (done.code, done.out) == (0, "vision-7\n")
    [body] = bodies(portal)
    assert body["command"] == [
        "python3", "-m", "labcluster.pipeline", "run", "flow:Summary", "-p", "rate={rate}",
        "--workspace", str(folder / "resources"),
    ]  # fmt: skip
    assert body["params"] == {"rate": "0.5"}
    assert (body["name"], body["gpus"]) == ("Summary", 1)


@pytest.mark.usefixtures("planned")
def test_each_heavy_task_is_a_run_after_those_it_requires(portal: FakePortal, labctl: Labctl) -> None:
    words = ["flow:Summary", "-p", "rate=0.5", "--each", "--project", "vision", "--cpus", "3", "--no-code"]
    done = labctl("pipeline", "run", *words)
    assert done.code == 0, done.err
    assert done.out.splitlines() == ["vision-8 Weights(rate=0.5)", "vision-9 Score()", "vision-10 Summary()"]
    plan, weights, score, summary = bodies(portal)
    assert plan["command"][3] == "plan"
    assert (plan["gpus"], plan["memory"]) == (0, "2Gi")
    assert weights["command"][-2:] == ["--only", "a"]
    assert (weights["gpus"], weights["cpus"], weights["memory"], weights["time_seconds"]) == (
        1,
        2,
        "8Gi",
        7200,
    )
    assert "after" not in weights
    assert score["after"] == ["vision-8:ok"]
    assert summary["after"] == ["vision-8:ok", "vision-9:ok"]
    assert (summary["gpus"], summary["cpus"], summary["name"]) == (0, 3, "Summary")
    assert {body["project"] for body in bodies(portal)} == {"vision"}
    assert len({body["idempotency_key"] for body in bodies(portal)}) == 4


@pytest.mark.usefixtures("planned")
def test_what_a_task_needs_goes_before_labcluster_toml(portal: FakePortal, labctl: Labctl) -> None:
    Path("labcluster.toml").write_text('[submit]\ngpus = 2\nproject = "vision"\n')
    assert labctl("pipeline", "run", "flow:Summary", "--each", "--no-code").code == 0
    assert [body["gpus"] for body in bodies(portal)] == [0, 1, 0, 2]
    assert {body["project"] for body in bodies(portal)} == {"vision"}


@pytest.mark.usefixtures("planned")
def test_a_dry_run_shows_the_plan(portal: FakePortal, labctl: Labctl) -> None:
    done = labctl("pipeline", "run", "flow:Summary", "--each", "--dry-run", "--no-code")
    assert done.out.splitlines() == [
        "Rows(seed=0) is there",
        "Weights(rate=0.5) would be a run with gpus 1, cpus 2, memory 8G, time 2h",
        "Score() would be a run with cpus 2, memory 8G, time 2h",
        "Summary() would be a run",
    ]
    assert len(bodies(portal)) == 1


def test_a_plan_that_fails_shows_why_and_submits_nothing(
    portal: FakePortal, labctl: Labctl, planned: Path
) -> None:
    failed = run("failed", exit_code=4, directory=str(planned))
    portal.on("POST", "/runs", failed)
    portal.on("GET", "/runs/vision-7", failed)
    (planned / "stdout.log").write_text("labcluster.pipeline: there is no module flow here\n")
    done = labctl("pipeline", "run", "flow:Summary", "--each", "--no-code")
    assert done.code == 1
    assert "no module flow here" in done.out
    assert "could not plan flow:Summary" in done.err
    assert len(bodies(portal)) == 1


def test_where_the_plan_cannot_be_read_nothing_is_submitted(
    portal: FakePortal, labctl: Labctl, planned: Path
) -> None:
    (planned / "artifacts/plan.json").unlink()
    done = labctl("pipeline", "run", "flow:Summary", "--each", "--no-code")
    assert done.code == 2
    assert "where /lab is mounted" in done.err
    assert len(bodies(portal)) == 1


@pytest.mark.parametrize(
    "words", [["--follow"], ["--array", "0-3"], ["--nodes", "2"], ["--after", "vision-1"]]
)
def test_options_that_say_another_order_are_refused(
    portal: FakePortal, labctl: Labctl, words: list[str]
) -> None:
    assert labctl("pipeline", "run", "flow:Summary", "--each", *words).code == 2
    assert not portal.requests


def test_locally_it_runs_in_the_shells_python(labctl: Labctl, folder: Path) -> None:
    (folder / "flow.py").write_text(
        "from labcluster.pipeline import Task\n"
        "class Two(Task):\n"
        "    def run(self):\n"
        "        self.dump({'two': 2})\n"
    )
    os.environ.pop("LABCLUSTER_ARTIFACTS_DIR", None)
    done = labctl("pipeline", "run", "flow:Two", "--local", "--python", sys.executable)
    assert done.code == 0
    assert json.loads((folder / "resources/result.json").read_text()) == {"two": 2.0}
    assert labctl("pipeline", "run", "flow:None", "--local", "--python", sys.executable).code == 4
    assert labctl("pipeline", "run", "flow:Two", "--local", "--python", "./no-python").code == 4
