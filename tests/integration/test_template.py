"""A project made by labctl new, as its people use it: needs uv and a Python package index, no lab."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UV = ROOT / "build" / "uv" / "bin"


def index_of_pip() -> dict[str, str]:
    """The index that pip on this machine is configured with, as uv wants it said."""
    asked = subprocess.run(
        [UV / "pip", "config", "get", "global.index-url"], capture_output=True, text=True, check=False
    )
    index = os.environ.get("PIP_INDEX_URL") or asked.stdout.strip()
    return {"UV_DEFAULT_INDEX": index} if index else {}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with its environment."""
    if not (UV / "uv").exists() and shutil.which("uv") is None:
        pytest.skip("uv is not on this machine: make setup")
    base = tmp_path_factory.mktemp("new")
    labctl = [sys.executable, "-m", "labcluster.cli", "new", "leaf-counter"]
    whose = {f"GIT_{who}_{what}": "ada@test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    subprocess.run(labctl, cwd=base, env=os.environ | whose, check=True, capture_output=True)
    made = make(base / "leaf-counter", "setup")
    assert made.returncode == 0, made.stderr
    return base / "leaf-counter"


def make(folder: Path, *verbs: str) -> subprocess.CompletedProcess[str]:
    """make VERB… in a project."""
    dropped = ("VIRTUAL_ENV", "PYTHONPATH", "LABCLUSTER_ARTIFACTS_DIR")
    env = {name: value for name, value in os.environ.items() if name not in dropped}
    env |= {"PATH": f"{UV}:{os.environ['PATH']}", "SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt"}
    return subprocess.run(
        ["make", *verbs], cwd=folder, env=env | index_of_pip(), capture_output=True, text=True, check=False
    )


def test_its_own_checks_pass(project: Path) -> None:
    done = make(project, "check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


def test_it_trains_measures_infers_and_runs_its_notebooks(project: Path) -> None:
    done = make(project, "train", "evaluate", "infer", "notebooks")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("labcluster: step=") == 21
    artifacts = project / "artifacts"
    assert json.loads((artifacts / "evaluation.json").read_text())["accuracy"] > 0.9
    assert (artifacts / "predictions.jsonl").read_text().count("\n") == 120
    assert "labcluster: step=5" in (artifacts / "notebooks/explore.log").read_text()


def test_its_data_set_is_made_anew_byte_for_byte(project: Path) -> None:
    assert make(project, "data").returncode == 0
    status = ["git", "status", "--porcelain", "--", "data"]
    changed = subprocess.run(status, cwd=project, capture_output=True, text=True, check=True)
    assert changed.stdout == ""
