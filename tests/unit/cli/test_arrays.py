"""labctl with arrays, dependencies, gangs and files of submits."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from labcluster.errors import NotFoundError, UsageError

from .conftest import FakePortal, Labctl, run


def array(state: str = "running", **counts: int) -> dict[str, Any]:
    """vision-7 as an array of four."""
    summary = {"indices": "0-3%2", "total": 4, "parallel": 2, "counts": counts}
    ended = {"finished_at": "2026-11-21T08:00:44Z"} if state not in ("queued", "running") else {}
    return (
        run("queued", reason=None, started_at="2026-11-21T08:00:02Z", array=summary)
        | {"state": state}
        | ended
    )


def member(index: int, state: str, **changes: Any) -> dict[str, Any]:
    """One of its members."""
    own = {"id": f"vision-7.{index}", "trial": index, "array_index": index, "attempt": 1, "array": None}
    return run(state, **(own | changes))


def test_what_an_array_a_gang_and_a_chain_need_is_sent(portal: FakePortal, labctl: Labctl) -> None:
    portal.on("POST", "/runs", array())
    words = "--array 0-499%20 --after vision-3:ok --after vision-4 --nodes 2 --priority low --requeue -- true"
    assert labctl("submit", *words.split()).out == "vision-7\n"
    body = portal.requests[0].body
    asked = {key: body[key] for key in ("array", "after", "nodes", "priority", "requeue")}
    assert asked == {
        "array": "0-499%20",
        "after": ["vision-3:ok", "vision-4"],
        "nodes": 2,
        "priority": "low",
        "requeue": True,
    }


def test_waiting_for_an_array_ends_with_its_worst_exit_status(portal: FakePortal, labctl: Labctl) -> None:
    portal.on("POST", "/runs", array("queued", queued=4))
    ended = array("failed", succeeded=3, failed=1) | {"exit_code": 3}
    portal.on("GET", "/runs/vision-7", array("running", running=2, queued=2), ended)
    done = labctl("submit", "--array", "0-3%2", "--wait", "--", "true")
    assert done.code == 3
    assert "vision-7 running: 2 queued, 2 running" in done.err
    assert "vision-7 failed" in done.err
    assert "3 succeeded, 1 failed" in done.err


def test_an_array_is_one_row_with_its_counts(portal: FakePortal, labctl: Labctl) -> None:
    portal.on("GET", "/runs", {"items": [array("running", running=2, queued=1, failed=1), run("queued")]})
    lines = [line.split() for line in labctl("ls").out.splitlines()]
    assert lines[0][-1] == "MEMBERS"
    assert lines[1][:2] + lines[1][-1:] == ["vision-7", "running", "queued:1,running:2,failed:1"]
    assert lines[2][-1] == "-"


def test_show_lists_members_and_their_states(portal: FakePortal, labctl: Labctl) -> None:
    portal.on("GET", "/runs/vision-7", array("failed", succeeded=3, failed=1))
    members = [member(0, "succeeded"), member(1, "failed", exit_code=3, reason="ended with exit code 3")]
    portal.on("GET", "/runs/vision-7/members", {"items": members})
    out = labctl("show", "vision-7").out.splitlines()
    assert out[0] == "vision-7 train: failed, 3 succeeded, 1 failed"
    assert out[-2].split()[:3] == ["vision-7.0", "succeeded", "1"]
    assert out[-1].split()[0:2] + out[-1].split()[4:6] == ["vision-7.1", "failed", "3", "gpu1"]
    assert labctl("show", "vision-7", "--json").json()["members"] == members
    labctl("show", "vision-7", "--state", "failed")
    assert portal.requests[-1].query == {"state": ["failed"]}


def test_members_are_ended_by_index(portal: FakePortal, labctl: Labctl) -> None:
    portal.on("GET", "/runs/vision-7", array("running", running=4))
    portal.on("POST", "/runs/vision-7/cancel", array("running", running=2, cancelled=2))
    done = labctl("cancel", "vision-7", "--index", "1,3")
    assert (done.code, done.out) == (0, "vision-7 now: 2 running, 2 cancelled\n")
    assert portal.asked("POST")[0].query == {"index": ["1,3"]}
    assert labctl("cancel", "vision-7", "vision-8", "--index", "1").code == 2


def test_requeue_tells_the_next_attempt(portal: FakePortal, labctl: Labctl) -> None:
    portal.on("GET", "/runs/vision-7.1", member(1, "failed"))
    portal.on("POST", "/runs/vision-7.1/requeue", member(1, "queued", attempt=2))
    assert labctl("cancel", "--requeue", "vision-7.1").out == "vision-7.1 queued, attempt 2\n"
    assert (
        labctl("cancel", "--requeue", "--dry-run", "vision-7.1").out
        == "vision-7.1 is failed and would be queued again\n"
    )


def test_log_of_an_array_asks_for_a_member(portal: FakePortal, labctl: Labctl) -> None:
    portal.on("GET", "/runs/vision-7", array())
    done = labctl("logs", "vision-7")
    assert (done.code, "name a member of 0-3%2" in done.err) == (2, True)


def write(path: Path, *lines: object) -> str:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return str(path)


def test_lines_of_a_file_are_requests_with_the_options_as_defaults(
    portal: FakePortal, labctl: Labctl, tmp_path: Path
) -> None:
    portal.on("POST", "/runs/bulk", {"ids": ["vision-1", "vision-2"]})
    file = write(
        tmp_path / "runs.jsonl",
        {"command": "python3 't 1.py'", "time": "2h", "memory": "8G", "env": {"LR": 0.1}},
        {"command": ["b"], "gpus": 2, "time": 5, "after": "vision-3:ok", "array": "0-9", "workdir": "/lab/x"},
    )
    done = labctl("submit", "-g", "1", "-e", "A=1", "--idempotency-key", "same-key-1", "--file", file)
    assert (done.code, done.out, done.err) == (0, "vision-1\nvision-2\n", "")
    body = portal.requests[0].body
    assert body["idempotency_key"] == "same-key-1"
    first, second = body["items"]
    assert (first["command"], first["gpus"], first["time_seconds"]) == (["python3", "t 1.py"], 1, 7200)
    assert (first["memory"], first["env"]) == ("8Gi", {"A": "1", "LR": "0.1"})
    assert (second["gpus"], second["time_seconds"], second["after"]) == (2, 300, ["vision-3:ok"])
    assert (second["array"], second["workdir"]) == ("0-9", "/lab/x")


def test_command_after_the_dashes_is_that_of_lines_without_one(
    portal: FakePortal, labctl: Labctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal.on("POST", "/runs/bulk/check", {"items": [{}, {}]})
    monkeypatch.setattr("sys.stdin", io.StringIO('{"env": {"S": 1}}\n{"env": {"S": 2}}\n'))
    done = labctl("submit", "--file", "-", "--dry-run", "--", "python3", "t.py")
    assert done.out == "All 2 would be accepted.\n"
    assert [item["command"] for item in portal.requests[0].body["items"]] == [["python3", "t.py"]] * 2


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "it is not JSON"),
        ("[1]", "it is no JSON object"),
        ({"comand": "x"}, "'comand' is no option; there are name, project"),
        ({"gpus": "2", "command": "x"}, "'gpus' must be a whole number"),
        ({"gpus": True, "command": "x"}, "'gpus' must be a whole number"),
        ({"gpus": 1}, "it has no 'command', and none stands after --"),
        ({"command": "echo 'x"}, "'command' has a quote that is not closed"),
        ({"command": "x", "time": "soon"}, "--time 'soon' is not a time"),
        ({"command": "x", "env": {"A": [1]}}, "'env' A: its value must be a string or a number"),
    ],
)
def test_bad_line_is_named_before_anything_is_sent(
    portal: FakePortal, labctl: Labctl, tmp_path: Path, line: Any, says: str
) -> None:
    file = write(tmp_path / "runs.jsonl", {"command": "a"}, {"command": "b"}, line, {"command": "d"})
    done = labctl("submit", "--file", file)
    assert done.code == 2
    assert f"{file} line 3: {says}" in done.err
    assert portal.requests == []


def test_line_that_the_portal_refuses_is_named(portal: FakePortal, labctl: Labctl, tmp_path: Path) -> None:
    portal.on("POST", "/runs/bulk", NotFoundError("line 2: image 'nosuch' is not in the registry"))
    file = write(tmp_path / "runs.jsonl", {"command": "a"}, {"command": "b", "image": "nosuch"})
    done = labctl("submit", "--file", file)
    assert (done.code, f"{file} line 2: image 'nosuch'" in done.err) == (4, True)


def test_file_that_is_not_there_is_told(portal: FakePortal, labctl: Labctl, tmp_path: Path) -> None:
    done = labctl("submit", "--file", str(tmp_path / "none"))
    assert (done.code, "No such file" in done.err) == (UsageError.exit_code, True)
    assert labctl("submit", "--wait", "--file", write(tmp_path / "f", {"command": "a"})).code == 2
