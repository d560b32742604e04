"""labctl submit, without and with staying until the run's end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from labcluster.errors import ConflictError, NotAllowedError, NotFoundError, UnreachableError

from .conftest import RUN, Break, Chunks, FakePortal, Labctl, run


def test_what_is_asked_for_is_sent(
    portal: FakePortal, labctl: Labctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal.on("POST", "/runs", run())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOKEN", "from the shell")
    options = "--project vision --gpus 2 --cpus 3.5 --memory 8G --time 1-02:00:00 --image python-ml --name n"
    done = labctl(
        "submit", *options.split(), "--env", "A=1=2", "-e", "TOKEN", "--", "python3", "t.py", "--wait"
    )
    assert (done.code, done.out, done.err) == (0, "vision-7\n", "")
    [request] = portal.requests
    key = request.body.pop("idempotency_key")
    assert len(key) == 32
    assert request.body == {
        "project": "vision",
        "gpus": 2,
        "cpus": 3.5,
        "memory": "8Gi",
        "time_seconds": 26 * 3600,
        "image": "python-ml",
        "name": "n",
        "env": {"A": "1=2", "TOKEN": "from the shell"},
        "command": ["python3", "t.py", "--wait"],
        "workdir": str(tmp_path),
    }


def test_defaults_are_the_portals(portal: FakePortal, labctl: Labctl) -> None:
    portal.on("POST", "/runs", run())
    labctl("submit", "true")
    assert portal.requests[0].body.keys() == {
        "command", "workdir", "env", "gpus", "cpus", "memory", "idempotency_key",
    }  # fmt: skip


def test_every_submit_has_a_key_of_its_own(portal: FakePortal, labctl: Labctl) -> None:
    portal.on("POST", "/runs", run())
    labctl("submit", "true")
    labctl("submit", "true")
    labctl("submit", "--idempotency-key", "nightly-2026-11-21", "true")
    keys = [request.body["idempotency_key"] for request in portal.requests]
    assert len(set(keys)) == 3
    assert keys[2] == "nightly-2026-11-21"


def test_json_is_the_run(portal: FakePortal, labctl: Labctl) -> None:
    portal.on("POST", "/runs", run())
    assert labctl("submit", "--json", "--", "true").json() == RUN


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "no command given: put it after --"),
        (["--gpus", "1", "--"], "no command given: put it after --"),
        (["--gpus", "many", "--", "x"], "'many' is not a valid integer"),
        (["--gpus", "-1", "--", "x"], "-1 is not in the range"),
        (["--cpus", "0", "--", "x"], "0.0 is not in the range"),
        (["--memory", "8", "--", "x"], "--memory '8' is not a size: write 512M, 8G"),
        (["--time", "soon", "--", "x"], "--time 'soon' is not a time: write 30m, 2h"),
        (["--env", "=1", "--", "x"], "--env '=1': write it as NAME=VALUE"),
        (["--env", "NOT_SET_HERE", "--", "x"], "it is not set in this shell"),
        (["--follow", "--json", "--", "x"], "take --wait --json"),
        (["--gpu", "1", "--", "x"], "did you mean"),
        (["--", "python3 train.py && echo done"], "leave the quotes out, or use -- bash -c"),
    ],
)
def test_a_wrong_request_is_one_line_and_is_never_sent(
    portal: FakePortal, labctl: Labctl, words: list[str], says: str
) -> None:
    done = labctl("submit", *words)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert done.err.startswith("labctl: ")
    assert says in done.err
    assert portal.requests == []


def test_a_directory_that_is_gone(
    labctl: Labctl, portal: FakePortal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    done = labctl("submit", "--", "true")
    os.chdir(tmp_path)
    assert (done.code, done.err) == (2, "labctl: this directory exists no more: cd to another\n")
    assert portal.requests == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotAllowedError("ada is no member of project speech; yours are shared, vision"), 3),
        (NotFoundError("image 'python-lm' is not in the registry: did you mean python-ml?"), 4),
        (ConflictError("--gpus 9 is more than there is: the largest node has 4 (8 in the whole cluster)"), 5),
        (UnreachableError("the database does not answer: nothing was accepted"), 6),
    ],
)
def test_what_the_portal_refuses_is_said_in_its_words(
    portal: FakePortal, labctl: Labctl, error: Exception, code: int
) -> None:
    portal.on("POST", "/runs", error)
    done = labctl("submit", "--", "true")
    assert (done.code, done.out, done.err) == (code, "", f"labctl: {error}\n")


def test_a_dry_run_asks_and_submits_nothing(portal: FakePortal, labctl: Labctl) -> None:
    planned = {key: RUN[key] for key in RUN if key not in ("id", "state", "reason", "directory", "number")}
    portal.on("POST", "/runs/check", planned)
    done = labctl("submit", "--dry-run", "--gpus", "1", "--", "python3", "train.py")
    assert done.code == 0
    assert done.out.startswith("This would be accepted:\n")
    assert "python3 train.py --note 'two words'" in done.out
    assert [request.path for request in portal.requests] == ["/runs/check"]
    assert labctl("submit", "--dry-run", "--json", "--", "x").json() == planned


def test_a_broken_connection_is_tried_once_more_with_the_same_key(portal: FakePortal, labctl: Labctl) -> None:
    portal.on("POST", "/runs", Break, run())
    done = labctl("submit", "--", "true")
    assert (done.code, done.out) == (0, "vision-7\n")
    first, second = portal.requests
    assert first.body == second.body


def test_wait_ends_with_the_runs_exit_status(portal: FakePortal, labctl: Labctl) -> None:
    portal.on("POST", "/runs", run())
    portal.on(
        "GET",
        "/runs/vision-7",
        run(),
        run("starting"),
        run("running"),
        run("failed", exit_code=37, reason="out of memory"),
    )
    done = labctl("submit", "--wait", "--", "true")
    assert (done.code, done.out) == (37, "")
    assert done.err.splitlines() == [
        "vision-7 queued: waits for 1 GPU of project vision",
        "vision-7 starting on gpu1",
        "vision-7 running on gpu1",
        "vision-7 failed after 42s on gpu1: out of memory; files in /lab/projects/vision/runs/7_0_train",
    ]


@pytest.mark.parametrize(
    ("state", "exit_code", "code"),
    [
        ("succeeded", 0, 0),
        ("cancelled", None, 1),
        ("timed_out", 0, 1),
        ("timed_out", 143, 143),
        ("lost", None, 1),
    ],
)
def test_a_run_that_did_not_succeed_never_ends_with_0(
    portal: FakePortal, labctl: Labctl, state: str, exit_code: int | None, code: int
) -> None:
    portal.on("POST", "/runs", run())
    portal.on("GET", "/runs/vision-7", run(state, exit_code=exit_code))
    assert labctl("submit", "--wait", "--", "true").code == code


def test_wait_with_json_prints_the_ended_run_only(portal: FakePortal, labctl: Labctl) -> None:
    portal.on("POST", "/runs", run())
    portal.on("GET", "/runs/vision-7", run("running"), run("succeeded"))
    done = labctl("submit", "--wait", "--json", "--", "true")
    assert done.json()["state"] == "succeeded"
    assert done.err == ""


def test_follow_prints_the_log_and_then_the_result(portal: FakePortal, labctl: Labctl) -> None:
    portal.on("POST", "/runs", run())
    portal.on("GET", "/runs/vision-7", run("running"), run("running"), run("succeeded"))
    portal.on("GET", "/runs/vision-7/logs", Chunks([b"epoch 1\n", "Größe 3\n".encode(), b"no newline"]))
    done = labctl("submit", "--follow", "--", "true")
    assert (done.code, done.out) == (0, "epoch 1\nGröße 3\nno newline")
    assert done.err.splitlines()[-1] == (
        "vision-7 succeeded in 42s on gpu1; files in /lab/projects/vision/runs/7_0_train"
    )
    [stream] = [request for request in portal.requests if request.path.endswith("/logs")]
    assert stream.query == {"follow": ["true"]}


def test_a_log_that_breaks_goes_on_where_it_broke(portal: FakePortal, labctl: Labctl) -> None:
    portal.on("POST", "/runs", run("running"))
    portal.on("GET", "/runs/vision-7", run("running"), run("succeeded"))
    portal.on(
        "GET",
        "/runs/vision-7/logs",
        Chunks([b"one\n", b"two\nth", Break]),
        Break,
        Chunks([b"one\ntwo\nthree", b"\n", b"four\n"]),
    )
    done = labctl("submit", "--follow", "--", "true")
    assert (done.code, done.out) == (0, "one\ntwo\nthree\nfour\n")


def test_a_portal_that_is_away_for_a_while_is_waited_for(portal: FakePortal, labctl: Labctl) -> None:
    portal.on("POST", "/runs", run("running"))
    away = UnreachableError("the database is away")
    portal.on("GET", "/runs/vision-7", away, away, 502, run("succeeded"))
    done = labctl("submit", "--wait", "--", "true")
    assert done.code == 0
    assert done.err.count("vision-7 was accepted and goes on; the portal does not answer, trying again") == 1


def test_ctrl_c_leaves_the_run_and_says_how_to_come_back(
    portal: FakePortal, labctl: Labctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal.on("POST", "/runs", run())
    portal.on("GET", "/runs/vision-7", run())

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupt)
    done = labctl("submit", "--follow", "--", "true")
    assert done.code == 130
    assert done.err.splitlines()[-1] == (
        "vision-7 goes on without you: labctl logs -f vision-7 shows it again, labctl cancel vision-7 ends it"
    )
    assert [request.path for request in portal.asked("POST")] == ["/runs"]
