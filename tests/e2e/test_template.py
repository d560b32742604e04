"""From `labctl new` to a trained model, a notebook and a pipeline, as a member does it on the login node."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

FLOW = Path(__file__).resolve().parents[1] / "unit" / "pipeline" / "flow.py"
SMALL = "--memory 1G --cpus 0.5 --time 10m"


def good(done: Any) -> str:
    """The output of a command that must have worked."""
    assert done.code == 0, done.err + done.out
    return str(done.out)


@pytest.fixture(scope="module")
def ada(ssh_as: Callable[..., Any]) -> Any:
    """A member of vision and shared, with a project that labctl made for her."""
    person = ssh_as("ada")
    good(person("rm -rf ~/e2e-flowers && labctl new e2e-flowers --answers cluster_project=vision"))
    return person


def submitted(user: Any, words: str, timeout: float = 240) -> dict[str, Any]:
    """A run at its end."""
    done = user(f"cd ~/e2e-flowers && {words}", timeout=timeout)
    assert done.out.startswith("{"), done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def text(user: Any, run: dict[str, Any], name: str) -> str:
    """A file of the run's directory."""
    return good(user(f"cat '{run['directory']}/{name}'"))


def test_the_templates_training_runs_and_leaves_model_and_metrics(ada: Any) -> None:
    command = "python3 -m e2e_flowers.train --data data/sample --epochs {epochs}"
    run = submitted(ada, f"labctl submit {SMALL} --set epochs=5 --wait --json -- {command}")
    assert (run["state"], run["project"]) == ("succeeded", "vision"), run["reason"]
    assert text(ada, run, "stdout.log").count("labcluster: step=") == 5
    metrics = json.loads(text(ada, run, "artifacts/metrics.json"))
    assert metrics["accuracy"] > 0.8
    assert metrics["seed"] == run["seed"]
    good(ada(f"test -s {run['directory']}/artifacts/model.joblib"))


def test_a_project_is_updated_where_it_was_made(ada: Any) -> None:
    git = "git -c user.name=ada -c user.email=ada@test"
    good(ada(f"cd ~/e2e-flowers && git add -A && {git} commit -qm all --allow-empty"))
    assert good(ada("cd ~/e2e-flowers && labctl new --update")).strip() == "It is up to date."


def test_a_notebook_runs_with_parameters_and_keeps_its_copy(ada: Any) -> None:
    words = f"labctl notebook run notebooks/explore.ipynb -p epochs=3 {SMALL} --wait --json"
    run = submitted(ada, words)
    assert (run["state"], run["name"], run["params"]) == ("succeeded", "explore", {"epochs": "3"}), run[
        "reason"
    ]
    assert text(ada, run, "stdout.log").count("labcluster: step=") == 3
    copy = json.loads(text(ada, run, "artifacts/explore.ipynb"))
    assert copy["metadata"]["papermill"]["parameters"] == {"epochs": 3}


def test_a_notebook_whose_cell_fails_fails_and_keeps_its_copy(ada: Any) -> None:
    words = f"labctl notebook run notebooks/explore.ipynb -p data=nowhere {SMALL} --wait --json"
    run = submitted(ada, words)
    assert (run["state"], run["exit_code"]) == ("failed", 1)
    assert "FileNotFoundError" in text(ada, run, "artifacts/explore.ipynb")


def test_a_failed_pipeline_goes_on_where_it_stopped_and_a_finished_one_is_not_done_again(ada: Any) -> None:
    flow = FLOW.read_text().replace('Needs(gpus=1, memory="8G", time="2h")', 'Needs(gpus=1, memory="512M")')
    flow = flow.replace("Needs(cpus=4)", 'Needs(cpus=0.2, memory="512M")')
    good(ada("rm -rf ~/e2e-flowers/resources; cat > ~/e2e-flowers/flow.py", stdin=flow.encode()))
    words = f"labctl pipeline run flow:Summary -p rate=0.25 {SMALL} --json"

    failed = submitted(ada, f"{words} --each --wait --env FLOW_FAILS=1", timeout=400)
    assert (failed["state"], failed["name"]) == ("cancelled", "Summary"), failed["reason"]
    left = submitted(ada, f"{words} --each --dry-run")
    assert [task["name"] for task in left["cached"]] == ["Rows(seed=0)"]
    assert [run["task"] for run in left["runs"]] == ["Weights", "Score", "Summary"]

    last = submitted(ada, f"{words} --each --wait", timeout=400)
    assert (last["state"], last["name"]) == ("succeeded", "Summary"), last["reason"]
    assert json.loads(text(ada, last, "artifacts/result.json")) == {"score": 4.25, "rate": 0.25}
    lines = [json.loads(line) for line in text(ada, last, "artifacts/pipeline.jsonl").splitlines()]
    assert [(line["task"], line["state"]) for line in lines] == [("Score", "cached"), ("Summary", "done")]
    assert submitted(ada, f"{words} --each --dry-run")["runs"] == []

    one = submitted(ada, f"{words} --wait")
    assert (one["state"], one["params"]) == ("succeeded", {"rate": "0.25"}), one["reason"]
    [line] = [json.loads(line) for line in text(ada, one, "artifacts/pipeline.jsonl").splitlines()]
    assert (line["task"], line["state"]) == ("Summary", "cached")
