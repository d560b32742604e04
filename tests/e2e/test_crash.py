"""Parts of the platform are killed while people submit: nothing accepted is lost, nothing is made twice."""

from __future__ import annotations

import json
import os
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

KUBECTL = Path(__file__).resolve().parents[2] / "build/store/bin/kubernetes/kubectl"
SUBMITS = int(os.environ.get("LABCLUSTER_CRASH_SUBMITS", "200"))
CLIENTS = 4
# So many really run; the others wait for GPUs, so that their Jobs can be counted.
EVERY = 10

#: What is killed: a pattern of pgrep -f for the process that does the work.
VICTIMS = {
    "portal": "python -m labcluster.web",
    "controller": "python -m labcluster.controller",
    "apiserver": "^kube-apiserver",
    "postgresql": "^postgres -D",
    "kueue": "^/manager --config",
}


@pytest.fixture(scope="module")
def ada(ssh_as: Callable[..., Any]) -> Any:
    """A member of vision, on the login node."""
    return ssh_as("ada")


@pytest.fixture(scope="module")
def jobs(site: Any) -> Callable[[], list[dict[str, Any]]]:
    """All Jobs of project vision, as the administrator sees them."""

    def read() -> list[dict[str, Any]]:
        words = [KUBECTL, f"--kubeconfig={site.secrets / 'kubeconfig'}", "-n", "project-vision", "get"]
        done = subprocess.run([*words, "jobs", "-o", "json"], capture_output=True, text=True, check=True)
        found: list[dict[str, Any]] = json.loads(done.stdout)["items"]
        return found

    return read


def until(seconds: float, what: str, check: Callable[[], bool]) -> None:
    """Wait for something that must come true."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"after {seconds:g} s still not: {what}"
        time.sleep(1)


def runs_of(user: Any, tag: str) -> list[dict[str, Any]]:
    """The runs whose names begin with the tag, from the table; retried while the portal is coming back."""
    for _ in range(60):
        done = user("labctl ls --project vision --limit 1000 --json")
        if done.code != 6:
            break
        time.sleep(1)
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    items = answer["items"] if isinstance(answer, dict) else answer
    return [run for run in items if run["name"].startswith(f"{tag}-")]


@pytest.fixture
def cleared(ada: Any, site: Any) -> Iterator[str]:
    """A tag of the names of this test's runs, which are all cancelled after it."""
    tag = f"crash{random.randrange(10**6)}"
    yield tag
    left = [run["id"] for run in runs_of(ada, tag) if run["finished_at"] is None]
    for start in range(0, len(left), 50):
        ada("labctl cancel " + " ".join(left[start : start + 50]), timeout=120)
    ada(f"rm -f /lab/projects/vision/data/{tag}")


@pytest.mark.long
def test_no_accepted_run_is_lost_or_made_twice(
    ada: Any, on_host: Callable[..., Any], site: Any, jobs: Any, cleared: str
) -> None:
    tag, seed = cleared, random.randrange(2**32)
    chance = random.Random(seed)
    print(f"seed {seed}")
    blocker = "labctl submit --project vision --gpus 4 --memory 128M --cpus 0.1"
    for number in (1, 2):
        done = ada(f"{blocker} --name {tag}-blocker{number} -- sleep 900")
        assert done.code == 0, done.err
    until(60, "both blockers run", lambda: [r["state"] for r in runs_of(ada, tag)] == ["running"] * 2)

    answers: list[dict[str, Any]] = []

    def clients() -> None:
        script = (Path(__file__).parent / "submit_many.py").read_bytes()
        done = ada(f"python3 - {tag} {SUBMITS} {CLIENTS} {EVERY}", stdin=script, timeout=900)
        assert done.code == 0, done.err
        answers.extend(json.loads(done.out))

    at_work = threading.Thread(target=clients)
    at_work.start()
    nodes = site.groups["kube_control_plane"] + site.groups["gpu_node"]
    killed: Counter[str] = Counter()
    order, rounds = chance.sample(sorted(VICTIMS), len(VICTIMS)), 0
    while at_work.is_alive() and rounds < 2 * len(VICTIMS):
        at_work.join(chance.uniform(1.0, 5.0))
        victim = order[rounds % len(order)]
        # One that is still down from the last time does not count.
        hits = [on_host(host, f"pkill -KILL -f '{VICTIMS[victim]}'").code for host in nodes]
        killed[victim] += 0 in hits
        rounds += 1
    at_work.join()
    print(f"killed {dict(killed)}, answers {Counter(answer['code'] for answer in answers)}")
    assert len(answers) == SUBMITS
    assert all(killed[victim] for victim in VICTIMS), "too few submits: not everything was killed meanwhile"

    # Each client got an id or a refusal, and both are true.
    odd = [answer for answer in answers if answer["code"] not in (0, 6)]
    assert not odd, odd[:3]
    accepted = {answer["name"]: answer["out"] for answer in answers if answer["code"] == 0}
    assert len(set(accepted.values())) == len(accepted)
    table = [run for run in runs_of(ada, tag) if "blocker" not in run["name"]]
    assert {run["name"]: run["id"] for run in table} == accepted
    assert len(table) == len(accepted)

    # Those that need no GPU run, once each; the others have one Job each.
    small = {run["id"] for run in table if not run["gpus"]}
    until(
        240,
        "all runs without GPUs are over",
        lambda: all(run["finished_at"] for run in runs_of(ada, tag) if run["id"] in small),
    )
    ended = {run["id"]: (run["state"], run["reason"]) for run in runs_of(ada, tag) if run["id"] in small}
    assert set(ended.values()) == {("succeeded", None)}
    ran = ada(f"cat /lab/projects/vision/data/{tag}").out.split()
    assert Counter(ran) == Counter(small)
    waiting = {run["id"] for run in table if run["gpus"]}
    label = "labcluster.internal/run"

    def made() -> Counter[str]:
        # The Jobs that deliver late records are nobody's run.
        found = [job["metadata"]["labels"] for job in jobs()]
        return Counter(marks[label] for marks in found if label in marks)

    until(120, "each waiting run has its Job", lambda: waiting <= made().keys())
    assert {run for run, count in made().items() if count > 1} == set()
