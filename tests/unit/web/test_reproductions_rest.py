"""REST for verdicts on repeated runs, and for ending several runs at once."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from labcluster.errors import UnreachableError
from labcluster.models.reproductions import ReproductionReport
from labcluster.models.runs import Run, RunState
from labcluster.services.reproductions import ReproductionService
from labcluster.web.app import create_app
from portal_site import Client, Site


class FakeReproductions:
    """services.reproductions.ReproductionStore."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str | None], ReproductionReport] = {}

    def keep(self, of: Run, found: ReproductionReport) -> None:
        self.kept[of.id, found.again] = found

    def about(self, ids: Collection[str]) -> Sequence[ReproductionReport]:
        return [found for found in self.kept.values() if found.of in ids or found.again in ids]


@pytest.fixture
def site(lab: Any) -> Iterator[Site]:
    with start_blocking_portal() as loop:
        site = Site(lab, loop)
        service = ReproductionService(FakeReproductions(), lab.runs, lab.registry, lab.clock)
        site.client = Client(create_app(replace(site.portal, reproductions=service)), loop)
        yield site


def ended(lab: Any, run: Run) -> Run:
    lab.store.rows[run.id] = run.model_copy(update={"state": RunState.SUCCEEDED, "finished_at": lab.clock()})
    return lab.row(run)  # type: ignore[no-any-return]


def path(run: Run) -> str:
    return f"/api/v1/runs/{run.id}/reproductions"


def test_a_verdict_is_kept_and_told_with_both_runs(lab: Any, site: Site) -> None:
    run = ended(lab, lab.submit(project="vision"))
    again = ended(lab, lab.submit(project="vision", parent=run.id))
    body = {"again": again.id, "verdict": "drifted", "line": "loss drifted", "report": {"metrics": []}}
    kept = site.ask("ada", "PUT", path(run), body)
    assert kept.status_code == 200, kept.text
    for one in (run, again):
        [told] = site.ask("ada", "GET", f"/api/v1/runs/{one.id}").json()["reproductions"]
        assert (told["of"], told["again"], told["by"]) == (run.id, again.id, "ada")
        assert "report" not in told
    site.ask("ada", "PUT", path(run), body | {"verdict": "reproduced", "line": "within 1%"})
    [found] = site.ask("ada", "GET", path(again)).json()["items"]
    assert (found["verdict"], found["report"]) == ("reproduced", {"metrics": []}), "the later one counts"
    listed = site.ask("ada", "GET", "/api/v1/runs?project=vision").json()["items"]
    assert [len(one["reproductions"]) for one in listed] == [1, 1]


def test_impossible_needs_no_second_run_and_the_registry_is_asked(lab: Any, site: Site) -> None:
    run = ended(lab, lab.submit(project="vision"))
    assert site.ask("ada", "GET", path(run)).json() == {"image_there": True, "items": []}
    lab.registry.images.clear()
    assert site.ask("ada", "GET", path(run)).json()["image_there"] is False
    gone = {"verdict": "impossible", "line": "the image is gone"}
    assert site.ask("ada", "PUT", path(run), gone).status_code == 200
    assert site.ask("ada", "PUT", path(run), gone | {"verdict": "reproduced"}).status_code == 400


def test_verdicts_are_refused_that_fit_no_pair_or_are_another_s(lab: Any, site: Site) -> None:
    run = ended(lab, lab.submit(project="shared"))
    other = ended(lab, lab.submit(project="shared"))
    again = lab.submit(project="shared", parent=run.id)
    body = {"again": other.id, "verdict": "reproduced", "line": "the same"}
    assert site.ask("ada", "PUT", path(run), body).status_code == 400, "it repeats nothing"
    body["again"] = again.id
    assert site.ask("ada", "PUT", path(run), body).status_code == 409, "it goes on"
    ended(lab, again)
    assert site.ask("bo", "PUT", path(run), body).status_code == 403
    assert site.ask("carl", "GET", path(run)).status_code == 404
    large = body | {"report": {"metrics": ["x" * 600_000]}}
    assert site.ask("ada", "PUT", path(run), large).status_code == 400
    assert site.ask("ada", "GET", path(run)).json()["items"] == []


def cancel(site: Site, user: str, *ids: str, **more: Any) -> Any:
    return site.ask(user, "POST", "/api/v1/runs/cancel", {"ids": list(ids), **more})


def test_several_runs_are_ended_by_one_request(lab: Any, site: Site) -> None:
    over = ended(lab, lab.submit(project="vision"))
    waits, array = lab.submit(project="vision"), lab.submit(project="vision", array="0-2")
    ids = (over.id, waits.id, array.array_id, waits.id)
    looked = cancel(site, "ada", *ids, dry_run=True).json()["items"]
    assert [(one["before"]["state"], one["after"]) for one in looked] == [
        ("succeeded", None),
        ("queued", None),
        ("queued", None),
    ]
    assert lab.row(waits).state is RunState.QUEUED
    items = cancel(site, "ada", *ids).json()["items"]
    assert [one["after"]["state"] for one in items] == ["succeeded", "cancelled", "cancelled"]
    assert items[2]["after"]["array"]["counts"] == {"cancelled": 3}
    assert (waits.namespace, waits.job_name) not in lab.cluster.jobs


def test_one_wrong_id_among_several_ends_none(lab: Any, site: Site) -> None:
    mine = lab.submit(project="shared")
    for user, wrong, status in (("ada", "vision-99", 404), ("bo", "x", 400), ("bo", mine.id, 403)):
        answer = cancel(site, user, mine.id, wrong)
        assert answer.status_code in (status, 403 if user == "bo" else status)
        assert wrong in answer.json()["detail"]
    assert lab.row(mine).state is RunState.QUEUED
    assert cancel(site, "ada").status_code == 400


def test_those_that_the_database_did_not_end_are_named(
    lab: Any, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other, third = (lab.submit(project="vision") for _ in range(3))
    end, tries = lab.store.end, []

    def breaking(project: str, number: int, *rest: Any) -> Any:
        tries.append(number)
        if number == other.number:
            raise UnreachableError("the run database does not answer")
        return end(project, number, *rest)

    monkeypatch.setattr(lab.store, "end", breaking)
    items = cancel(site, "ada", one.id, other.id, third.id).json()["items"]
    assert [item["code"] for item in items] == [None, 6, 6]
    assert tries == [one.number, other.number], "each further try would cost its time limit"
    assert (lab.row(one).state, lab.row(third).state) == (RunState.CANCELLED, RunState.QUEUED)
