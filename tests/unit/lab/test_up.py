"""`make up` at the same time as another is refused; a site that is none, too."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with lab/ and an inventory, and nothing that could be started."""
    shutil.copytree(ROOT / "lab", tmp_path / "lab", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "inventory" / "lab").mkdir(parents=True)
    (tmp_path / "inventory" / "lab" / "hosts.yml").write_text("all: {}\n")
    return tmp_path


def up(checkout: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run lab/up.py of a checkout."""
    return subprocess.run(
        [sys.executable, checkout / "lab" / "up.py", *words], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("words", [(), ("--down",)])
def test_a_second_one_at_the_same_time_is_refused(checkout: Path, words: tuple[str, ...]) -> None:
    (checkout / "build").mkdir()
    with (checkout / "build" / "lab.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.write("4711")
        held.flush()
        done = up(checkout, *words)
    assert done.returncode == 5
    assert "another make up or down of inventory/lab is running (process 4711)" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (checkout / "build" / "log").exists()


def test_an_unknown_site_is_refused(checkout: Path) -> None:
    done = up(checkout, "--site", "inventory/nowhere")
    assert done.returncode == 2
    assert "inventory/nowhere has no hosts.yml" in done.stderr
