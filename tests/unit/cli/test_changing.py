"""The verbs that change: cancel, and an administrator's."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from .conftest import FakePortal, Labctl, run

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE ada"


def test_cancel_ends_runs_and_leaves_ended_ones(portal: FakePortal, labctl: Labctl) -> None:
    portal.on("GET", "/runs/vision-7", run("running"))
    portal.on("POST", "/runs/vision-7/cancel", run("cancelled"))
    ended = run("succeeded", id="vision-8")
    portal.on("GET", "/runs/vision-8", ended)
    portal.on("POST", "/runs/vision-8/cancel", ended)
    done = labctl("cancel", "vision-7", "vision-8")
    assert (done.code, done.out) == (0, "vision-7 cancelled\nvision-8 had succeeded already\n")


def test_cancel_with_dry_run_ends_nothing(portal: FakePortal, labctl: Labctl) -> None:
    portal.on("GET", "/runs/vision-7", run("running"))
    done = labctl("cancel", "--dry-run", "vision-7")
    assert (done.code, done.out) == (0, "vision-7 is running and would be cancelled\n")
    assert labctl("cancel", "--dry-run", "--json", "vision-7").json()[0]["state"] == "running"
    assert portal.asked("POST") == []


def test_a_mistyped_id_among_others_ends_none(portal: FakePortal, labctl: Labctl) -> None:
    portal.on("GET", "/runs/vision-7", run("running"))
    assert labctl("cancel", "vision-7", "vison-8").code == 1
    assert portal.asked("POST") == []


def test_adding_a_member(
    portal: FakePortal, labctl: Labctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal.on("PUT", "/admin/members/ada", {"actions": ["add member ada with uid 20000"]}, {"actions": []})
    public = tmp_path / "id.pub"
    public.write_text(f"# mine\n{KEY}2\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("correct horse\n"))
    words = [
        "admin",
        "member",
        "add",
        "ada",
        "--full-name",
        "Ada L",
        "--ssh-key",
        KEY,
        "--ssh-key",
        str(public),
    ]
    done = labctl(*words, "--password-stdin", "--mail", "ada@lab")
    assert (done.code, done.out) == (0, "done: add member ada with uid 20000\n")
    body = {
        "full_name": "Ada L",
        "mail": "ada@lab",
        "ssh_keys": [KEY, KEY + "2"],
        "password": "correct horse",
    }
    assert portal.requests[0].body == body
    assert labctl(*words).out == "member ada: nothing to do\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "neither a public key nor a file"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\n", "take the .pub file"),
    ],
)
def test_a_key_that_is_none(
    portal: FakePortal, labctl: Labctl, tmp_path: Path, text: str | None, says: str
) -> None:
    path = tmp_path / "id"
    if text:
        path.write_text(text)
    done = labctl("admin", "member", "add", "ada", "--full-name", "Ada", "--ssh-key", str(path))
    assert (done.code, done.err.count("\n"), portal.requests) == (2, 1, [])
    assert says in done.err


def test_projects_and_their_members(portal: FakePortal, labctl: Labctl) -> None:
    for method, path in (("PUT", "/admin/projects/vision"), ("PUT", "/admin/projects/vision/members/ada"),
                         ("DELETE", "/admin/projects/vision/members/ada")):  # fmt: skip
        portal.on(method, path, {"actions": [f"{method} {path}"]})
    project = ["admin", "project"]
    done = labctl(*project, "create", "vision", "--description", "cameras", "--gpus", "4", "--max-gpus", "8",
                  "--owner", "ada", "--weight", "2", "--dry-run")  # fmt: skip
    assert done.out == "would PUT /admin/projects/vision\n"
    assert labctl(*project, "add-member", "vision", "ada").out.startswith("done: PUT")
    assert labctl(*project, "remove-member", "vision", "ada", "--json").json()["actions"]
    created, joined, left = portal.requests
    assert created.body == {"description": "cameras", "gpus": 4, "max_gpus": 8, "owner": "ada", "weight": 2}
    assert created.query == {"dry_run": ["true"]}
    assert (joined.query, joined.body, left.method) == ({}, None, "DELETE")


def test_lists_of_members_and_projects(portal: FakePortal, labctl: Labctl) -> None:
    member = {
        "name": "ada",
        "uid": 20000,
        "full_name": "Ada L",
        "mail": None,
        "ssh_keys": [KEY],
        "home": "/h",
    }
    project = {
        "name": "vision", "gid": 30000, "description": "cameras", "owner": None, "gpus": 4, "max_gpus": 8,
        "weight": 1, "members": ["ada", "bo"], "ready": True, "reason": None,
    }  # fmt: skip
    portal.on("GET", "/admin/members", {"items": [member]})
    portal.on(
        "GET", "/admin/projects", {"items": [project, project | {"ready": False, "reason": "no namespace"}]}
    )
    assert labctl("admin", "member", "ls").out.splitlines()[1] == "ada   20000  Ada L         1  -"
    lines = labctl("admin", "project", "ls").out.splitlines()
    assert lines[1].split() == ["vision", "ready", "30000", "4", "8", "1", "ada", "bo", "cameras"]
    assert lines[2].endswith("no namespace")
