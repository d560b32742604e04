"""The portal as its clients see it: over HTTP, with munge credentials."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from labcluster.errors import UnreachableError
from labcluster.services.authentication import payload
from labcluster.web.app import MAX_BODY
from portal_site import Site


@pytest.fixture
def site(lab: Any) -> Iterator[Site]:
    with start_blocking_portal() as loop:
        yield Site(lab, loop)


RUN = {"command": ["python", "train.py"], "workdir": "/lab/home/ada", "idempotency_key": "key-0001"}


def test_submit_is_created_once_and_shown(site: Site) -> None:
    answer = site.ask("ada", "POST", "/api/v1/runs", RUN)
    assert (answer.status_code, answer.headers["location"]) == (201, "/api/v1/runs/vision-1")
    assert site.ask("ada", "POST", "/api/v1/runs", RUN).status_code == 200
    run = site.ask("ada", "GET", "/api/v1/runs/vision-1").json()
    assert run == answer.json()
    assert run.keys() == {
        *("id", "project", "number", "trial", "name", "user", "uid", "gid", "state", "reason", "image"),
        *("image_digest", "command", "workdir", "gpus", "cpus", "memory", "time_seconds", "env"),
        *("nodes", "priority", "requeue", "after", "array_index", "array_size", "attempt", "array"),
        *("submitted_at", "started_at", "finished_at", "exit_code", "node", "directory"),
        *("code", "params", "seed", "data", "parent", "recorded_at", "reproductions"),
        *("drawn", "value", "judged_at"),
    }
    assert run["submitted_at"].endswith("Z")


def test_a_portal_that_has_not_seen_the_cluster_yet_denies_nobody_what_is_his(site: Site) -> None:
    site.seen = False
    answer = site.ask("ada", "GET", "/api/v1/runs?project=vision")
    assert (answer.status_code, answer.json()["code"]) == (503, 6)


def test_check_says_what_submit_would_accept_and_writes_nothing(site: Site) -> None:
    answer = site.ask("ada", "POST", "/api/v1/runs/check", RUN | {"gpus": 1})
    assert answer.status_code == 200
    planned = answer.json()
    assert (planned["project"], planned["user"], planned["gpus"]) == ("vision", "ada", 1)
    assert planned["image_digest"].startswith("sha256:")
    assert site.ask("ada", "POST", "/api/v1/runs/check", RUN | {"project": "speech"}).status_code == 403
    assert not site.lab.store.rows


def test_query_is_part_of_what_is_proven(site: Site) -> None:
    site.ask("ada", "POST", "/api/v1/runs", RUN)
    target = "/api/v1/runs?project=vision&state=queued&state=running&limit=5"
    assert [run["id"] for run in site.ask("ada", "GET", target).json()["items"]] == ["vision-1"]
    assert site.ask("ada", "GET", "/api/v1/runs?state=succeeded").json() == {"items": []}


@pytest.mark.parametrize(
    ("method", "target", "body", "cluster"),
    [
        ("GET", "/api/v1/whoami", b"", "other"),
        ("POST", "/api/v1/whoami", b"", "lab"),
        ("GET", "/api/v1/queue", b"", "lab"),
        ("GET", "/api/v1/whoami?x=1", b"", "lab"),
        ("GET", "/api/v1/whoami", b"x", "lab"),
    ],
)
def test_credential_for_something_else_is_refused(
    site: Site, method: str, target: str, body: bytes, cluster: str
) -> None:
    header = site.credential("ada", method, target, body, cluster)
    answer = site.client.get("/api/v1/whoami", headers={"Authorization": header})
    assert answer.status_code == 401
    assert "made for another request" in answer.json()["detail"]


def test_credential_is_good_once(site: Site) -> None:
    header = {"Authorization": site.credential("ada", "GET", "/api/v1/whoami", b"")}
    assert site.client.get("/api/v1/whoami", headers=header).status_code == 200
    assert site.client.get("/api/v1/whoami", headers=header).status_code == 401


@pytest.mark.parametrize("header", [None, "", "Munge", "Bearer x", "Munge nonsense"])
def test_without_a_credential_nothing_is_said(site: Site, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    for target in ("/api/v1/runs", "/api/v1/queue", "/api/v1/nodes", "/api/v1/admin/members"):
        answer = site.client.get(target, headers=headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Munge, Bearer")
        assert answer.headers["content-type"] == "application/problem+json"


def test_whoami_of_member_of_administrator_and_of_somebody_without_a_project(site: Site) -> None:
    assert site.ask("ada", "GET", "/api/v1/whoami").json()["projects"][1]["name"] == "vision"
    assert site.ask("labadmin", "GET", "/api/v1/whoami").json()["admin"] is True
    assert site.ask("carl", "GET", "/api/v1/whoami").json()["projects"] == []
    answer = site.ask("nobody", "GET", "/api/v1/whoami")
    assert (answer.status_code, answer.json()["code"]) == (403, 3)


@pytest.mark.parametrize(
    ("change", "status", "code", "says"),
    [
        ({"gpus": -1}, 400, 2, "gpus: input should be greater than or equal to 0"),
        ({"gpsu": 1}, 400, 2, "gpsu: extra inputs are not permitted"),
        ({"command": "python"}, 400, 2, "command: input should be a valid list"),
        ({"idempotency_key": "x"}, 400, 2, "idempotency_key"),
        ({"cpus": "NaN"}, 400, 2, "cpus"),
        ({"project": "speech"}, 403, 3, "no member of project speech"),
        ({"project": "nosuch"}, 404, 4, "there is no project 'nosuch'"),
        ({"gpus": 9}, 409, 5, "more than there is"),
    ],
)
def test_wrong_submit_is_a_problem_document(
    site: Site, change: dict[str, Any], status: int, code: int, says: str
) -> None:
    answer = site.ask("ada", "POST", "/api/v1/runs", RUN | change)
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code)
    assert says in problem["detail"]
    assert not site.lab.store.rows


def test_body_beyond_reason_is_refused(site: Site) -> None:
    answer = site.ask("ada", "POST", "/api/v1/runs", RUN | {"env": {"A": "x" * MAX_BODY}})
    assert (answer.status_code, answer.json()["code"]) == (400, 2)


def test_database_away_is_code_6_and_not_ready_but_alive(site: Site) -> None:
    site.lab.store.broken = UnreachableError("the run database does not answer")
    answer = site.ask("ada", "POST", "/api/v1/runs", RUN)
    assert (answer.status_code, answer.json()["code"]) == (503, 6)
    assert site.client.get("/readyz").status_code == 503
    assert site.client.get("/healthz").status_code == 200
    assert "cannot be shown now" in site.client.get("/").text


def test_failure_of_ours_is_code_1_without_its_insides(site: Site) -> None:
    site.lab.store.broken = ZeroDivisionError("secret")
    answer = site.ask("ada", "GET", "/api/v1/queue")
    assert (answer.status_code, answer.json()["code"]) == (500, 1)
    assert "secret" not in answer.text


def test_unknown_places_and_methods_are_problem_documents_too(site: Site) -> None:
    assert site.client.get("/api/v1/nosuch").json()["code"] == 4
    answer = site.client.request("DELETE", "/api/v1/runs")
    assert (answer.status_code, answer.json()["code"]) == (405, 2)


def test_cancel_and_queue_and_nodes(site: Site) -> None:
    site.ask("ada", "POST", "/api/v1/runs", RUN | {"gpus": 2})
    item = site.ask("bo", "GET", "/api/v1/queue").json()["items"][0]
    assert (item["run"], item["position"], item["gpus"]) == ("vision-1", 1, 2)
    assert site.ask("bo", "GET", "/api/v1/nodes").json()["items"][0]["gpus"] == 4
    assert site.ask("ada", "POST", "/api/v1/runs/vision-1/cancel").json()["state"] == "cancelled"
    assert site.ask("ada", "GET", "/api/v1/queue").json()["items"] == []


def test_log_is_streamed_as_text(site: Site, pod_of: Any) -> None:
    site.ask("ada", "POST", "/api/v1/runs", RUN)
    run = site.lab.store.rows["vision-1"]
    ended = {"terminated": {"exitCode": 0, "startedAt": "2026-11-21T08:00:05Z"}}
    site.lab.cluster.pod_list = [pod_of(run, state=ended)]
    line = b"2026-11-21T08:00:01.000000000Z caf\xc3\xa9\n"
    site.lab.logs.streams = {"run-vision-1-x7": [[line]]}
    answer = site.ask("ada", "GET", "/api/v1/runs/vision-1/logs?follow=true")
    assert answer.text == "café\n"
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert site.portal.log_readers.borrowed_tokens == 0


def test_members_may_not_administer(site: Site) -> None:
    answer = site.ask("ada", "GET", "/api/v1/admin/members")
    assert (answer.status_code, answer.json()["code"]) == (403, 3)


def test_start_page_shows_runs_but_not_their_commands(site: Site) -> None:
    site.ask("ada", "POST", "/api/v1/runs", RUN | {"name": "<b>x", "command": ["topsecret"]})
    site.ask("ada", "POST", "/api/v1/runs", RUN | {"command": ["topsecret"], "name": "first"})
    page = site.client.get("/")
    assert page.status_code == 200
    assert "vision-1" in page.text
    assert "topsecret" not in page.text
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for asset in ("/static/portal.css", "/static/icon.svg", "/static/live.js"):
        assert asset in page.text
        assert site.client.get(asset).status_code == 200


def test_openapi_describes_every_path_of_the_contract(site: Site) -> None:
    paths = site.client.get("/api/v1/openapi.json").json()["paths"]
    wanted = (
        "runs",
        "runs/check",
        "runs/{run_id}",
        "runs/{run_id}/cancel",
        "runs/{run_id}/logs",
        "queue",
        "nodes",
    )
    wanted += ("whoami", "images", "admin/members/{name}", "admin/members", "admin/projects/{name}")
    assert set(paths) >= {f"/api/v1/{path}" for path in wanted}


def test_payload_is_what_the_contract_says() -> None:
    digest = hashlib.sha256(b"{}").hexdigest()
    expected = f"labcluster:lab\nPOST /api/v1/runs?a=b\n{digest}".encode()
    assert payload("lab", "POST", "/api/v1/runs?a=b", b"{}") == expected
