"""Running a past run again: labctl rerun."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from capsules import Lab, write

from .conftest import Chunks, FakePortal, Labctl, run, sent


@pytest.fixture
def old(store: Lab, net: Path, accepting: FakePortal, labctl: Labctl) -> Callable[..., dict[str, Any]]:
    """A run that was submitted here before, as the portal knows it."""
    labctl("submit", "--", "true")
    reference = sent(accepting)["code"]

    def make(**changes: Any) -> dict[str, Any]:
        more = {
            **{
                "code": reference,
                "params": {"lr": "0.1", "epochs": "3"},
                "seed": 7,
                "data": ["/lab/datasets/a"],
            },
            **{
                "env": {"A": "1"},
                "nodes": 1,
                "priority": "low",
                "requeue": True,
                "parent": None,
                "array": None,
            },
            **{"command": ["train", "--lr", "{lr}"], "time_seconds": 60, "array_index": None},
        }
        found = run("succeeded", **more | changes)
        accepting.on("GET", f"/runs/{found['id']}", found)
        return found

    return make


def test_rerun_is_the_same_but_for_what_is_said(
    old: Callable[..., dict[str, Any]], accepting: FakePortal, labctl: Labctl, tmp_path: Path, net: Path
) -> None:
    before = old()
    write(net, {"train.py": "edited since"})
    done = labctl("rerun", "vision-7", "--set", "lr=0.01", "--gpus", "2", "--env", "B=2", "--name", "again")
    assert (done.code, done.out) == (0, "vision-7\n")
    body = sent(accepting)
    assert body["code"] == before["code"]
    assert body["image"] == f"{before['image']}@{before['image_digest']}"
    assert body["command"] == ["train", "--lr", "{lr}"]
    assert body["params"] == {"lr": "0.01", "epochs": "3"}
    assert body["env"] == {"A": "1", "B": "2"}
    assert (body["parent"], body["seed"], body["gpus"], body["name"]) == ("vision-7", 7, 2, "again")
    assert (body["time_seconds"], body["priority"], body["requeue"]) == (60, "low", True)
    assert body["data"] == ["/lab/datasets/a"]
    assert body["workdir"] == before["workdir"]


@pytest.mark.parametrize(
    ("command", "becomes"),
    [
        (["train", "--lr", "0.1", "--wd=1"], ["train", "--lr", "0.5", "--wd=1"]),
        (["train", "--lr=0.1"], ["train", "--lr=0.5"]),
        (["train", "--lr", "-1e-3", "--lr", "0.2"], ["train", "--lr", "-1e-3", "--lr", "0.5"]),
        (["train", "--lr", "0.1", "data"], ["train", "--lr", "0.5", "data"]),
    ],
)
def test_parameter_in_the_command_is_changed_there(
    old: Callable[..., dict[str, Any]],
    accepting: FakePortal,
    labctl: Labctl,
    command: list[str],
    becomes: list[str],
) -> None:
    before = old(command=command, params={})
    done = labctl("rerun", before["id"], "--set", "lr=0.5")
    assert done.code == 0, done.err
    assert (sent(accepting)["command"], sent(accepting)["params"]) == (becomes, {})


def test_hyphens_and_underscores_are_one_in_names(
    old: Callable[..., dict[str, Any]], accepting: FakePortal, labctl: Labctl
) -> None:
    before = old(command=["train", "--weight-decay", "0"], params={})
    assert labctl("rerun", before["id"], "--set", "weight_decay=1").code == 0
    assert sent(accepting)["command"] == ["train", "--weight-decay", "1"]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["train", "--lr"], "--lr has no value"),
        (["train", "--lr", "64", "32"], "--lr has several values"),
        (
            ["sh", "-c", "train --lr 0.1"],
            "--lr stands in a script; submit that with {lr} in place of the value",
        ),
    ],
)
def test_parameter_that_cannot_be_changed_in_the_command_submits_nothing(
    old: Callable[..., dict[str, Any]], accepting: FakePortal, labctl: Labctl, command: list[str], words: str
) -> None:
    before = old(command=command, params={})
    asked = len(accepting.requests)
    done = labctl("rerun", before["id"], "--set", "lr=0.5")
    assert (done.code, done.out) == (2, "")
    assert words in done.err
    assert all(request.method == "GET" for request in accepting.requests[asked:])


def test_parameter_that_the_command_does_not_have_is_told_to_be_in_the_environment_only(
    old: Callable[..., dict[str, Any]], accepting: FakePortal, labctl: Labctl
) -> None:
    done = labctl("rerun", old()["id"], "--set", "batch=8")
    assert "batch is not in the command" in done.err
    assert sent(accepting)["params"] == {"lr": "0.1", "epochs": "3", "batch": "8"}


def test_member_of_an_array_is_repeated_with_its_index_and_seed(
    old: Callable[..., dict[str, Any]], accepting: FakePortal, labctl: Labctl
) -> None:
    old(id="vision-7.3", trial=3, array_index=3, array_size=10, seed=10)
    assert labctl("rerun", "vision-7.3").code == 0
    body = sent(accepting)
    assert (body["parent"], body["array"], body["seed"]) == ("vision-7.3", "3", 7), "7 + 3 is its seed"
    assert labctl("rerun", "vision-7.3", "--seed", "1").code == 0
    assert sent(accepting)["seed"] == 2**31 - 2


def test_member_of_an_array_can_be_followed(
    old: Callable[..., dict[str, Any]], accepting: FakePortal, labctl: Labctl
) -> None:
    old(id="vision-7.3", trial=3, array_index=3, array_size=10, seed=10)
    summary = {"indices": "3", "total": 1, "parallel": None, "counts": {"queued": 1}}
    accepting.on("POST", "/runs", run(id="vision-8", array=summary))
    accepting.on("GET", "/runs/vision-8/members", {"items": [run(id="vision-8.3")]})
    accepting.on("GET", "/runs/vision-8.3", run("succeeded", id="vision-8.3"))
    accepting.on("GET", "/runs/vision-8.3/logs", Chunks([b"done\n"]))
    done = labctl("rerun", "vision-7.3", "--follow")
    assert (done.code, done.out) == (0, "done\n")


def test_array_is_repeated_as_one(
    old: Callable[..., dict[str, Any]], accepting: FakePortal, labctl: Labctl
) -> None:
    member = old(id="vision-7.3", trial=3, array_index=3, array_size=10, seed=10)
    old(array={"indices": "3-5%2", "total": 3, "parallel": 2, "counts": {}}, seed=10)
    accepting.on("GET", "/runs/vision-7/members", {"items": [member]})
    assert labctl("rerun", "vision-7").code == 0
    assert (sent(accepting)["array"], sent(accepting)["seed"]) == ("3-5%2", 7)
    assert labctl("rerun", "vision-7", "--seed", "1").code == 0
    assert sent(accepting)["seed"] == 1, "as of a submit: members have it plus their index"
    assert labctl("rerun", "vision-7", "--follow").code == 2


def test_rerun_with_the_current_code_takes_this_directory(
    old: Callable[..., dict[str, Any]], accepting: FakePortal, labctl: Labctl, store: Lab, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    before = old()
    write(tmp_path / "other", {"train.py": "of today"})
    monkeypatch.chdir(tmp_path / "other")
    assert labctl("rerun", "vision-7", "--code", "current", "--image", "python-ml:2").code == 0
    body = sent(accepting)
    assert body["code"]["digest"] != before["code"]["digest"]
    assert body["code"]["digest"] in store.stored()
    assert (body["workdir"], body["image"]) == (str(tmp_path / "other"), "python-ml:2")


@pytest.mark.parametrize("which", ["capsule", "layer"])
def test_rerun_of_code_that_is_gone_is_told_before_anything_is_submitted(
    old: Callable[..., dict[str, Any]], accepting: FakePortal, labctl: Labctl, store: Lab, which: str
) -> None:
    digest = old()["code"]["digest"]
    name = digest if which == "capsule" else json.loads(store.read(digest))["layers"][0]["sha256"]
    (store.objects / name[:2] / name).unlink()
    before = len(accepting.requests)
    done = labctl("rerun", "vision-7")
    assert (done.code, done.err.count("\n")) == (4, 1)
    assert name in done.err
    assert "--code current" in done.err
    assert len(accepting.requests) == before + 1


def test_rerun_of_a_run_without_code_works_where_it_worked(
    old: Callable[..., dict[str, Any]], accepting: FakePortal, labctl: Labctl
) -> None:
    old(code=None, params={}, seed=None, data=[])
    assert labctl("rerun", "vision-7").code == 0
    assert "code" not in sent(accepting)
    assert sent(accepting)["workdir"] == "/lab/home/ada"


def test_rerun_can_be_rehearsed_and_followed(
    old: Callable[..., dict[str, Any]], accepting: FakePortal, labctl: Labctl
) -> None:
    old()
    count = len([one for one in accepting.requests if one.path == "/runs"])
    assert labctl("rerun", "vision-7", "--dry-run").out.startswith("This would be accepted:\n")
    assert len([one for one in accepting.requests if one.path == "/runs"]) == count
    assert labctl("rerun", "vision-7", "--wait").code == 0
    assert labctl("rerun", "vision-7", "--follow", "--json").code == 2
