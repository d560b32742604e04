"""labctl shell, forward, attach and proxy: which run they enter, and what they make of ssh."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import pytest
from labcluster.cli import entering

from .conftest import Chunks, FakePortal, Labctl, run

ME = {"user": "ada", "uid": 20000, "admin": False, "projects": []}


class Became(Exception):  # noqa: N818 - what exec does, not a failure
    """Stands for the end of labctl by exec."""


@pytest.fixture
def ssh(portal: FakePortal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """The ssh commands that labctl became."""
    calls: list[list[str]] = []

    def execv(program: str, words: list[str]) -> None:
        assert program == str(tmp_path / "ssh")
        calls.append(words)
        raise KeyboardInterrupt

    for name in ("ssh", "labctl"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr(entering, "_POLL_SECONDS", 0.001)
    portal.on("GET", "/whoami", ME)
    portal.on("GET", "/runs/vision-7", run("running"))
    return calls


def options(words: list[str]) -> dict[str, str]:
    """Settings given by -o."""
    return dict(words[i + 1].split("=", 1) for i, word in enumerate(words) if word == "-o")


def test_shell_becomes_ssh_to_the_run(labctl: Labctl, ssh: list[list[str]], tmp_path: Path) -> None:
    labctl("shell", "vision-7")
    words = ssh[0]
    assert words[-2:] == ["--", "vision-7.labcluster"]
    assert options(words)["ProxyCommand"] == f"{tmp_path}/labctl proxy %h"
    assert options(words)["StrictHostKeyChecking"] == "no"
    assert "-t" not in words


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        (["python3", "-c", "print('a b')"], shlex.join(["python3", "-c", "print('a b')"])),
        (["cd /tmp && ls $HOME"], "cd /tmp && ls $HOME"),
        (["grep", "--color", "-r", "x"], "grep --color -r x"),
    ],
)
def test_a_command_arrives_as_it_was_typed(
    labctl: Labctl, ssh: list[list[str]], typed: list[str], sent: str
) -> None:
    labctl("shell", "vision-7", "--", *typed)
    assert ssh[0][-2:] == ["vision-7.labcluster", sent]


def test_the_only_running_run_need_not_be_named(
    labctl: Labctl, ssh: list[list[str]], portal: FakePortal
) -> None:
    portal.on("GET", "/runs", {"items": [run("running")]})
    labctl("shell", "--", "id")
    assert ssh[0][-2:] == ["vision-7.labcluster", "id"]
    asked = next(request for request in portal.requests if request.path == "/runs")
    assert asked.query == {"user": ["ada"], "state": ["running"]}
    portal.on("GET", "/runs", {"items": [run("running"), run("running", id="vision-8")]})
    done = labctl("shell")
    assert (done.code, done.err) == (
        2,
        "labctl: 2 of your runs are running (vision-7, vision-8): say which one\n",
    )
    portal.on("GET", "/runs", {"items": []})
    assert labctl("shell").code == 4


@pytest.mark.parametrize(
    ("found", "code", "words"),
    [
        (
            run("running", array_size=3, array_index=None),
            2,
            "is an array: name one of its runs, such as vision-7.0",
        ),
        (run("running", user="bo"), 3, "run vision-7 belongs to bo: only bo may enter it"),
        (run("succeeded"), 5, "has ended (succeeded): labctl logs vision-7 shows what it printed"),
        (run("queued"), 5, "is not running yet (waits for 1 GPU of project vision): --wait waits for it"),
    ],
)
@pytest.mark.parametrize("verb", [["shell"], ["forward"]])
def test_what_cannot_be_entered_is_told_in_a_line(
    labctl: Labctl,
    ssh: list[list[str]],
    portal: FakePortal,
    verb: list[str],
    found: dict[str, Any],
    code: int,
    words: str,
) -> None:
    portal.on("GET", "/runs/vision-7", found)
    done = labctl(*verb, "vision-7", *(["6006"] if verb == ["forward"] else []))
    assert done.code == code
    assert words in done.err.splitlines()[-1]
    assert not ssh


def test_wait_waits_for_the_start(labctl: Labctl, ssh: list[list[str]], portal: FakePortal) -> None:
    portal.on("GET", "/runs/vision-7", run("queued"), run("queued"), run("starting"), run("running"))
    done = labctl("shell", "--wait", "vision-7")
    assert len(ssh) == 1
    assert [line.split()[1] for line in done.err.splitlines()[:2]] == ["queued:", "starting"]


def test_the_pod_of_a_gang_is_named(labctl: Labctl, ssh: list[list[str]]) -> None:
    labctl("shell", "--rank", "1", "vision-7")
    labctl("shell", "rank1.vision-7.labcluster")
    assert [words[-1] for words in ssh] == ["rank1.vision-7.labcluster"] * 2


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("vision-12", ("vision-12", 0)),
        ("vision-12.labcluster", ("vision-12", 0)),
        ("vision-12.3.labcluster", ("vision-12.3", 0)),
        ("rank2.vision-12.labcluster", ("vision-12", 2)),
        ("rank1-3.labcluster", ("rank1-3", 0)),
    ],
)
def test_host_names_say_run_and_rank(host: str, found: tuple[str, int]) -> None:
    assert entering.address(host) == found
    assert entering.address(entering.host(*found)) == found


@pytest.mark.parametrize("name", ["", ".labcluster", "rank1..labcluster", "a/../b", "vision-12.example"])
def test_a_name_that_is_no_run_is_refused_first(labctl: Labctl, portal: FakePortal, name: str) -> None:
    done = labctl("attach", name)
    assert done.code == 2
    assert "is not a run, such as vision-12" in done.err
    assert not portal.requests


def test_forward_binds_loopback_and_says_where(labctl: Labctl, ssh: list[list[str]]) -> None:
    done = labctl("forward", "vision-7", "6006", "8000:80", "./board:6006")
    words = ssh[0]
    assert [words[i + 1] for i, word in enumerate(words) if word == "-L"] == [
        "localhost:6006:localhost:6006",
        "localhost:8000:localhost:80",
        "./board:localhost:6006",
    ]
    assert "-N" in words
    assert options(words)["ExitOnForwardFailure"] == "yes"
    assert "http://localhost:8000 is port 80 of vision-7; Ctrl-C ends it" in done.err


@pytest.mark.parametrize("ports", ["x", "80", "70000", "8000:", "1:2:3", "0"])
def test_a_port_that_cannot_be_is_refused_first(
    labctl: Labctl, ssh: list[list[str]], portal: FakePortal, ports: str
) -> None:
    done = labctl("forward", "vision-7", ports)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert not portal.requests


def test_attach_ends_as_the_run_does(labctl: Labctl, portal: FakePortal) -> None:
    portal.on("GET", "/runs/vision-7", run("running"), run("failed", exit_code=3))
    portal.on("GET", "/runs/vision-7/logs", Chunks([b"epoch 1\n"]))
    done = labctl("attach", "vision-7")
    assert (done.code, done.out) == (3, "epoch 1\n")


def test_proxy_is_not_for_terminals(labctl: Labctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "isatty", lambda _: True)
    done = labctl("proxy", "vision-7")
    assert (done.code, done.err) == (
        2,
        "labctl: labctl proxy speaks the ssh protocol, not to a terminal: use labctl shell\n",
    )
