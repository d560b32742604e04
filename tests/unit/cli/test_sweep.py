"""labctl sweep, and labctl show of one, against a scripted portal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .conftest import FakePortal, Labctl, run, sent

SPEC = {"params": {"lr": {"low": 0.1, "high": 1.0, "log": True, "step": None}, "opt": ["sgd", "adam"]}}
SPEC |= {"sampler": "tpe", "metric": "accuracy", "goal": "max", "parallel": 4}
COUNTS = {"counts": {"running": 1, "succeeded": 1}, "indices": "0-1%4", "total": 2, "parallel": 2}
FILE = """\
command = ["python3", "train.py", "--lr", "{lr}", "--depth", "{depth}"]
sampler = "random"
arms = 12
max-parallel = 3
metric = "loss"
goal = "min"
stop-early = true

[params]
lr = "1e-4..1e-1:log"
depth = { low = 2, high = 8 }
opt = ["sgd", "adam"]

[submit]
memory = "2G"
set = { epochs = 3 }
"""


def test_options_become_a_sweep(labctl: Labctl, accepting: FakePortal) -> None:
    words = ["--param", "lr=1e-4..1e-1:log", "-P", "opt=sgd,adam", "-P", "n=2..8:2", "-P", "x=0..1"]
    more = ["--arms", "12", "--max-parallel", "4", "--metric", "accuracy", "--gpus", "1"]
    done = labctl("sweep", *words, *more, "--", "train", "--lr", "{lr}", "{opt}", "{n}", "{x}")
    assert (done.code, done.err) == (0, "")
    request = sent(accepting)
    assert request["sweep"] == {
        "sampler": "tpe",
        "goal": "max",
        "params": {
            "lr": {"low": 0.0001, "high": 0.1, "integer": False, "log": True},
            "opt": ["sgd", "adam"],
            "n": {"low": 2, "high": 8, "step": 2, "integer": True},
            "x": {"low": 0, "high": 1, "integer": True},
        },
        "arms": 12,
        "parallel": 4,
        "metric": "accuracy",
    }
    assert (request["command"][:2], request["gpus"]) == (["train", "--lr"], 1)


def test_values_of_options_make_place_for_the_arms(labctl: Labctl, accepting: FakePortal) -> None:
    words = ["-P", "lr=0.1,0.2", "-P", "opt=sgd,adam", "-P", "depth=2..4"]
    done = labctl("sweep", *words, "--", "train", "--lr", "0.1", "--opt={opt}")
    assert sent(accepting)["command"] == ["train", "--lr", "{lr}", "--opt={opt}"]
    assert "depth is not in the command" in done.err
    assert "lr is not" not in done.err


def test_file_has_everything_and_options_come_first(
    labctl: Labctl, accepting: FakePortal, tmp_path: Path
) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text(FILE)
    done = labctl("sweep", str(file), "--arms", "6", "--cpus", "2")
    assert done.code == 0, done
    assert "opt is not in the command as {opt}" in done.err
    request = sent(accepting)
    assert request["sweep"] == {
        "sampler": "random",
        "goal": "min",
        "params": {
            "lr": {"low": 0.0001, "high": 0.1, "integer": False, "log": True},
            "depth": {"low": 2, "high": 8, "integer": True},
            "opt": ["sgd", "adam"],
        },
        "arms": 6,
        "parallel": 3,
        "metric": "loss",
        "stop_early": True,
    }
    assert (request["memory"], request["cpus"], request["params"]) == ("2Gi", 2, {"epochs": "3"})
    assert request["command"][:2] == ["python3", "train.py"]
    labctl("sweep", str(file), "--no-stop-early", "--grid", "--memory", "1G", "--", "other", "{lr}")
    request = sent(accepting)
    assert (request["command"], request["memory"]) == (["other", "{lr}"], "1Gi")
    assert (request["sweep"]["sampler"], request["sweep"]["stop_early"]) == ("grid", False)


def test_dry_run_submits_nothing(labctl: Labctl, accepting: FakePortal) -> None:
    done = labctl("sweep", "--dry-run", "--grid", "-P", "lr=1,2", "--", "train", "{lr}")
    assert done.code == 0, done
    assert "grid: lr=1,2" in done.out
    assert [request.path for request in accepting.asked("POST")] == ["/runs/check"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--", "train"], "no parameter to search"),
        (["-P", "lr=1,2"], "no command given"),
        (["-P", "lr", "--", "train"], "write it as lr="),
        (["-P", "lr=a..b", "--", "train"], "a range is LOW..HIGH"),
        (["none.toml"], "there is no file none.toml"),
    ],
)
def test_mistakes_are_told_in_a_line(labctl: Labctl, words: list[str], says: str) -> None:
    done = labctl("sweep", *words)
    assert done.code in (2, 4)
    assert says in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("arms = ", "is not TOML"),
        ("armz = 3", "has 'armz'"),
        ('params = "x"', "[params]"),
        ('command = "train"\n[params]\nlr = "1..2"', "a list of words"),
        ('command = ["train"]\n[params]\nlr = 3', "lr under [params]"),
        ('command = ["train"]\n[submit]\narms = 3\n[params]\nlr = "1..2"', "above [submit]"),
        ('command = ["train"]\n[submit]\ncpu = 3\n[params]\nlr = "1..2"', "has 'cpu'"),
    ],
)
def test_faults_of_a_file_name_it(labctl: Labctl, tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "s.toml"
    file.write_text(text)
    done = labctl("sweep", str(file))
    assert done.code == 2
    assert f"{file}" in done.err
    assert says in done.err


@pytest.fixture
def swept(portal: FakePortal) -> dict[str, Any]:
    """A sweep of two arms, of which one is done."""
    whole = run("running", array=COUNTS | {"sweep": SPEC}, params={"epochs": "3"})
    arms = [
        run("succeeded", id="vision-7.0", params={"lr": "0.123456789", "opt": "sgd"}, value=0.5),
        run("running", id="vision-7.1", params={"lr": "0.2", "opt": "adam"}, value=None),
    ]
    found = {"run": whole, "sweep": SPEC, "best": "vision-7.0", "arms": arms}
    portal.on("GET", "/runs/vision-7", whole)
    portal.on("GET", "/runs/vision-7/sweep", found)
    return found


def test_show_has_the_table_and_the_best_arm(labctl: Labctl, portal: FakePortal, swept: Any) -> None:
    done = labctl("show", "vision-7")
    assert done.code == 0, done
    lines = done.out.splitlines()
    assert "best: vision-7.0 with accuracy 0.5: lr=0.123456789 opt=sgd" in lines
    assert lines[-3].split() == ["RUN", "STATE", "lr", "opt", "accuracy", "TOOK", "REASON"]
    assert lines[-2].split()[:5] == ["vision-7.0", "succeeded", "0.1235", "sgd", "0.5"]
    assert "tpe, max accuracy: lr=0.1..1:log opt=sgd,adam" in done.out
    assert f"{portal.url}/sweeps/vision-7" in done.out


def test_json_of_a_sweep_has_its_arms_and_the_best(labctl: Labctl, swept: Any) -> None:
    found = labctl("show", "--json", "--state", "running", "vision-7").json()
    assert found["best"]["params"]["opt"] == "sgd"
    assert [arm["id"] for arm in found["members"]] == ["vision-7.1"]


def test_rerun_of_a_sweep_searches_anew(labctl: Labctl, accepting: FakePortal, swept: Any) -> None:
    accepting.on("GET", "/runs/vision-7/members", {"items": [{"array_index": 0, "seed": 5}]})
    done = labctl("rerun", "vision-7", "--set", "epochs=9")
    assert done.code == 0, done
    request = sent(accepting)
    assert (request["sweep"], request["params"], request["seed"]) == (SPEC, {"epochs": "9"}, 5)
    assert "array" not in request
