"""examples/checkpoints: stopped at any moment, it ends as if it had not been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TRAIN = Path(__file__).resolve().parents[3] / "examples" / "checkpoints" / "train.py"
EPOCHS = "40"


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts the training in a run's directory, as the cluster does."""

    def popen(run: str, *words: str) -> subprocess.Popen[str]:
        folder = tmp_path / run
        (folder / "artifacts").mkdir(parents=True, exist_ok=True)
        env = os.environ | {
            "LABCLUSTER_RUN_DIR": str(folder),
            "LABCLUSTER_ARTIFACTS_DIR": str(folder / "artifacts"),
            "LABCLUSTER_SEED": "3",
            "OPENBLAS_NUM_THREADS": "1",
        }
        command = [sys.executable, str(TRAIN), "--epochs", EPOCHS, *words]
        return subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True)

    return popen


def read_until(process: subprocess.Popen[str], text: str) -> None:
    """Read its output up to a line that begins so."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(text):
            return
    raise AssertionError(f"it ended without {text!r}")


def result(folder: Path) -> tuple[Any, bytes]:
    """What the run left."""
    return json.loads((folder / "artifacts/metrics.json").read_text()), (
        folder / "artifacts/model.npz"
    ).read_bytes()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_training_ends_like_an_undisturbed_one(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, number: signal.Signals
) -> None:
    whole = start("whole")
    assert whole.communicate(timeout=60)[0].count("labcluster: step=") == int(EPOCHS)

    first = start("stopped", "--pause", "0.05")
    read_until(first, "labcluster: step=5 ")
    first.send_signal(number)
    rest, _ = first.communicate(timeout=60)
    assert first.returncode == (128 + signal.SIGTERM if number == signal.SIGTERM else -signal.SIGKILL)
    assert not (tmp_path / "stopped/artifacts/metrics.json").exists()
    if number == signal.SIGTERM:
        assert "is saved" in rest

    second = start("stopped")
    said, _ = second.communicate(timeout=60)
    assert second.returncode == 0
    begun = int(said.splitlines()[0].removeprefix("resumed after epoch ").split()[0])
    assert 5 <= begun < int(EPOCHS)
    assert said.count("labcluster: step=") == int(EPOCHS) - begun
    assert result(tmp_path / "stopped") == result(tmp_path / "whole")


def test_half_a_checkpoint_is_not_taken_up(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    (tmp_path / "run/artifacts").mkdir(parents=True)
    (tmp_path / "run/checkpoint.npz.part").write_bytes(b"half")
    said, _ = start("run").communicate(timeout=60)
    assert "resumed" not in said
    assert "accuracy" in said
