"""labctl usage on the running site: what runs held, and what lies on the tree."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

COUNT = "set -a && . /etc/labcluster/storage.env && /usr/local/sbin/labcluster-storage --now"
MIB = 2**20


def usage(user: Any, options: str = "") -> dict[str, Any]:
    done = user(f"labctl usage --json {options}")
    assert done.code == 0, done
    found: dict[str, Any] = json.loads(done.out)
    return found


def line(found: dict[str, Any], kind: str, name: str) -> dict[str, Any]:
    return next(line for line in found[kind] if line["name"] == name)


@pytest.fixture(scope="module")
def count(site: Any, on_host: Callable[..., Any]) -> Callable[[], None]:
    """Count what is stored, now, and tell the portal."""

    def run() -> None:
        done = on_host(site.first("file_server"), COUNT)
        assert (done.code, done.out) == (0, ""), done
        assert "did not take" not in done.err, done

    return run


def test_what_is_stored_is_counted_for_project_and_member(
    ssh_as: Callable[..., Any], count: Callable[[], None]
) -> None:
    ada = ssh_as("ada")
    name = f"e2e-{uuid.uuid4().hex}"
    files = f"/lab/projects/vision/data/{name} /lab/home/ada/{name}"
    count()
    before = usage(ada)
    try:
        assert ada(f"for file in {files}; do head -c {3 * MIB} /dev/urandom > $file; done").code == 0
        count()
        after = usage(ada)
    finally:
        ada(f"rm -f {files}")
    for kind, owner in (("projects", "vision"), ("users", "ada")):
        grown = line(after, kind, owner)["storage_bytes"] - line(before, kind, owner)["storage_bytes"]
        # Others work on the lab at the same time.
        assert grown >= 2 * MIB, (kind, owner)
    measured = datetime.fromisoformat(after["storage_measured_at"])
    assert datetime.now(UTC) - measured < timedelta(minutes=2)


def test_a_run_counts_for_its_project_and_its_user(ssh_as: Callable[..., Any]) -> None:
    ada = ssh_as("ada")
    before = line(usage(ada, "--since 1d"), "projects", "shared")
    done = ada("cd ~ && labctl submit --project shared --memory 64M --cpus 0.1 --wait -- sleep 1")
    assert done.code == 0, done
    found = usage(ada, "--since 1d")
    after = line(found, "projects", "shared")
    assert after["runs"] == before["runs"] + 1
    assert after["cpu_hours"] > before["cpu_hours"]
    assert line(found, "users", "ada")["runs"] >= 1
    # Nobody held more than all there is: within a day, two nodes of four GPUs.
    assert sum(project["gpu_hours"] for project in found["projects"]) <= 24 * 8


def test_members_see_their_projects_and_administrators_all(site: Any, ssh_as: Callable[..., Any]) -> None:
    ada, admin = ssh_as("ada"), ssh_as(site.variables["ansible_user"])
    assert {project["name"] for project in usage(ada)["projects"]} == {"vision", "shared"}
    assert {"vision", "shared", "speech"} <= {project["name"] for project in usage(admin)["projects"]}
    done = ada("labctl usage --project speech")
    assert (done.code, "no member of project speech" in done.err) == (3, True)
