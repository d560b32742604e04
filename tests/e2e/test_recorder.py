"""The record of runs in MLflow: what gets there by itself, and what is left of an outage or a violent end."""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
KUBECTL = ROOT / "build/store/bin/kubernetes/kubectl"

TRAINING = """
import json, os, time
for step in range(20):
    print(json.dumps({"labcluster": "metric", "step": step, "loss": 1 / (step + 1)}), flush=True)
    print(f"labcluster: step={step} acc={step / 20}", flush=True)
    time.sleep(0.05)
with open(os.environ["LABCLUSTER_METRICS"], "a") as file:
    file.write('{"step": 1, "from_file": 7}\\n')
import matplotlib.pyplot as plt, joblib, numpy
here = os.environ["LABCLUSTER_ARTIFACTS"]
plt.plot([1, 2]); plt.savefig(f"{here}/plot.png")
os.mkdir(f"{here}/model"); joblib.dump(numpy.ones(5), f"{here}/model/weights.joblib")
json.dump({"lr": 0.1, "layers": 3}, open(f"{here}/args.json", "w"))
time.sleep(12)
"""
OWN_CALLS = """
import os, mlflow
print("run", os.environ["MLFLOW_RUN_ID"])
with mlflow.start_run():
    mlflow.log_param("lr", 0.001)
    mlflow.log_metric("own", 3.0, step=2)
    mlflow.log_text("hello", "own.txt")
print("labcluster: step=1 printed=4")
"""
# Half of its metrics while MLflow is away.
LONG = """
import time
for step in range(400):
    print(f"labcluster: step={step} loss={step}", flush=True)
    time.sleep(0.1)
"""


def good(done: Any) -> str:
    """The output of a command that must have worked."""
    assert done.code == 0, done.err
    return str(done.out)


def wait_until(what: str, met: Callable[[], Any], seconds: float) -> Any:
    """The first answer that is something."""
    deadline = time.monotonic() + seconds
    while not (found := met()):
        assert time.monotonic() < deadline, f"{what}: not after {seconds:g} s"
        time.sleep(1)
    return found


class Ada:
    """A member of vision on the login node, and what she sees of her runs."""

    def __init__(self, run: Callable[..., Any], cluster: str, url: str) -> None:
        self.run = run
        self._cluster = cluster
        self._url = url

    def submit(self, options: str, *command: str) -> str:
        """A run; the answer is its id."""
        words = f"cd; labctl submit --project vision --memory 512Mi --cpus 0.3 --no-code --json {options} --"
        return str(json.loads(good(self.run(f"{words} {shlex.join(command)}")))["id"])

    def show(self, run: str) -> dict[str, Any]:
        """A run as it is now."""
        found: dict[str, Any] = json.loads(good(self.run(f"labctl show {run} --json")))
        return found

    def ended(self, run: str, seconds: float = 120) -> dict[str, Any]:
        """A run when it is final."""
        active = ("queued", "starting", "running")
        return dict(wait_until(run, lambda: (f := self.show(run))["state"] not in active and f, seconds))

    def ask(self, path: str) -> Any:
        """What MLflow answers her, through the portal: JSON, or the bytes of an artifact as text."""
        target = f"/mlflow/w/vision/{path}"
        empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        text = f"labcluster:{self._cluster}\\nGET {target}\\n{empty}".replace("%", "%%")
        munge = f"$(printf {shlex.quote(text)} | munge)"
        curl = f'curl -s --cacert /etc/labcluster/ca.crt -m 20 -H "Authorization: Munge {munge}"'
        body = good(self.run(f"{curl} {shlex.quote(self._url + target)}"))
        try:
            return json.loads(body)
        except ValueError:
            return body

    def place(self, directory: str) -> str:
        """The id of a run in MLflow, as its folder says it."""
        return str(json.loads(good(self.run(f"cat {directory}/mlflow.json")))["run_id"])

    def record(self, directory: str) -> dict[str, Any]:
        """A run in MLflow: info, and tags, parameters and last metrics by name."""
        answer = self.ask(f"api/2.0/mlflow/runs/get?run_id={self.place(directory)}")
        run = answer["run"]
        data = {
            kind: {one["key"]: one["value"] for one in run["data"].get(kind) or []}
            for kind in ("tags", "params", "metrics")
        }
        return {"info": run["info"], **data}

    def complete(self, run: dict[str, Any], seconds: float = 120) -> dict[str, Any]:
        """A run in MLflow when its result and everything that was recorded are there."""

        def there() -> dict[str, Any] | None:
            if self.run(f"test -e {run['directory']}/mlflow.json").code != 0:
                return None
            found = self.record(run["directory"])
            tags = found["tags"]
            # The tags come first and the status last.
            state = tags.get("labcluster.state") == run["state"] and found["info"]["status"] != "RUNNING"
            return found if state and tags.get("labcluster.recorded") == str(run["attempt"]) else None

        return dict(wait_until(f"the record of {run['id']}", there, seconds))

    def steps(self, directory: str, metric: str) -> list[int]:
        """The steps of a metric in MLflow, each as often as it is there."""
        where = f"run_id={self.place(directory)}&metric_key={quote(metric, safe='')}&max_results=25000"
        found = self.ask(f"api/2.0/mlflow/metrics/get-history?{where}")
        return sorted(int(one.get("step", 0)) for one in found.get("metrics") or [])

    def files(self, directory: str, folder: str = "") -> dict[str, int]:
        """Files of a run in MLflow with their sizes, one folder of them."""
        where = f"run_id={self.place(directory)}&path={quote(folder, safe='')}"
        found = self.ask(f"api/2.0/mlflow/artifacts/list?{where}").get("files") or []
        return {one["path"]: int(one.get("file_size") or 0) for one in found}


@pytest.fixture(scope="module")
def ada(ssh_as: Callable[..., Any], site: Any) -> Ada:
    """A member of vision."""
    domain = site.variables["cluster_domain"]
    return Ada(ssh_as("ada"), site.variables["cluster_name"], f"https://portal.{domain}")


@pytest.fixture(scope="module")
def kubectl(site: Any) -> Callable[..., str]:
    """kubectl as the administrator."""

    def call(*words: str) -> str:
        command = [KUBECTL, f"--kubeconfig={site.secrets / 'kubeconfig'}", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


@pytest.fixture
def scale(kubectl: Callable[..., str]) -> Iterator[Callable[[int], None]]:
    """scale(0) takes MLflow away; it is there again afterwards."""

    def to(replicas: int) -> None:
        kubectl("-n", "labcluster", "scale", "deployment/mlflow", f"--replicas={replicas}")
        if replicas:
            kubectl("-n", "labcluster", "rollout", "status", "deployment/mlflow", "--timeout=150s")
        else:
            selector = "app.kubernetes.io/name=mlflow"
            kubectl("-n", "labcluster", "wait", "pod", "-l", selector, "--for=delete", "--timeout=60s")

    yield to
    to(1)


def test_a_run_is_recorded_without_a_line_in_its_code(ada: Ada) -> None:
    run = ada.submit("--name e2e-record --set epochs=5", "python3", "-c", TRAINING, "--lr", "1e-3", "--amp")
    ended = ada.ended(run)
    assert ended["state"] == "succeeded", ended["reason"]
    where = ended["directory"]
    found = ada.complete(ended)
    assert found["info"]["status"] == "FINISHED"
    assert (found["tags"]["labcluster.run"], found["tags"]["labcluster.user"]) == (run, "ada")
    assert found["params"] == {"epochs": "5", "lr": "0.1", "amp": "True", "layers": "3"}
    for metric in ("loss", "acc"):
        assert ada.steps(where, metric) == list(range(20))
    assert ada.steps(where, "from_file") == [1]
    assert found["metrics"]["system/memory_usage_megabytes"] > 10
    assert 0 <= found["metrics"]["system/cpu_utilization_percentage"] <= 100
    top, model, own = (ada.files(where, folder) for folder in ("", "model", "labcluster"))
    assert top["plot.png"] > 1000
    assert model["model/weights.joblib"] > 0
    assert {"labcluster/stdout.log", "labcluster/node.json", "labcluster/packages.json"} <= set(own)
    log = ada.ask(f"get-artifact?run_id={ada.place(where)}&path=labcluster/stdout.log")
    assert log == good(ada.run(f"cat {where}/stdout.log"))
    node = json.loads(good(ada.run(f"cat {where}/node.json")))
    assert node["host"] == ended["node"]
    assert node["kernel"]
    packages = json.loads(good(ada.run(f"cat {where}/packages.json")))["packages"]
    assert {"numpy", "scikit-learn", "joblib"} <= set(packages)
    assert good(ada.run(f"find {where} -perm /222 ! -type l")) == "", "a finished run is read-only"


def test_gpu_use_is_recorded(ada: Ada) -> None:
    ended = ada.ended(ada.submit("--name e2e-record-gpu --gpus 1", "sleep", "14"))
    found = ada.complete(ended)
    assert found["metrics"]["system/gpu_0_memory_usage_megabytes"] >= 0
    node = json.loads(good(ada.run(f"cat {ended['directory']}/node.json")))
    assert len(node["gpus"]) == 1
    assert node["gpu_driver"]


def test_own_mlflow_calls_land_in_the_same_run(ada: Ada) -> None:
    ended = ada.ended(ada.submit("--name e2e-record-own", "python3", "-c", OWN_CALLS, "--lr", "1e-3"))
    log = good(ada.run(f"cat {ended['directory']}/stdout.log"))
    assert ended["state"] == "succeeded", log
    found = ada.complete(ended)
    assert f"run {found['info']['run_id']}" in log
    assert (found["metrics"]["own"], found["metrics"]["printed"]) == (3.0, 4.0)
    assert found["params"]["lr"] == "0.001"
    assert "own.txt" in ada.files(ended["directory"])


@pytest.mark.parametrize(
    ("end", "state", "status"), [("exit 3", "failed", "FAILED"), ("time", "timed_out", "FAILED")]
)
def test_result_is_recorded_however_it_ends(ada: Ada, end: str, state: str, status: str) -> None:
    script = "echo labcluster: loss=1; " + ("sleep 60" if end == "time" else end)
    options = "--name e2e-record-ends" + (" --time 8s" if end == "time" else "")
    found = ada.complete(ada.ended(ada.submit(options, "bash", "-c", script)))
    assert found["info"]["status"] == status
    assert (found["tags"]["labcluster.state"], found["metrics"]["loss"]) == (state, 1.0)
    assert found["tags"]["labcluster.reason"]


def test_a_run_that_is_out_of_memory_has_its_state(ada: Ada) -> None:
    eat = "print('labcluster: step=1 loss=2', flush=True); import time; time.sleep(3); x = bytearray(1 << 30)"
    ended = ada.ended(ada.submit("--name e2e-record-oom", "python3", "-c", eat))
    assert "out of memory" in ended["reason"]
    found = ada.complete(ended)
    assert found["info"]["status"] == "FAILED"
    assert "out of memory" in found["tags"]["labcluster.reason"]
    assert found["metrics"]["loss"] == 2.0


def test_a_cancelled_run_has_its_state(ada: Ada) -> None:
    run = ada.submit("--name e2e-record-cancel", "bash", "-c", "echo labcluster: loss=1; sleep 300")
    wait_until("it runs", lambda: "loss=1" in ada.run(f"labctl logs {run}").out, 60)
    good(ada.run(f"labctl cancel {run}"))
    # Its pod may be gone before the recorder could say everything; what is missing is delivered later.
    found = ada.complete(ada.ended(run), seconds=240)
    assert found["info"]["status"] == "KILLED"
    assert found["tags"]["labcluster.state"] == "cancelled"


def test_an_outage_in_mid_run_loses_nothing(ada: Ada, scale: Callable[[int], None]) -> None:
    run = ada.submit("--name e2e-record-outage", "python3", "-c", LONG)
    wait_until("it runs", lambda: "step=20 " in ada.run(f"labctl logs {run}").out, 90)
    scale(0)
    wait_until("it goes on", lambda: "step=200 " in ada.run(f"labctl logs {run}").out, 90)
    scale(1)
    ended = ada.ended(run, seconds=180)
    assert ended["state"] == "succeeded", ended["reason"]
    ada.complete(ended, seconds=240)
    assert ada.steps(ended["directory"], "loss") == list(range(400)), "none is lost, none is there twice"


@pytest.mark.long
def test_mlflow_away_all_the_time_is_delivered_later(ada: Ada, scale: Callable[[int], None]) -> None:
    scale(0)
    began = time.monotonic()
    script = "echo labcluster: step=1 loss=5; echo it > $LABCLUSTER_ARTIFACTS/result.txt"
    run = ada.submit("--name e2e-record-late", "bash", "-c", script)
    ended = ada.ended(run, seconds=60)
    assert ended["state"] == "succeeded", ended["reason"]
    assert time.monotonic() - began < 45
    scale(1)
    found = ada.complete(ended, seconds=300)
    assert (found["metrics"]["loss"], found["info"]["status"]) == (5.0, "FINISHED")
    assert "result.txt" in ada.files(ended["directory"])
    assert good(ada.run(f"find {ended['directory']} -perm /222 ! -type l")) == ""


def test_a_gang_is_one_run_with_the_use_of_all_its_pods(ada: Ada) -> None:
    script = "echo labcluster: step=1 rank=$RANK; sleep 25"
    ended = ada.ended(ada.submit("--name e2e-record-gang --nodes 2", "bash", "-c", script), seconds=180)
    assert ended["state"] == "succeeded", ended["reason"]
    found = ada.complete(ended)
    assert found["metrics"]["rank"] == 0.0
    assert found["metrics"]["system/rank_1/memory_usage_megabytes"] > 0
    assert "labcluster/rank-1.log" in ada.files(ended["directory"], "labcluster")
