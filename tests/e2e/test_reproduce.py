"""labctl reproduce on the lab: verdicts of all three kinds, kept with both runs; cancel of many runs."""

from __future__ import annotations

import json
import shlex
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

# The same for the same seed, unless it is told to look at the clock.
TRAIN = """\
import json, os, random, sys, time
random.seed(int(os.environ["LABCLUSTER_SEED"]))
rate, jitter = float(sys.argv[1]), sys.argv[2] == "jitter"
seen = sum(len(open(os.path.join(sys.argv[3], name)).read()) for name in os.listdir(sys.argv[3]))
for step in range(5):
    loss = rate * seen * random.random() / (step + 1) + (time.time() % 1000 / 1000 if jitter else 0)
    print(json.dumps({"labcluster": "metric", "step": step, "loss": loss}), flush=True)
sys.exit(int(sys.argv[4]))
"""
SUBMIT = "labctl submit --project vision --memory 128M --cpus 0.2 --wait --json"


class Made:
    """A folder with a training and its data, both ada's."""

    def __init__(self, ada: Any, folder: str) -> None:
        self.ada, self.folder, self.data = ada, folder, f"{folder}-data"
        assert ada(f"mkdir {self.folder} {self.data} && echo 12345 > {self.data}/digits").code == 0
        assert self.at(f"printf %s {shlex.quote(TRAIN)} > train.py").code == 0

    def at(self, command: str) -> Any:
        return self.ada(f"cd {self.folder} && {command}")

    def submit(self, how: str = "exact", status: int = 0) -> str:
        done = self.at(f"{SUBMIT} --data {self.data} -- python3 train.py 0.5 {how} {self.data} {status}")
        assert done.code == status, done
        return str(json.loads(done.out)["id"])

    def verdict(self, words: str, code: int) -> dict[str, Any]:
        done = self.at(f"labctl reproduce --json {words}")
        assert done.code == code, done
        found: dict[str, Any] = json.loads(done.out)
        return found


@pytest.fixture(scope="module")
def made(ssh_as: Callable[..., Any]) -> Iterator[Made]:
    ada = ssh_as("ada")
    folder = f"/lab/home/ada/rep-{uuid.uuid4().hex[:8]}"
    yield Made(ada, folder)
    ada(f"rm -rf {folder} {folder}-data")


def test_the_same_seed_gives_the_same_curve(made: Made) -> None:
    run = made.submit()
    assert made.at(f"echo broken > train.py; labctl reproduce --dry-run {run}").code == 0
    found = made.verdict(f"{run} --curves", 0)
    assert (found["verdict"], found["of"]) == ("reproduced", run)
    assert made.at(f"printf %s {shlex.quote(TRAIN)} > train.py").code == 0
    assert f"reproduced by {found['again']}" in made.at(f"labctl show {run}").out
    assert f"reproduced {run}" in made.at(f"labctl show {found['again']}").out
    assert f"{run} reproduced by {found['again']}" in made.at(f"labctl compare {found['again']}").out


def test_what_looks_at_the_clock_drifts_and_is_judged_again_with_a_tolerance(made: Made) -> None:
    run = made.submit("jitter")
    again = made.at(f"labctl reproduce --no-wait {run}").out.strip()
    assert made.at(f"labctl attach {again}").code == 0
    found = made.verdict(f"--verdict {again}", 7)
    assert found["verdict"] == "drifted"
    [loss] = found["report"]["metrics"]
    assert (loss["metric"], loss["same"]) == ("loss", False)
    assert loss["difference"] != 0
    assert made.verdict(f"--verdict {again} --tolerance loss=5", 0)["verdict"] == "reproduced"
    # The last verdict on a pair is the one that is kept.
    [kept] = json.loads(made.at(f"labctl show --json {run}").out)["reproductions"]
    assert (kept["verdict"], kept["again"]) == ("reproduced", again)


def test_a_failure_is_reproduced_by_failing_so_again(made: Made) -> None:
    run = made.submit(status=3)
    assert made.verdict(run, 0)["line"].startswith("failed with exit status 3 again")


def test_other_data_and_lost_code_make_it_impossible(made: Made) -> None:
    run = made.submit()
    assert made.at(f"echo 12346 > {made.data}/digits").code == 0
    found = made.verdict(run, 8)
    assert (found["verdict"], found["again"]) == ("impossible", None)
    assert "data changed" in found["line"]
    assert "digits changed" in found["line"]
    assert "impossible: data changed" in made.at(f"labctl show {run}").out
    assert made.at(f"mv {made.data} {made.data}.gone; labctl reproduce --dry-run {run}").code == 8
    assert made.at(f"mv {made.data}.gone {made.data} && echo 12345 > {made.data}/digits").code == 0
    code = json.loads(made.at(f"labctl show --json {run}").out)["code"]["digest"]
    assert made.at(f"rm -f /lab/projects/vision/capsules/{code[:2]}/{code}").code == 0
    assert "the code is gone" in made.verdict(run, 8)["line"]


def test_runs_of_other_projects_are_not_seen(made: Made, ssh_as: Callable[..., Any]) -> None:
    run = made.submit()
    assert ssh_as("bo")(f"cd && labctl reproduce {run}").code == 4, "of another project"


def test_many_runs_are_cancelled_at_once_or_not_at_all(made: Made) -> None:
    line = json.dumps({"command": ["sleep", "600"], "cpus": 0.1, "memory": "64M"})
    command = f"yes {shlex.quote(line)} | head -30 | labctl submit --project vision --no-code --file -"
    runs = made.at(command).out.split()
    assert len(runs) == 30
    wrong = made.at(f"labctl cancel {' '.join(runs)} vision-99999999")
    assert (wrong.code, wrong.out) == (4, "")
    done = made.at(f"labctl cancel {' '.join(runs)}")
    assert done.code == 0, done
    assert done.out.splitlines() == [f"{run} cancelled" for run in runs]
