"""labctl compare over run directories: what differs, what is not known, and what does no harm."""

from __future__ import annotations

import json
import os
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from run_folders import Project, recorded

from .conftest import FakePortal, Labctl

EVIL = "<script>alert(1)</script>\x1b[31m\u202e"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "lab")


def serve(portal: FakePortal, *runs: dict[str, Any]) -> list[str]:
    for run in runs:
        portal.on("GET", f"/runs/{run['id']}", run)
    return [run["id"] for run in runs]


def two_runs(project: Project) -> tuple[dict[str, Any], dict[str, Any]]:
    """The second has another rate, one line of code more, another package and other data."""
    base = project.layer({"train.py": "lr = 1\nprint(lr)\n", "data.csv": "1\n", "old.py": "x\n"})
    change = project.layer({"train.py": "lr = 1\nprint(lr, 2)\n"})
    one = project.run(
        7,
        {
            "recorded.jsonl": recorded(loss=[3.0, 1.0, 2.0]),
            "packages.json": {"python": "/usr/bin/python3", "packages": {"torch": "2.0", "numpy": "2.1"}},
            "node.json": {"host": "gpu1", "gpus": [{"model": "A100"}]},
            "code.json": project.capsule(base),
            "data.json": [project.manifest("/lab/datasets/digits", {"a": "1", "b": "2"})],
            "result.json": {"exit_code": 0, "signal": None, "seconds": 42.0},
        },
    )
    two = project.run(
        8,
        {
            "recorded.jsonl": recorded(loss=[3.0, 0.5]),
            "packages.json": {"python": "/usr/bin/python3", "packages": {"torch": "2.1", "numpy": "2.1"}},
            "node.json": {"host": "gpu2", "gpus": [{"model": "A100"}]},
            "code.json": project.capsule(base, change, deleted=["old.py"], dirty=True),
            "data.json": [project.manifest("/lab/datasets/digits", {"a": "1", "b": "3", "c": "4"})],
            "result.json": {"exit_code": 0, "signal": None, "seconds": 40.0},
        },
        params={"lr": "0.2"},
        node="gpu2",
        parent="vision-7",
    )
    return one, two


def test_what_differs_is_shown_and_what_does_not_is_counted(
    portal: FakePortal, labctl: Labctl, project: Project
) -> None:
    done = labctl("compare", *serve(portal, *two_runs(project)))
    assert done.code == 0, done.err
    lines = [line.split() for line in done.out.splitlines()]
    assert ["lr", "0.1", "0.2"] in lines
    assert ["loss", "last", "2", "0.5"] in lines
    assert ["loss", "min", "1", "@", "1", "0.5", "@", "1"] in lines
    assert ["torch", "2.0", "2.1"] in lines
    assert ["host", "gpu1", "gpu2"] in lines
    assert ["changed", "train.py", "+1", "-1"] in lines
    assert ["removed", "old.py", "+0", "-1"] in lines
    assert ["changed", "b"] in lines
    assert ["added", "c"] in lines
    assert "numpy" not in done.out
    assert "of packages" in done.err
    everything = labctl("compare", "--all", "vision-7", "vision-8")
    assert ["numpy", "2.1", "2.1"] in [line.split() for line in everything.out.splitlines()]


def test_the_difference_of_the_code_is_gits(portal: FakePortal, labctl: Labctl, project: Project) -> None:
    done = labctl("compare", "--code", *serve(portal, *two_runs(project)))
    assert "-print(lr)\n+print(lr, 2)\n" in done.out
    assert "deleted file" in done.out
    assert "data.csv" not in done.out


def test_programs_read_numbers(portal: FakePortal, labctl: Labctl, project: Project) -> None:
    found = labctl("compare", "--json", *serve(portal, *two_runs(project))).json()
    assert found["reference"] == "vision-7"
    assert found["differences"]["metrics"]["loss min at step"] == [1.0, 1.0]
    assert found["differences"]["metrics"]["loss min"] == [1.0, 0.5]
    assert found["differences"]["parameters"] == {"lr": ["0.1", "0.2"]}
    assert found["same"]["parameters"] == {"seed": ["7", "7"]}
    [code] = found["code"]
    assert [(file["path"], file["change"]) for file in code["files"]] == [
        ("old.py", "removed"),
        ("train.py", "changed"),
    ]
    [data] = found["data"]
    assert (data["path"], data["total"]) == ("/lab/datasets/digits", 2)


def test_one_run_is_compared_with_its_parent(portal: FakePortal, labctl: Labctl, project: Project) -> None:
    serve(portal, *two_runs(project))
    assert labctl("compare", "--json", "vision-8").json()["reference"] == "vision-7"
    done = labctl("compare", "vision-7")
    assert done.code == 2
    assert "no parent" in done.err


def test_an_array_is_its_members_and_many_runs_are_rows(
    portal: FakePortal, labctl: Labctl, project: Project
) -> None:
    members = [
        project.run(
            9, {"recorded.jsonl": recorded(acc=[0.1 * k])}, id=f"vision-9.{k}", trial=k, params={"lr": f"{k}"}
        )
        for k in range(8)
    ]
    portal.on("GET", "/runs/vision-9", {**members[0], "id": "vision-9", "array": {"indices": "0-7"}})
    portal.on("GET", "/runs/vision-9/members", {"items": members})
    done = labctl("compare", "vision-9")
    assert done.code == 0, done.err
    lines = [line.split() for line in done.out.splitlines()]
    assert ["vision-9.3", "3"] in lines
    assert ["vision-9.3", "0.3"] in lines


def test_more_runs_than_can_be_looked_at_are_refused(
    portal: FakePortal, labctl: Labctl, project: Project
) -> None:
    members = [project.run(9, id=f"vision-9.{k}", trial=k) for k in range(51)]
    portal.on("GET", "/runs/vision-9", {**members[0], "id": "vision-9", "array": {"indices": "0-50"}})
    portal.on("GET", "/runs/vision-9/members", {"items": members})
    done = labctl("compare", "vision-9")
    assert done.code == 2
    assert "51 runs are too many" in done.err


def test_a_run_that_never_began_is_compared_by_what_the_portal_knows(
    portal: FakePortal, labctl: Labctl, project: Project
) -> None:
    began = project.run(1, {"recorded.jsonl": recorded(loss=[1.0])})
    never = project.run(
        2, state="cancelled", started_at=None, finished_at=None, node=None, params={"lr": "1"}
    )
    done = labctl("compare", *serve(portal, began, never))
    assert done.code == 0
    assert ["lr", "0.1", "1"] in [line.split() for line in done.out.splitlines()]
    assert "vision-2: it never began" in done.err
    # What is known of one run only differs from nothing.
    assert "loss" not in done.out


def test_a_machine_without_the_tree_says_so(
    portal: FakePortal, labctl: Labctl, project: Project, tmp_path: Path
) -> None:
    away = [
        project.run(n) | {"directory": f"{tmp_path}/none/projects/vision/runs/{n}_0_train"} for n in (1, 2)
    ]
    done = labctl("compare", *serve(portal, *away))
    assert done.code == 0
    assert "not on this machine" in done.err


def test_code_without_a_readable_capsule_is_read_from_the_checkout(
    portal: FakePortal, labctl: Labctl, project: Project
) -> None:
    capsule = project.capsule("a" * 64)
    runs = [
        project.run(n, {"code.json": capsule, "code/train.py": f"print({n})\n", "code/same.py": "\n"})
        for n in (1, 2)
    ]
    found = labctl("compare", "--json", *serve(portal, *runs)).json()
    assert [file["path"] for file in found["code"][0]["files"]] == ["train.py"]


@pytest.mark.parametrize("linked", ["result.json", "recorded.jsonl", "code"])
def test_no_link_leads_out_of_a_run_directory(
    portal: FakePortal, labctl: Labctl, project: Project, tmp_path: Path, linked: str
) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "train.py").write_text("private\n")
    (secret / "file").write_text('{"key": "private", "value": 1, "step": 0, "seconds": 1}\n')
    runs = [project.run(n, {}) for n in (1, 2)]
    target = Path(runs[1]["directory"]) / linked
    target.symlink_to(secret if linked == "code" else secret / "file")
    done = labctl("compare", "--all", "--code", *serve(portal, *runs))
    assert done.code == 0
    assert "private" not in done.out
    assert linked == "code" or f"{linked} cannot be read" in done.err


def test_a_run_directory_that_is_a_link_is_not_followed(
    portal: FakePortal, labctl: Labctl, project: Project, tmp_path: Path
) -> None:
    one, two = project.run(1, {}), project.run(2)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "node.json").write_text('{"host": "private"}')
    Path(two["directory"]).symlink_to(tmp_path / "elsewhere")
    done = labctl("compare", "--all", *serve(portal, one, two))
    assert done.code == 0
    assert "private" not in done.out


def test_a_named_pipe_stops_nobody(portal: FakePortal, labctl: Labctl, project: Project) -> None:
    runs = [project.run(n, {}) for n in (1, 2)]
    os.mkfifo(Path(runs[0]["directory"]) / "node.json")
    done = labctl("compare", *serve(portal, *runs))
    assert done.code == 0
    assert "node.json cannot be read: it is no regular file" in done.err


HOSTILE: dict[str, Any] = {
    "args.json": "[" * 100_000,
    "packages.json": {"python": [1], "packages": {EVIL: EVIL}},
    "node.json": [EVIL, {"a": {"b": {"c": {"d": {"e": {"f": EVIL}}}}}}],
    "data.json": [{"path": EVIL, "digest": "../../x", "manifest": 5}, 7, None],
    "result.json": [1, 2],
    "code.json": {"layers": "x", "git": EVIL, "deleted": 5},
    "env.json": {"x": {"y": EVIL}, "\ud800": 1},
    "recorded.jsonl": b"\xff\xfe\n" + b"x" * 200_000 + b"\n{}\n[]\n"
    + json.dumps({"key": EVIL, "value": 1, "step": "NaN", "time": True}).encode() + b"\n"
    + b'{"key": "loss", "value": NaN, "step": 1e999}\n{"key": "loss", "value": 1' + b"0" * 400 + b"}\nhalf",
}  # fmt: skip


class Tags(HTMLParser):
    """What a browser would take for a tag."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]


@pytest.mark.parametrize("words", [[], ["--all"], ["--json"], ["--code"]])
def test_hostile_files_are_named_and_printed_harmlessly(
    portal: FakePortal, labctl: Labctl, project: Project, words: list[str]
) -> None:
    good = project.run(1, {"recorded.jsonl": recorded(loss=[1.0])})
    bad = project.run(2, HOSTILE, reason=EVIL, state="failed")
    done = labctl("compare", *words, *serve(portal, good, bad))
    assert done.code == 0, done.err
    for text in (done.out, done.err):
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert "args.json cannot be read" in done.err
    assert "could not be understood" in done.err


def test_the_page_is_one_file_in_which_nothing_of_a_run_runs(
    portal: FakePortal, labctl: Labctl, project: Project, tmp_path: Path
) -> None:
    one, two = two_runs(project)
    bad = project.run(9, HOSTILE, name="evil")
    (Path(bad["directory"]) / "recorded.jsonl").write_text(recorded(**{"</script><b>": [1.0, float("nan")]}))
    page = tmp_path / "page.html"
    done = labctl("compare", "--html", str(page), *serve(portal, one, two, bad))
    assert done.code == 0, done.err
    tags = Tags()
    tags.feed(page.read_text())
    assert tags.found.count("script") == 3
    assert "b" in tags.found
    assert tags.sources == []
    text = page.read_text()
    assert "alert(1)</script>" not in text
    assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert [metric["name"] for metric in data["metrics"]] == ["</script><b>", "loss"]
    loss = data["metrics"][1]["curves"]
    assert [curve["values"] for curve in loss] == [[3.0, 1.0, 2.0], [3.0, 0.5]]
    assert data["metrics"][0]["curves"][0]["values"] == [1.0, None]


def test_a_page_that_cannot_be_written_is_said(
    portal: FakePortal, labctl: Labctl, project: Project, tmp_path: Path
) -> None:
    done = labctl(
        "compare", "--html", str(tmp_path / "none" / "page.html"), *serve(portal, *two_runs(project))
    )
    assert done.code == 2
    assert "cannot be written" in done.err


def test_values_that_are_called_secret_are_not_shown(
    portal: FakePortal, labctl: Labctl, project: Project
) -> None:
    runs = [project.run(n, {}, env={"WANDB_API_KEY": f"hunter{n}", "EPOCHS": f"{n}"}) for n in (1, 2)]
    done = labctl("compare", "--all", "--json", *serve(portal, *runs))
    assert "hunter" not in done.out
    assert done.json()["differences"]["environment"] == {"EPOCHS": ["1", "2"]}


def test_long_curves_are_thinned_and_their_extremes_are_exact(
    portal: FakePortal, labctl: Labctl, project: Project, tmp_path: Path
) -> None:
    values = [float(step % 97) for step in range(20_000)]
    values[13_331] = -5.0
    runs = [project.run(n, {"recorded.jsonl": recorded(loss=values)}) for n in (1, 2)]
    page = tmp_path / "page.html"
    done = labctl("compare", "--json", "--html", str(page), *serve(portal, *runs))
    same = done.json()["same"]["metrics"]
    assert (same["loss min"], same["loss min at step"]) == ([-5.0] * 2, [13_331.0] * 2)
    data = json.loads(page.read_text().split('id="data">')[1].split("</script>")[0])
    steps = data["metrics"][0]["curves"][0]["steps"]
    assert 900 < len(steps) <= 2001
    assert steps[-1] == 19_999
