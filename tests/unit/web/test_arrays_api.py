"""Arrays and several submits in one over REST."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from portal_site import Site

RUN = {"command": ["true"], "workdir": "/lab/home/ada", "gpus": 1, "idempotency_key": "key-00001"}


@pytest.fixture
def site(lab: Any) -> Iterator[Site]:
    with start_blocking_portal() as loop:
        yield Site(lab, loop)


def test_array_is_answered_as_one_run_with_its_members_counted(site: Site) -> None:
    answer = site.ask("ada", "POST", "/api/v1/runs", {**RUN, "array": "0-9%3"})
    assert (answer.status_code, answer.headers["location"]) == (201, "/api/v1/runs/vision-1")
    run = answer.json()
    assert (run["id"], run["state"]) == ("vision-1", "queued")
    summary = {"indices": "0-9%3", "total": 10, "parallel": 3, "counts": {"queued": 10}, "sweep": None}
    assert run["array"] == summary
    assert [one["id"] for one in site.ask("ada", "GET", "/api/v1/runs").json()["items"]] == ["vision-1"]
    members = site.ask("ada", "GET", "/api/v1/runs/vision-1/members?state=queued").json()["items"]
    assert [member["id"] for member in members[:2]] == ["vision-1.0", "vision-1.1"]
    assert site.ask("ada", "GET", "/api/v1/runs/vision-1/members?state=failed").json()["items"] == []
    ended = site.ask("ada", "POST", "/api/v1/runs/vision-1/cancel?index=3,7-9").json()
    assert ended["array"]["counts"] == {"queued": 6, "cancelled": 4}
    again = site.ask("ada", "POST", "/api/v1/runs/vision-1/requeue?index=3").json()
    assert again["array"]["counts"] == {"queued": 7, "cancelled": 3}
    assert site.ask("ada", "POST", "/api/v1/runs/vision-1/cancel?index=77").status_code == 404
    assert site.ask("bo", "POST", "/api/v1/runs/vision-1/cancel").status_code == 404


def test_several_submits_are_one_request(site: Site) -> None:
    items = [{**RUN, "name": f"n{number}"} for number in range(3)]
    body = {"items": items, "idempotency_key": "bulk-00001"}
    assert len(site.ask("ada", "POST", "/api/v1/runs/bulk/check", body).json()["items"]) == 3
    assert site.ask("ada", "GET", "/api/v1/runs").json()["items"] == []
    first = site.ask("ada", "POST", "/api/v1/runs/bulk", body)
    assert (first.status_code, first.json()) == (201, {"ids": ["vision-1", "vision-2", "vision-3"]})
    assert site.ask("ada", "POST", "/api/v1/runs/bulk", body).status_code == 200
    body = {"items": [*items, {**RUN, "image": "nosuch"}], "idempotency_key": "bulk-00002"}
    wrong = site.ask("ada", "POST", "/api/v1/runs/bulk", body)
    assert (wrong.status_code, wrong.json()["code"]) == (404, 4)
    assert wrong.json()["detail"].startswith("line 4: image 'nosuch'")
    assert len(site.ask("ada", "GET", "/api/v1/runs").json()["items"]) == 3


def test_large_request_is_for_several_submits_only(site: Site) -> None:
    items = [{**RUN, "env": {"TEXT": "x" * 60_000}} for _ in range(40)]
    body = {"items": items, "idempotency_key": "bulk-00001"}
    assert site.ask("ada", "POST", "/api/v1/runs/bulk", body).status_code == 201
    assert site.ask("ada", "POST", "/api/v1/runs", body).status_code == 400
