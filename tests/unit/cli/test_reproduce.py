"""labctl reproduce: what is said before anything runs, the verdict, and where it is kept."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from labcluster.cli import code
from run_folders import Project, recorded

from .conftest import FakePortal, Labctl, sent

PAIR = "/runs/vision-7/reproductions"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setattr(code, "PROJECTS", str(tmp_path / "lab" / "projects"))
    return Project(tmp_path / "lab")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "digits"
    (folder / "sub").mkdir(parents=True)
    (folder / "a").write_text("1")
    (folder / "sub" / "b").write_text("22")
    return folder


Make = Callable[..., tuple[dict[str, Any], dict[str, Any]]]


@pytest.fixture
def make(project: Project, portal: FakePortal, data: Path) -> Make:
    """vision-7, and vision-8 that repeats it; the portal accepts vision-8 as the repetition."""

    def pair(
        before: dict[str, Any] | None = None, after: dict[str, Any] | None = None, **changes: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        capsule = project.capsule(project.layer({"train.py": "print(1)\n"}))
        packed = json.dumps(capsule, sort_keys=True, separators=(",", ":")).encode()
        reference = {"digest": project.put(packed), "commit": None, "branch": None, "remote": None}
        reference |= {"dirty": False, "subdir": "", "root": "/lab/home/ada/digits"}
        saw = [project.manifest(str(data), {"a": "1", "sub/b": "22"})]
        files = {"recorded.jsonl": recorded(loss=[3.0, 1.0]), "data.json": saw}
        same = {"code": reference, "data": [str(data)]}
        one = project.run(7, files | (before or {}), **same)
        other = project.run(8, files | (after or {}), **{**same, "parent": "vision-7", **changes})
        for run in (one, other):
            portal.on("GET", f"/runs/{run['id']}", run)
        portal.on("GET", PAIR, {"image_there": True, "items": []})
        portal.on("PUT", PAIR, {"by": "ada", "at": "2026-11-21T09:00:00Z"})
        portal.on("POST", "/runs/check", one)
        portal.on("POST", "/runs", other | {"state": "queued"})
        return one, other

    return pair


def kept(portal: FakePortal) -> dict[str, Any]:
    """The verdict that the portal was given."""
    [request] = portal.asked("PUT")
    assert request.path == PAIR
    found: dict[str, Any] = request.body
    return found


def test_the_same_again_is_reproduced(make: Make, portal: FakePortal, labctl: Labctl) -> None:
    one, _ = make()
    done = labctl("reproduce", "vision-7")
    assert done.code == 0, done.err
    assert done.out.startswith("vision-7 → vision-8: reproduced\n")
    body = sent(portal)
    assert body["image"] == f"{one['image']}@{one['image_digest']}"
    assert (body["parent"], body["seed"], body["code"], body["data"]) == (
        *("vision-7", 7),
        *(one["code"], one["data"]),
    )
    assert (kept(portal)["again"], kept(portal)["verdict"]) == ("vision-8", "reproduced")


def test_a_drift_names_metric_amount_and_what_else_differs(
    make: Make, portal: FakePortal, labctl: Labctl
) -> None:
    make(
        {"node.json": {"driver": "580"}},
        {"node.json": {"driver": "581"}, "recorded.jsonl": recorded(loss=[3, 1.5])},
    )
    done = labctl("reproduce", "vision-7")
    assert done.code == 7
    assert ["loss", "1", "1.5", "+0.5", "exact", "no"] in [line.split() for line in done.out.splitlines()]
    assert ["driver", "580", "581"] in [line.split() for line in done.out.splitlines()]
    assert "--verdict vision-8 --tolerance 50%" in done.err
    found = kept(portal)
    assert found["verdict"] == "drifted"
    assert "loss was 1 and is 1.5 (+50.00%)" in found["line"]
    assert found["report"]["differences"]["node"] == {"driver": ["580", "581"]}


def test_a_finished_pair_is_judged_later_and_with_tolerances(
    make: Make, portal: FakePortal, labctl: Labctl
) -> None:
    make(after={"recorded.jsonl": recorded(loss=[3.0, 1.005])})
    waiting = labctl("reproduce", "vision-7", "--no-wait")
    assert (waiting.code, waiting.out) == (0, "vision-8\n")
    assert portal.asked("PUT") == []
    done = labctl("reproduce", "--verdict", "vision-8", "--tolerance", "loss=1%", "--json")
    assert (done.code, done.json()["verdict"]) == (0, "reproduced")
    assert done.json()["report"]["tolerances"] == ["loss=1%"]
    assert len(portal.asked("POST")) == 1
    assert labctl("reproduce", "--verdict", "vision-8", "--curves").code == 7


@pytest.mark.parametrize("what", ["image", "code", "data gone", "data changed", "data added", "same size"])
def test_what_cannot_be_reproduced_is_told_before_anything_runs(
    make: Make, portal: FakePortal, labctl: Labctl, project: Project, data: Path, what: str
) -> None:
    one, _ = make()
    says = {
        "image": "the image is gone from the registry",
        "code": "the code is gone",
        "data gone": "the data are gone",
        "data changed": "sub/b changed",
        "data added": "new added",
        "same size": "a changed",
    }[what]
    if what == "image":
        portal.on("GET", PAIR, {"image_there": False, "items": []})
    elif what == "code":
        digest = one["code"]["digest"]
        (project.folder / "capsules" / digest[:2] / digest).unlink()
    elif what == "data gone":
        shutil.rmtree(data)
    elif what == "data changed":
        (data / "sub" / "b").write_text("22 and more")
    elif what == "data added":
        (data / "new").write_text("")
    else:
        (data / "a").write_text("2")
    dry = labctl("reproduce", "vision-7", "--dry-run")
    assert (dry.code, says in dry.out) == (8, True), dry.out
    assert portal.asked("PUT") == []
    done = labctl("reproduce", "vision-7")
    assert (done.code, says in done.out) == (8, True)
    assert portal.asked("POST") == []
    assert (kept(portal)["again"], kept(portal)["verdict"]) == (None, "impossible")


def test_files_with_another_time_and_the_same_bytes_have_not_changed(
    make: Make, labctl: Labctl, data: Path
) -> None:
    make()
    os.utime(data / "a", (1, 1))
    done = labctl("reproduce", "vision-7", "--dry-run")
    assert (done.code, done.out) == (0, "vision-7 can be reproduced, as far as is known before it runs\n")


def test_data_that_changed_while_it_ran_make_it_impossible(
    make: Make, project: Project, labctl: Labctl, data: Path
) -> None:
    make(after={"data.json": [project.manifest(str(data), {"a": "9", "sub/b": "22"})]})
    done = labctl("reproduce", "vision-7")
    assert (done.code, "data changed" in done.out) == (8, True)


def test_runs_without_a_result_of_their_own_are_not_judged(
    make: Make, portal: FakePortal, labctl: Labctl
) -> None:
    one, other = make()
    for state in ("running", "cancelled", "lost"):
        portal.on("GET", "/runs/vision-7", one | {"state": state})
        assert labctl("reproduce", "vision-7").code == 5
    portal.on("GET", "/runs/vision-7", one | {"code": None})
    assert "no code was kept" in labctl("reproduce", "vision-7", "--dry-run").out
    portal.on("GET", "/runs/vision-7", one)
    portal.on("GET", "/runs/vision-8", other | {"state": "cancelled"})
    assert labctl("reproduce", "--verdict", "vision-8").code == 5
    portal.on("GET", "/runs/vision-8", other | {"params": {"lr": "9"}})
    done = labctl("reproduce", "--verdict", "vision-8")
    assert (done.code, "another params" in done.err) == (2, True)
    assert labctl("reproduce", "--verdict", "vision-7").code == 2
    assert portal.asked("PUT") == portal.asked("POST") == []


def test_a_member_of_an_array_is_repeated_as_this_member(
    make: Make, portal: FakePortal, labctl: Labctl
) -> None:
    one, other = make()
    portal.on("GET", "/runs/vision-7", one | {"array_index": 3, "seed": 10})
    member = other | {"array_index": 3, "seed": 10}
    portal.on("POST", "/runs", other | {"array": {"indices": "3", "total": 1}})
    portal.on("GET", "/runs/vision-8/members", {"items": [member]})
    assert labctl("reproduce", "vision-7").code == 0
    assert (sent(portal)["array"], sent(portal)["seed"]) == ("3", 7)


def test_a_failed_run_is_reproduced_by_failing_so_again(
    make: Make, portal: FakePortal, labctl: Labctl
) -> None:
    one, other = make(state="failed", exit_code=3)
    portal.on("GET", "/runs/vision-7", one | {"state": "failed", "exit_code": 3})
    assert labctl("reproduce", "vision-7").code == 0
    portal.on("GET", "/runs/vision-8", other | {"exit_code": 4})
    done = labctl("reproduce", "vision-7")
    assert (done.code, "exit status 3 and now failed with exit status 4" in done.out) == (7, True)


def test_verdicts_are_shown_compared_reported_and_exported(
    make: Make, portal: FakePortal, labctl: Labctl, tmp_path: Path
) -> None:
    one, other = make()
    told = {"of": "vision-7", "again": "vision-8", "verdict": "drifted", "line": "loss drifted"}
    told |= {"by": "ada", "at": "2026-11-20T09:00:00Z"}
    runs = [run | {"reproductions": [told]} for run in (one, other)]
    for run in runs:
        portal.on("GET", f"/runs/{run['id']}", run)
    assert "drifted by vision-8: loss drifted" in labctl("show", "vision-7").out
    assert "drifted vision-7: loss drifted" in labctl("show", "vision-8").out
    assert labctl("compare", "vision-8").out.count("vision-7 drifted by vision-8: loss drifted") == 1
    portal.on("GET", "/runs", {"items": runs})
    words = ("report", "--project", "vision", "--since", "2026-11-19", "--until", "2026-11-21", "-o", "-")
    report = labctl(*words).out
    assert report.count("| vision-7 | vision-8 | drifted | loss drifted | ada |") == 1, report
    bundle = tmp_path / "bundle"
    assert labctl("export", "vision-7", "vision-8", "--bundle", str(bundle)).code == 0
    readme = (bundle / "README.md").read_text()
    assert "- drifted by vision-8: loss drifted" in readme
    assert json.loads((bundle / "runs" / "vision-8" / "run.json").read_text())["run"]["reproductions"]
