"""Sweeps over REST, and their page with parallel coordinates."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from portal_site import Site
from sweep_fakes import Sweeping

SPEC = {
    "params": {"lr": {"low": 0.001, "high": 0.1, "log": True}, "<opt>": ["a"]},
    "metric": "accuracy",
    "arms": 4,
}
RUN = {"command": ["train", "{lr}"], "workdir": "/lab/home/ada", "idempotency_key": "key-00001"}


@pytest.fixture
def site(lab: Any) -> Iterator[Site]:
    with start_blocking_portal() as loop:
        yield Site(lab, loop)


@pytest.fixture
def sweeping(site: Site, lab: Any, tmp_path: Path) -> Sweeping:
    """A sweep of which three arms are done."""
    spec = SPEC | {"params": {"lr": SPEC["params"]["lr"], "opt": ["a<b", "c"]}}  # type: ignore[index]
    answer = site.ask("ada", "POST", "/api/v1/runs", {**RUN, "sweep": spec})
    assert answer.status_code == 201, answer.text
    assert answer.json()["array"]["sweep"]["metric"] == "accuracy"
    found = Sweeping(lab, tmp_path)
    found.turn()
    for trial, value in enumerate((0.5, 0.9, 0.1)):
        found.finish(trial, value)
    found.turn()
    return found


def log_in(site: Site, user: str) -> None:
    site.client.get("/login")
    assert site.client.get(f"/login/callback?state=s1&code={user}").status_code == 303


def test_sweep_is_given_with_its_arms(site: Site, sweeping: Sweeping) -> None:
    found = site.ask("ada", "GET", "/api/v1/runs/vision-1/sweep").json()
    assert (found["best"], [arm["value"] for arm in found["arms"]]) == ("vision-1.1", [0.5, 0.9, 0.1, None])
    assert site.ask("bo", "GET", "/api/v1/runs/vision-1/sweep").status_code == 404
    assert site.ask("ada", "GET", "/api/v1/runs/vision-1.0/sweep").status_code == 400


def test_unsound_sweep_is_refused(site: Site) -> None:
    answer = site.ask("ada", "POST", "/api/v1/runs", {**RUN, "sweep": {"params": {"lr": ["1"]}}})
    assert answer.status_code == 400
    assert "needs the metric" in answer.json()["detail"]


def test_page_draws_a_line_for_each_arm_with_a_value(site: Site, sweeping: Sweeping) -> None:
    log_in(site, "ada")
    answer = site.client.get("/sweeps/vision-1")
    assert answer.status_code == 200
    page = answer.text
    found = re.findall(r'<parallel-plot[^>]*><script type="application/json">(.*?)</script>', page)
    plot = json.loads(found[0])
    assert [(axis["name"], axis["log"], axis["names"]) for axis in plot["axes"]] == [
        ("lr", True, None),
        ("opt", False, sorted({line["values"][1] for line in plot["lines"]})),
        ("accuracy", False, None),
    ]
    assert [(line["arm"], line["values"][2]) for line in plot["lines"]] == [
        ("vision-1.0", 0.5),
        ("vision-1.1", 0.9),
        ("vision-1.2", 0.1),
    ]
    assert all(0.001 <= line["values"][0] <= 0.1 for line in plot["lines"])
    assert (plot["best"], plot["rising"]) == ("vision-1.1", True)
    assert "vision-1.1 · best" in page
    assert "a<b" not in page
    assert 'href="/sweeps/vision-1"' in site.client.get("/").text


def test_page_is_for_members_only(site: Site, sweeping: Sweeping) -> None:
    asked = site.client.get("/sweeps/vision-1")
    assert (asked.status_code, asked.headers["location"]) == (302, "/login")
    site.client.get("/login")
    back = site.client.get("/login/callback?state=s1&code=bo")
    assert back.headers["location"] == "/sweeps/vision-1"
    answer = site.client.get("/sweeps/vision-1")
    assert answer.status_code == 404
    assert "0.9" not in answer.text
