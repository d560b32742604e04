"""labctl usage."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from .conftest import FakePortal, Labctl

LINE = {
    "name": "vision", "runs": 12, "gpu_hours": 100.25, "cpu_hours": 400.0, "wait_seconds": 125.0,
    "storage_bytes": 3 * 2**30, "storage_files": 7, "storage_limit_bytes": 500 * 2**30,
    "registry_bytes": 2 * 2**30,
}  # fmt: skip
USER = LINE | {"name": "ada", "wait_seconds": None, "storage_bytes": None, "storage_limit_bytes": None}
USAGE: dict[str, Any] = {
    "since": "2026-10-22T08:00:00Z", "until": "2026-11-21T08:00:00Z", "projects": [LINE], "users": [USER],
    "storage_measured_at": "2026-11-21T07:55:00Z", "storage_enforced": True,
}  # fmt: skip


def test_projects_and_users_have_a_table_each(portal: FakePortal, labctl: Labctl) -> None:
    portal.on("GET", "/usage", USAGE)
    done = labctl("usage")
    assert done.code == 0
    assert done.out.splitlines() == [
        "PROJECT  RUNS  GPU-HOURS  CPU-HOURS    WAIT  STORAGE    LIMIT  IMAGES",
        "vision     12      100.2      400.0  2m 05s    3 GiB  500 GiB   2 GiB",
        "",
        "USER  RUNS  GPU-HOURS  CPU-HOURS  WAIT  STORAGE",
        "ada     12      100.2      400.0     -        -",
    ]
    assert done.err == "from 2026-10-22 08:00:00 to 2026-11-21 08:00:00; storage as of 2026-11-21 07:55:00\n"
    assert portal.requests[0].query == {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"storage_enforced": False}, "no quotas: limits are not enforced"),
        ({"storage_measured_at": None, "storage_enforced": False}, "storage was not measured yet"),
    ],
)
def test_figures_that_are_less_than_they_seem_are_told(
    portal: FakePortal, labctl: Labctl, change: dict[str, Any], said: str
) -> None:
    portal.on("GET", "/usage", USAGE | change)
    assert said in labctl("usage").err


def test_times_are_given_as_people_write_them(portal: FakePortal, labctl: Labctl) -> None:
    portal.on("GET", "/usage", USAGE)
    done = labctl("usage", "--since", "2d", "--until", "2026-11-03", "-p", "vision", "-u", "bo", "--json")
    assert json.loads(done.out) == USAGE
    query = portal.requests[0].query
    since = datetime.fromisoformat(query["since"][0])
    assert abs(datetime.now(UTC) - timedelta(days=2) - since) < timedelta(minutes=1)
    assert query["until"][0].startswith("2026-11-03T00:00:00")
    assert (query["project"], query["user"]) == (["vision"], ["bo"])


def test_what_is_no_time_is_told(portal: FakePortal, labctl: Labctl) -> None:
    done = labctl("usage", "--since", "yesterday")
    assert (done.code, done.out) == (2, "")
    assert "--since 'yesterday' is no time: write 30d, 12h or 2026-11-01" in done.err
