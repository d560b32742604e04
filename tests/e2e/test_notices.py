"""labctl notify on the running site: an inbox is told of a run, and nothing leaves the site."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

SUBMIT = "cd && labctl submit --project vision --memory 64M --cpus 0.1 --json"


@pytest.fixture
def inbox(ssh_as: Callable[..., Any]) -> Iterator[str]:
    """A receiver of ada's that reads everything."""
    ada, name = ssh_as("ada"), f"e2e-{uuid.uuid4().hex[:8]}"
    events = "--on start --on end --on failure"
    assert ada(f"labctl notify set {name} --inbox {events}").code == 0
    yield name
    ada(f"labctl notify rm {name}")


def test_an_inbox_is_told_of_start_end_and_failure(ssh_as: Callable[..., Any], inbox: str) -> None:
    ada = ssh_as("ada")
    good = json.loads(ada(f"{SUBMIT} --wait -- true").out)["id"]
    bad = json.loads(ada(f"{SUBMIT} --wait -- false").out)["id"]
    wanted = {("start", good), ("end", good), ("start", bad), ("failure", bad)}
    until = time.monotonic() + 60
    found: set[tuple[str, str]] = set()
    while not wanted <= found and time.monotonic() < until:
        notices = json.loads(ada(f"labctl notify read {inbox} --json").out)
        found = {(notice["event"], notice["run"]) for notice in notices}
        time.sleep(1)
    assert wanted <= found
    told = [notice["text"] for notice in notices if notice["run"] == bad]
    assert any("has failed: ended with exit code 1" in text for text in told)


def test_a_test_arrives_and_only_its_owner_reads(ssh_as: Callable[..., Any], inbox: str) -> None:
    done = ssh_as("ada")(f"labctl notify test {inbox}")
    assert (done.code, "delivered" in done.out) == (0, True), done
    assert ssh_as("bo")(f"labctl notify read {inbox}").code == 4
    assert ssh_as("bo")("labctl notify set spy --project vision --inbox").code == 3


@pytest.mark.parametrize(
    "address", ["https://10.96.0.1/", "https://portal.labcluster.svc/", "http://127.0.0.1:8080/"]
)
def test_a_webhook_cannot_reach_into_the_cluster(ssh_as: Callable[..., Any], address: str) -> None:
    done = ssh_as("ada")(f"echo {address} | labctl notify set probe --webhook")
    assert done.code in (2, 3), done
