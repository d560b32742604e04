"""labctl notify against a portal that answers from a script."""

from __future__ import annotations

import io
from typing import Any

import pytest
from labcluster.cli.notify import parameters, test

from .conftest import FakePortal, Labctl

ONE: dict[str, Any] = {
    "scope": "user", "owner": "ada", "name": "slack", "kind": "webhook", "where": "hooks.test",
    "events": ["end", "failure"], "wait_seconds": 3600, "set_by": "ada", "waiting": 0, "trouble": None,
    "delivered_at": None,
}  # fmt: skip


@pytest.fixture(autouse=True)
def ada(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parameters, "user_name", lambda: "ada")
    monkeypatch.setattr(test, "_POLL_SECONDS", 0.001)


def test_a_webhooks_address_is_no_argument(
    portal: FakePortal, labctl: Labctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("https://hooks.test/secret\n"))
    portal.on("PUT", "/receivers/user/ada/slack", ONE)
    done = labctl("notify", "set", "slack", "--webhook", "--on", "end", "--on", "failure", "--wait", "30m")
    assert done.code == 0, done.err
    assert done.out == "slack: end, failure of your runs go to hooks.test\n"
    assert portal.requests[0].body == {
        "kind": "webhook", "target": "https://hooks.test/secret", "wait_seconds": 1800,
        "events": ["end", "failure"],
    }  # fmt: skip
    assert "secret" not in done.out + done.err


def test_a_projects_runs_are_told_by_mail(portal: FakePortal, labctl: Labctl) -> None:
    portal.on("PUT", "/receivers/project/vision/team", ONE | {"kind": "mail", "where": "team@lab.test"})
    done = labctl("notify", "set", "team", "--project", "vision", "--mail", "team@lab.test")
    assert "of project vision go to team@lab.test" in done.out
    assert portal.requests[0].body == {"kind": "mail", "target": "team@lab.test", "wait_seconds": 3600}


@pytest.mark.parametrize("words", [[], ["--inbox", "--webhook"], ["--mail", "a@b.c", "--inbox"]])
def test_one_place_is_named(labctl: Labctl, words: list[str]) -> None:
    done = labctl("notify", "set", "x", *words)
    assert done.code == 2
    assert "one of --webhook" in done.err


def test_the_list_says_whether_it_works(portal: FakePortal, labctl: Labctl) -> None:
    late = ONE | {"scope": "project", "owner": "vision", "waiting": 3, "trouble": "it answered 404"}
    portal.on("GET", "/receivers", {"items": [ONE, late]})
    lines = labctl("notify", "ls").out.splitlines()
    assert lines[1].split() == ["slack", "ada", "webhook", "hooks.test", "end,failure", "ada", "-", "-", "-"]
    assert lines[2].endswith("3  it answered 404")
    portal.on("GET", "/receivers", {"items": []})
    assert "nobody is told" in labctl("notify", "ls").err


def test_a_test_says_whether_it_arrived(portal: FakePortal, labctl: Labctl) -> None:
    waiting = ONE | {"waiting": 1}
    portal.on("POST", "/receivers/user/ada/slack/test", waiting)
    arrived = ONE | {"delivered_at": "2026-11-21T08:00:00Z"}
    portal.on("GET", "/receivers", {"items": [waiting]}, {"items": [arrived]})
    assert labctl("notify", "test", "slack").out == "slack: delivered to hooks.test\n"
    portal.on("GET", "/receivers", {"items": [waiting]}, {"items": [ONE | {"trouble": "it answered 403"}]})
    done = labctl("notify", "test", "slack")
    assert done.code == 1
    assert "hooks.test did not take it: it answered 403" in done.err


def test_an_inbox_is_printed_and_removed(portal: FakePortal, labctl: Labctl) -> None:
    notice = {
        "at": "2026-11-21T08:00:00Z",
        "event": "end",
        "run": "vision-1",
        "text": "vision-1 has succeeded",
    }
    portal.on("GET", "/receivers/user/ada/me/notices", {"items": [notice]})
    assert labctl("notify", "read", "me").out == "2026-11-21 08:00:00  vision-1 has succeeded\n"
    assert labctl("notify", "read", "me", "--json").json() == [notice]
    portal.on("DELETE", "/receivers/user/ada/me", {})
    assert labctl("notify", "rm", "me").out == "removed me\n"
