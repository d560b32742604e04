"""The verbs that change: cancel, and an administrator's."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from labcluster.errors import NotFoundError

from .conftest import FakePortal, Labctl, run

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE ada"


def test_cancel_ends_runs_and_leaves_ended_ones(portal: FakePortal, labctl: Labctl) -> None:
    ended = run("succeeded", id="vision-8")
    portal.on("GET", "/runs/vision-7", run("running"))
    portal.on("POST", "/runs/vision-7/cancel", run("cancelled"))
    portal.on(
        "POST",
        "/runs/cancel",
        {"items": [item(run("running"), run("cancelled")), item(ended, ended)]},
    )
    done = labctl("cancel", "vision-7", "vision-8", "vision-7")
    assert (done.code, done.out) == (0, "vision-7 cancelled\nvision-8 had succeeded already\n")
    assert [request.body for request in portal.requests] == [
        {"ids": ["vision-7", "vision-8"], "dry_run": False}
    ]
    assert labctl("cancel", "vision-7").out == "vision-7 cancelled\n"


def item(
    before: dict[str, Any], after: dict[str, Any] | None, problem: str | None = None, code: int | None = None
) -> dict[str, Any]:
    """What the portal says of one of several."""
    return {"before": before, "after": after, "problem": problem, "code": code}


def test_cancel_of_several_names_those_that_it_could_not_end(portal: FakePortal, labctl: Labctl) -> None:
    away = item(run("running", id="vision-8"), None, "the run database does not answer", 6)
    portal.on("POST", "/runs/cancel", {"items": [item(run("running"), run("cancelled")), away]})
    done = labctl("cancel", "vision-7", "vision-8")
    assert (done.code, done.out) == (6, "vision-7 cancelled\n")
    assert "vision-8 was not cancelled: the run database does not answer" in done.err
    assert [one["state"] for one in labctl("cancel", "--json", "vision-7", "vision-8").json()] == [
        "cancelled",
        "running",
    ]


def test_cancel_of_very_many_looks_at_all_of_them_first(portal: FakePortal, labctl: Labctl) -> None:
    portal.on("POST", "/runs/cancel", {"items": [item(run("running"), None)]})
    ids = [f"vision-{number}" for number in range(1001)]
    assert labctl("cancel", *ids).code == 0
    asked = [(len(request.body["ids"]), request.body["dry_run"]) for request in portal.requests]
    assert asked == [(1000, True), (1, True), (1000, False), (1, False)]


def test_cancel_of_several_with_dry_run_ends_nothing(portal: FakePortal, labctl: Labctl) -> None:
    ended = item(run("succeeded", id="vision-8"), None)
    portal.on("POST", "/runs/cancel", {"items": [item(run("running"), None), ended]})
    done = labctl("cancel", "--dry-run", "vision-7", "vision-8")
    assert done.out == ("vision-7 is running and would be cancelled\nvision-8 is succeeded and would stay\n")
    assert [request.body["dry_run"] for request in portal.requests] == [True]


def test_cancel_with_dry_run_ends_nothing(portal: FakePortal, labctl: Labctl) -> None:
    portal.on("GET", "/runs/vision-7", run("running"))
    done = labctl("cancel", "--dry-run", "vision-7")
    assert (done.code, done.out) == (0, "vision-7 is running and would be cancelled\n")
    assert labctl("cancel", "--dry-run", "--json", "vision-7").json()[0]["state"] == "running"
    assert portal.asked("POST") == []


def test_a_mistyped_id_among_others_ends_none(portal: FakePortal, labctl: Labctl) -> None:
    portal.on("POST", "/runs/cancel", NotFoundError("there is no run vison-8 in your projects"))
    done = labctl("cancel", "vision-7", "vison-8")
    assert (done.code, done.out) == (4, "")
    assert "vison-8" in done.err


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
        "home": "/h", "shell": "/bin/bash", "disabled": True, "projects": ["vision"],
    }  # fmt: skip
    project = {
        "name": "vision", "gid": 30000, "description": "cameras", "owner": None, "gpus": 4, "max_gpus": 8,
        "weight": 1, "members": ["ada", "bo"], "ready": True, "reason": None,
    }  # fmt: skip
    portal.on("GET", "/admin/members", {"items": [member]})
    portal.on(
        "GET", "/admin/projects", {"items": [project, project | {"ready": False, "reason": "no namespace"}]}
    )
    assert labctl("admin", "member", "ls").out.splitlines()[1].split() == [
        "ada", "20000", "disabled", "1", "Ada", "L", "-", "vision",
    ]  # fmt: skip
    lines = labctl("admin", "project", "ls").out.splitlines()
    assert lines[1].split() == ["vision", "ready", "30000", "4", "8", "1", "ada", "bo", "cameras"]
    assert lines[2].endswith("no namespace")


def enrolment(portal: FakePortal, *errors: str | None) -> None:
    items = [{"name": "x", "actions": ["add member x"], "error": error} for error in errors]
    portal.on("POST", "/admin/members/enrol", {"items": items})


def test_a_list_of_people_is_checked_first_and_then_added(
    portal: FakePortal, labctl: Labctl, tmp_path: Path
) -> None:
    people = tmp_path / "people.csv"
    ada = f"ada,Ada L,ada@lab,{KEY};{KEY}2,vision; shared"
    people.write_text(f'\ufeffname,full_name,mail,ssh_keys,projects\n{ada}\nbo,"B, o",,,\n')
    enrolment(portal, None, None)
    done = labctl("admin", "member", "add", "--file", str(people))
    assert (done.code, done.out) == (0, "x: add member x\nx: add member x\n")
    rehearsal, real = portal.requests
    assert (rehearsal.query, real.query) == ({"dry_run": ["true"]}, {})
    assert real.body["items"] == [
        {"name": "ada", "full_name": "Ada L", "mail": "ada@lab", "ssh_keys": [KEY, KEY + "2"],
         "projects": ["vision", "shared"]},
        {"name": "bo", "full_name": "B, o", "ssh_keys": [], "projects": []},
    ]  # fmt: skip


def test_a_fault_in_a_list_is_told_with_its_line_and_nothing_is_done(
    portal: FakePortal, labctl: Labctl, tmp_path: Path
) -> None:
    people = tmp_path / "people.csv"
    people.write_text("name,full_name\nada,Ada\nbo,Bo\n")
    enrolment(portal, None, "there is no project 'visio'")
    done = labctl("admin", "member", "add", "--file", str(people))
    assert (done.code, len(portal.requests)) == (2, 1)
    assert f"{people}:3: x: there is no project 'visio'" in done.err
    assert done.out == "x: would add member x\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "must name the columns full_name, name"),
        ("name,full_name,uid\nada,Ada,0\n", "no column uid is known"),
        ("name,full_name\n", "there is nobody in it"),
        ("name,full_name\nada,Ada,more\n", ":2: more fields than columns"),
        ("name,full_name,ssh_keys\nada,Ada,/no/such/file\n", ":2: --ssh-key '/no/such/file'"),
    ],
)
def test_a_file_that_is_no_list_of_people(
    portal: FakePortal, labctl: Labctl, tmp_path: Path, text: str, says: str
) -> None:
    people = tmp_path / "people.csv"
    people.write_text(text)
    done = labctl("admin", "member", "add", "--file", str(people))
    assert (done.code, done.err.count("\n"), portal.requests) == (2, 1, [])
    assert says in done.err


def test_a_password_is_read_and_never_an_argument(
    portal: FakePortal, labctl: Labctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal.on("GET", "/admin/members/ada", {})
    portal.on("PUT", "/admin/members/ada/password", {"actions": ["set the password of member ada"]})
    monkeypatch.setattr("sys.stdin", io.StringIO("correct horse\n"))
    done = labctl("admin", "member", "passwd", "ada", "--password-stdin")
    assert done.out == "done: set the password of member ada\n"
    assert portal.requests[1].body == {"password": "correct horse"}
    assert labctl("admin", "member", "passwd", "ada", "correct horse").code == 2


def test_a_member_changes_his_own_password(
    portal: FakePortal, labctl: Labctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal.on("PUT", "/password", {"actions": []})
    monkeypatch.setattr("sys.stdin", io.StringIO("old horse\ncorrect horse\n"))
    assert labctl("passwd", "--password-stdin").out == "your password is changed\n"
    assert portal.requests[0].body == {"old": "old horse", "new": "correct horse"}
    monkeypatch.setattr("sys.stdin", io.StringIO("old horse\n"))
    assert labctl("passwd", "--password-stdin").code == 2
    assert len(portal.requests) == 1


def test_members_are_shut_out_and_let_in(portal: FakePortal, labctl: Labctl) -> None:
    portal.on("PUT", "/admin/members/ada/disabled", {"actions": ["disable member ada"]})
    portal.on("DELETE", "/admin/members/ada/disabled", {"actions": []})
    assert labctl("admin", "member", "disable", "ada", "--dry-run").out == "would disable member ada\n"
    assert portal.requests[0].query == {"dry_run": ["true"]}
    assert labctl("admin", "member", "enable", "ada").out == "member ada: nothing to do\n"


def test_a_project_is_changed_where_it_is_said(portal: FakePortal, labctl: Labctl) -> None:
    portal.on("PATCH", "/admin/projects/vision", {"actions": ["change project vision"]})
    assert labctl("admin", "project", "set", "vision", "--gpus", "3", "--storage", "50").code == 0
    assert portal.requests[0].body == {"gpus": 3, "storage_gib": 50}
    nothing = labctl("admin", "project", "set", "vision")
    assert (nothing.code, len(portal.requests)) == (2, 1)


def test_a_project_is_removed_with_its_name_said_twice(portal: FakePortal, labctl: Labctl) -> None:
    portal.on("DELETE", "/admin/projects/vision", {"actions": ["remove project vision"]})
    assert (
        labctl("admin", "project", "rm", "vision", "--confirm", "vision").out
        == "done: remove project vision\n"
    )
    assert portal.requests[0].query == {"confirm": ["vision"]}
