"""Usage, and the file server's reports, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from portal_site import Site

REPORT = {
    "measured_at": "2026-11-21T08:00:00Z",
    "quotas": True,
    "projects": {"vision": {"bytes": 3 * 2**30, "files": 12}, "old": {"bytes": 1, "files": 1}},
    "people": {"ada": {"bytes": 1000, "files": 2}, "bo": {"bytes": 2000, "files": 3}},
}


@pytest.fixture
def site(lab: Any) -> Iterator[Site]:
    with start_blocking_portal() as loop:
        site = Site(lab, loop)
        site.used.runs = [
            ("vision", "ada", 2.0, 4.0),
            ("shared", "ada", 1.0, 1.0),
            ("shared", "bo", 5.0, 5.0),
            ("speech", "bo", 7.0, 7.0),
        ]
        yield site


def report(site: Site, token: str | None = "token", body: Any = REPORT) -> Any:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return site.client.request("PUT", "/api/v1/storage", json=body, headers=headers)


def usage(site: Site, user: str, query: str = "") -> Any:
    answer = site.ask(user, "GET", f"/api/v1/usage{query}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def names(lines: list[dict[str, Any]]) -> list[str]:
    return [line["name"] for line in lines]


def test_member_sees_his_projects_and_what_others_did_in_them(site: Site) -> None:
    assert report(site).status_code == 200
    found = usage(site, "ada")
    assert names(found["projects"]) == ["shared", "vision"]
    people = {line["name"]: (line["gpu_hours"], line["storage_bytes"]) for line in found["users"]}
    # Of bo what he ran in shared, neither his other project nor his home.
    assert people == {"ada": (3.0, 1000), "bo": (5.0, None)}


def test_administrator_sees_all(site: Site) -> None:
    report(site)
    found = usage(site, "labadmin")
    assert names(found["projects"]) == ["speech", "shared", "vision"]
    assert {line["name"]: line["storage_bytes"] for line in found["users"]} == {"bo": 2000, "ada": 1000}


def test_project_and_user_narrow_it(site: Site) -> None:
    report(site)
    found = usage(site, "labadmin", "?project=shared&user=bo")
    assert names(found["projects"]) == ["shared"]
    assert [(line["name"], line["gpu_hours"]) for line in found["users"]] == [("bo", 5.0)]


@pytest.mark.parametrize(
    ("user", "query", "status", "code"),
    [
        ("ada", "?project=speech", 403, 3),
        ("ada", "?project=nowhere", 404, 4),
        ("ada", "?since=2026-11-02T00:00:00Z&until=2026-11-01T00:00:00Z", 400, 2),
    ],
)
def test_what_cannot_be_answered_is_told(site: Site, user: str, query: str, status: int, code: int) -> None:
    answer = site.ask(user, "GET", f"/api/v1/usage{query}")
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_thirty_days_are_looked_at_unless_told(site: Site) -> None:
    usage(site, "ada")
    usage(site, "ada", "?since=2026-11-01T00:00:00Z&until=2026-11-03T00:00:00Z")
    (since, until), named = site.used.asked
    assert until - since == timedelta(days=30)
    assert named == (datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 3, tzinfo=UTC))


def test_file_server_learns_the_limits_and_its_figures_are_shown(site: Site) -> None:
    share = site.lab.cluster.shares["vision"]
    site.lab.cluster.shares["vision"] = share.model_copy(update={"storage_gib": 5})
    assert report(site).json() == {"projects": {"vision": 5 * 2**30}}
    found = usage(site, "ada", "?project=vision")
    line = found["projects"][0]
    assert (line["storage_bytes"], line["storage_files"], line["storage_limit_bytes"]) == (
        3 * 2**30,
        12,
        5 * 2**30,
    )
    assert found["storage_enforced"]
    assert found["storage_measured_at"] == "2026-11-21T08:00:00Z"


@pytest.mark.parametrize("token", [None, "", "other", "tokens"])
def test_nobody_else_reports_what_is_stored(site: Site, token: str | None) -> None:
    answer = report(site, token)
    assert (answer.status_code, answer.json()["code"]) == (401, 3)
    assert site.used.report is None


def test_report_with_what_cannot_be_is_refused(site: Site) -> None:
    assert report(site, body=REPORT | {"projects": {"vision": {"bytes": -1, "files": 0}}}).status_code == 400


def test_before_the_first_report_usage_has_no_storage(site: Site) -> None:
    found = usage(site, "ada")
    assert found["storage_measured_at"] is None
    assert {line["storage_bytes"] for line in found["projects"]} == {None}


def test_images_count_for_their_project_as_far_as_the_registry_answers(site: Site) -> None:
    found = {line["name"]: line["registry_bytes"] for line in usage(site, "ada")["projects"]}
    assert found == {"vision": 5000, "shared": 0}
    site.used.stored_images = None
    assert {line["registry_bytes"] for line in usage(site, "ada")["projects"]} == {None}
