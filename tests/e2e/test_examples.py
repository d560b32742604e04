"""The examples as their readers run them: a training that is stopped in mid-run and goes on."""

from __future__ import annotations

import io
import json
import re
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "checkpoints"


def good(done: Any) -> str:
    """The output of a command that must have worked."""
    assert done.code == 0, done.err
    return str(done.out)


def wait_until(what: Callable[[], Any], seconds: float) -> Any:
    """The first answer that is something."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, f"nothing after {seconds} s"
        time.sleep(0.5)
    return found


@pytest.fixture(scope="module")
def ada(ssh_as: Callable[..., Any]) -> Any:
    """A member of vision, with the example in her home."""
    person = ssh_as("ada")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(EXAMPLE, arcname="e2e-checkpoints")
    good(person("rm -rf ~/e2e-checkpoints && tar -xzf - --no-same-owner -C ~", stdin=packed.getvalue()))
    return person


def test_a_requeued_training_goes_on_where_it_was_stopped(ada: Any) -> None:
    options = "--project vision --memory 512M --cpus 0.5 --time 10m --requeue --name spirals --json"
    words = f"cd ~/e2e-checkpoints && labctl submit {options} -- python3 train.py --epochs 60 --pause 0.3"
    run = json.loads(good(ada(words)))["id"]

    def show() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(good(ada(f"labctl show {run} --json")))
        return found

    def log() -> str:
        done = ada(f"labctl logs {run}")
        return str(done.out) if done.code == 0 else ""

    wait_until(lambda: "labcluster: step=5 " in log(), 120)
    good(ada(f"labctl cancel --requeue {run}"))
    ended = wait_until(lambda: (found := show())["state"] in ("succeeded", "failed", "lost") and found, 240)
    assert (ended["state"], ended["attempt"]) == ("succeeded", 2), ended["reason"]

    said = log()
    begun = re.search(r"^resumed after epoch (\d+) of 60$", said, re.MULTILINE)
    assert begun, said
    assert int(begun[1]) >= 5
    assert said.count("labcluster: step=60 ") == 1
    metrics = json.loads(good(ada(f"cat {ended['directory']}/artifacts/metrics.json")))
    assert metrics["epochs"] == 60
