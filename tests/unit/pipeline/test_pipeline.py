"""labcluster.pipeline as it is run: a process in a folder with a module."""

from __future__ import annotations

import http.server
import importlib
import json
import linecache
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from labcluster.pipeline.__main__ import main
from labcluster.pipeline.record import record

FLOW = Path(__file__).with_name("flow.py")
Pipeline = Callable[..., "Done"]


class Done(NamedTuple):
    """What a command left."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with flow.py, and none of the variables of a run."""
    shutil.copy(FLOW, tmp_path)
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "LABCLUSTER_"))]:
        monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def pipeline(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Pipeline:
    """labcluster.pipeline in that folder. In this process, since importing gokart takes seconds: every call
    finds the module as it is now, as a new process does."""
    monkeypatch.chdir(folder)

    def call(*words: str, **variables: str) -> Done:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "path", list(sys.path))
            patch.setattr(sys, "dont_write_bytecode", True)
            patch.delitem(sys.modules, "flow", raising=False)
            for name, value in variables.items():
                patch.setenv(name, value)
            linecache.clearcache()
            importlib.invalidate_caches()
            record.cache_clear()
            code = main(list(words))
            sys.modules.pop("flow", None)
        said = capsys.readouterr()
        return Done(code, said.out, said.err)

    return call


def test_it_runs_as_a_program(folder: Path) -> None:
    command = [sys.executable, "-m", "labcluster.pipeline", "run", "flow:Summary"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == '{"labcluster": "metric", "step": 0, "score": 5.5, "rate": 0.5}'
    assert done.stderr == ""


def entries(folder: Path) -> list[dict[str, Any]]:
    """The lines of the record."""
    return [json.loads(line) for line in (folder / "pipeline.jsonl").read_text().splitlines()]


def states(found: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Task and state of each line."""
    return [(entry["task"], entry["state"]) for entry in found]


def test_what_is_done_is_not_done_again_and_all_of_it_is_recorded(pipeline: Pipeline, tmp_path: Path) -> None:
    done = pipeline("run", "flow:Summary", "-p", "rate=0.25")
    assert done.returncode == 0, done.stderr
    found = entries(tmp_path / "resources")
    assert states(found) == [("Rows", "done"), ("Weights", "done"), ("Score", "done"), ("Summary", "done")]
    weights = found[1]
    assert weights["params"] == {"seed": "0", "rate": "0.25"}
    assert weights["metrics"] == {"loss": 0.125}
    assert [Path(path).exists() for path in [*weights["inputs"], *weights["outputs"]]] == [True, True]
    metrics = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert {"labcluster": "metric", "step": 1, "Weights.loss": 0.125} in metrics
    assert metrics[-1] == {"labcluster": "metric", "step": 0, "score": 4.25, "rate": 0.25}
    assert json.loads((tmp_path / "resources/result.json").read_text()) == {"score": 4.25, "rate": 0.25}
    assert (tmp_path / "resources/.gitignore").read_text().endswith("*\n")

    again = pipeline("run", "flow:Summary", "-p", "rate=0.25")
    assert again.returncode == 0
    assert states(entries(tmp_path / "resources")[4:]) == [("Summary", "cached")]
    assert '"score": 4.25' in again.stdout


def test_a_failed_pipeline_goes_on_where_it_stopped(pipeline: Pipeline, tmp_path: Path) -> None:
    failed = pipeline("run", "flow:Summary", FLOW_FAILS="1")
    assert failed.returncode == 1
    assert "RuntimeError: no luck" in failed.stderr
    assert "flow.py" in failed.stderr
    done = pipeline("run", "flow:Summary")
    assert done.returncode == 0
    assert states(entries(tmp_path / "resources")) == [
        ("Rows", "done"), ("Weights", "failed"),
        ("Rows", "cached"), ("Weights", "done"), ("Score", "done"), ("Summary", "done"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("was", "now", "left"),
    [
        ("self.rate / (epoch + 1)", "self.rate / (epoch + 2)", ["Weights", "Score", "Summary"]),
        ("epochs = 2", "epochs = 3", ["Weights", "Score", "Summary"]),
        ("return value * SCALE", "return value * 2", ["Score", "Summary"]),
        ('memory="8G"', 'memory="16G"', []),
        ("# nothing", "# nothing", []),
    ],
    ids=["its method", "its constant", "a function it uses", "what it asks for", "nothing"],
)
def test_changed_code_is_done_again_with_all_that_stands_on_it(
    pipeline: Pipeline, tmp_path: Path, was: str, now: str, left: list[str]
) -> None:
    assert pipeline("run", "flow:Summary").returncode == 0
    (tmp_path / "flow.py").write_text((tmp_path / "flow.py").read_text().replace(was, now))
    plan = json.loads(pipeline("plan", "flow:Summary").stdout)
    assert [run["task"] for run in plan["runs"]] == left


def test_the_plan_has_a_run_for_each_heavy_task_and_the_final_one(pipeline: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "artifacts").mkdir()
    done = pipeline("plan", "flow:Summary", LABCLUSTER_ARTIFACTS_DIR=str(tmp_path / "artifacts"))
    plan = json.loads((tmp_path / "artifacts/plan.json").read_text())
    assert plan == json.loads(done.stdout)
    runs = {run["task"]: run for run in plan["runs"]}
    assert list(runs) == ["Weights", "Score", "Summary"]
    assert runs["Weights"]["needs"]["gpus"] == 1
    assert runs["Summary"]["needs"] is None
    assert runs["Weights"]["after"] == []
    assert runs["Score"]["after"] == [runs["Weights"]["id"]]
    assert runs["Summary"]["after"] == [runs["Score"]["id"]]
    assert not (tmp_path / "resources").exists()

    only = pipeline("run", "flow:Summary", "--only", runs["Weights"]["id"])
    assert only.returncode == 0
    assert states(entries(tmp_path / "resources")) == [("Rows", "done"), ("Weights", "done")]
    after = json.loads(pipeline("plan", "flow:Summary").stdout)
    assert [run["task"] for run in after["runs"]] == ["Score", "Summary"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["flow:Summary", "-p", "rte=1"], 2, "no parameter 'rte'; it has rate"),
        (["flow:Summary", "-p", "rate=x"], 2, "could not convert"),
        (["flow"], 2, "write MODULE:TASK"),
        (["flow:Nothing"], 4, "has no task Nothing"),
        (["flaw:Summary"], 4, "no module flaw"),
        (["flow:scaled"], 2, "is not a labcluster.pipeline.Task"),
        (["flow:Summary", "--only", "0" * 32], 5, "changed since it was planned"),
    ],
)
def test_what_is_wrong_with_the_words_is_one_line(
    pipeline: Pipeline, words: list[str], code: int, says: str
) -> None:
    done = pipeline("run", *words)
    assert done.returncode == code
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


class Tracking(http.server.BaseHTTPRequestHandler):
    """What a pipeline needs of MLflow."""

    asked: list[tuple[str, Any]]
    status = 200

    def do_POST(self) -> None:
        """Remember, and answer a run."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path.removeprefix("/api/2.0/mlflow/"), body))
        assert self.headers["Authorization"] == "Bearer t0ken"
        answer = json.dumps({"run": {"info": {"run_id": f"r{len(self.asked)}"}}}).encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def tracking() -> Iterator[tuple[type[Tracking], dict[str, str]]]:
    """A tracking server, and the variables that lead to it."""
    handler = type("Handler", (Tracking,), {"asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    yield handler, {"MLFLOW_TRACKING_URI": url, "MLFLOW_TRACKING_TOKEN": "t0ken", "no_proxy": "*"}
    server.shutdown()
    server.server_close()
    thread.join()


def test_every_task_is_a_run_of_mlflow_below_the_pipelines(
    pipeline: Pipeline, tracking: tuple[type[Tracking], dict[str, str]]
) -> None:
    handler, variables = tracking
    variables |= {"MLFLOW_RUN_ID": "parent", "MLFLOW_EXPERIMENT_ID": "7"}
    assert pipeline("run", "flow:Summary", **variables).returncode == 0
    created = [body for path, body in handler.asked if path == "runs/create"]
    assert [body["run_name"] for body in created] == ["Rows", "Weights", "Score", "Summary"]
    ends = [body["end_time"] for path, body in handler.asked if path == "runs/update"]
    assert all(begin["start_time"] <= end for begin, end in zip(created, ends, strict=True))
    tags = {tag["key"]: tag["value"] for tag in created[1]["tags"]}
    assert (created[1]["experiment_id"], tags["mlflow.parentRunId"]) == ("7", "parent")
    assert tags["labcluster.state"] == "done"
    assert json.loads(tags["labcluster.inputs"])[0].endswith(".pkl")
    logged = [body for path, body in handler.asked if path == "runs/log-batch"]
    assert {"key": "rate", "value": "0.5"} in logged[1]["params"]
    losses = [(m["value"], m["step"]) for m in logged[1]["metrics"] if m["key"] == "loss"]
    assert losses == [(0.5, 0), (0.25, 1)]
    final = [body for body in logged if body["run_id"] == "parent"]
    assert {m["key"]: m["value"] for body in final for m in body["metrics"]} == {"score": 5.5, "rate": 0.5}
    ended = [body["status"] for path, body in handler.asked if path == "runs/update"]
    assert ended == ["FINISHED"] * 4


def test_a_pods_proof_is_read_anew_for_each_request_to_the_clusters_own_server(
    pipeline: Pipeline,
    tracking: tuple[type[Tracking], dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handler, variables = tracking
    (tmp_path / "token").write_text("t0ken\n")
    monkeypatch.setattr("labcluster.adapters.mlflow_client._POD_TOKEN", tmp_path / "token")
    variables |= {"MLFLOW_TRACKING_TOKEN": "0ld", "LABCLUSTER_PORTAL": variables["MLFLOW_TRACKING_URI"]}
    done = pipeline("run", "flow:Rows", **variables, MLFLOW_RUN_ID="parent")
    assert (done.returncode, done.stderr) == (0, "")
    assert handler.asked[0][0] == "runs/create"


def test_a_cache_hit_is_recorded_as_one(
    pipeline: Pipeline, tracking: tuple[type[Tracking], dict[str, str]]
) -> None:
    handler, variables = tracking
    assert pipeline("run", "flow:Weights").returncode == 0
    assert pipeline("run", "flow:Score", **variables, MLFLOW_RUN_ID="parent").returncode == 0
    created = [body for path, body in handler.asked if path == "runs/create"]
    marks = {
        body["run_name"]: next(tag["value"] for tag in body["tags"] if tag["key"] == "labcluster.state")
        for body in created
    }
    assert marks == {"Rows": "cached", "Weights": "cached", "Score": "done"}


def test_mlflow_that_fails_is_said_once_and_ends_nothing(
    pipeline: Pipeline, tracking: tuple[type[Tracking], dict[str, str]], tmp_path: Path
) -> None:
    handler, variables = tracking
    handler.status = 500
    done = pipeline("run", "flow:Summary", **variables)
    assert done.returncode == 0
    assert done.stderr.count("MLflow at") == 1
    assert len(handler.asked) == 1
    assert len(entries(tmp_path / "resources")) == 4
