"""labctl notebook run: what is submitted, and what the command does in an image."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .conftest import FakePortal, Labctl, run

NOTEBOOK: dict[str, Any] = {
    "cells": [],
    "metadata": {"kernelspec": {"name": "my-venv", "language": "python", "display_name": "mine"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a notebook."""
    monkeypatch.chdir(tmp_path)
    Path("deep").mkdir()
    Path("deep/first look.ipynb").write_text(json.dumps(NOTEBOOK))
    return tmp_path


def sent(portal: FakePortal) -> Any:
    """What was submitted."""
    return next(request.body for request in portal.asked("POST") if request.path == "/runs")


def test_parameters_are_the_runs_and_submits_options_are_its_own(portal: FakePortal, labctl: Labctl) -> None:
    portal.on("POST", "/runs", run())
    words = ["--project", "vision", "-g", "1", "-p", "epochs=5", "-p", "rate=1e-3", "-t", "30m", "--no-code"]
    done = labctl("notebook", "run", "deep/first look.ipynb", *words)
    assert (done.code, done.out) == (0, "vision-7\n")
    body = sent(portal)
    assert body["params"] == {"epochs": "5", "rate": "1e-3"}
    assert (body["project"], body["gpus"], body["time_seconds"]) == ("vision", 1, 1800)
    assert body["name"] == "first-look"
    assert body["command"][3:5] == ["notebook", "deep/first look.ipynb"]
    tail = ["--kernel", "python3", "-p", "epochs", "{epochs}", "-p", "rate", "{rate}"]
    assert body["command"][-len(tail) :] == tail


def test_another_languages_kernel_is_the_notebooks_own(portal: FakePortal, labctl: Labctl) -> None:
    portal.on("POST", "/runs", run())
    spec = {"kernelspec": {"name": "ir", "language": "R"}}
    Path("r.ipynb").write_text(json.dumps(NOTEBOOK | {"metadata": spec}))
    labctl("notebook", "run", "r.ipynb", "--no-code")
    assert sent(portal)["command"][-2:] == ["--kernel", "ir"]


@pytest.mark.parametrize(
    ("file", "text", "code", "says"),
    [
        ("none.ipynb", None, 4, "no notebook none.ipynb"),
        ("bad.ipynb", "x", 2, "not a notebook"),
        ("list.ipynb", "[]", 2, "not a notebook"),
    ],
)
def test_a_file_that_is_no_notebook_is_not_submitted(
    portal: FakePortal, labctl: Labctl, file: str, text: str | None, code: int, says: str
) -> None:
    if text is not None:
        Path(file).write_text(text)
    done = labctl("notebook", "run", file)
    assert done.code == code
    assert says in done.err
    assert not portal.requests


def in_image(folder: Path, portal: FakePortal, python: str) -> subprocess.CompletedProcess[str]:
    """The submitted command, in an image whose python3 is this shell script."""
    (folder / "bin").mkdir()
    program = folder / "bin/python3"
    program.write_text(f"#!/bin/sh\n{python}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    env = {"PATH": f"{folder}/bin:{os.environ['PATH']}", "LABCLUSTER_ARTIFACTS_DIR": "/run/artifacts"}
    return subprocess.run(sent(portal)["command"], env=env, capture_output=True, text=True, check=False)


def test_the_executed_copy_goes_to_the_artifacts_and_papermills_status_is_the_runs(
    portal: FakePortal, labctl: Labctl, folder: Path
) -> None:
    portal.on("POST", "/runs", run())
    labctl("notebook", "run", "deep/first look.ipynb", "--no-code")
    done = in_image(folder, portal, '[ "$1" = -c ] || { printf "%s\\n" "$@"; exit 7; }')
    assert done.returncode == 7
    assert done.stdout.splitlines()[:4] == [
        "-m", "papermill", "deep/first look.ipynb", "/run/artifacts/first look.ipynb",
    ]  # fmt: skip


def test_an_image_without_papermill_says_so(portal: FakePortal, labctl: Labctl, folder: Path) -> None:
    portal.on("POST", "/runs", run())
    labctl("notebook", "run", "deep/first look.ipynb", "--no-code")
    done = in_image(folder, portal, "exit 1")
    assert done.returncode == 127
    assert "lacks papermill or ipykernel" in done.stderr
    assert "--image" in done.stderr
