"""labctl report over run directories: the numbers, the text, its pictures and the commit."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from labcluster.cli import code
from run_folders import Project, recorded

from .conftest import FakePortal, Labctl

PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 50
OPTIONS = ["--project", "vision", "--since", "2026-11-14T00:00+00:00", "--until", "2026-11-21T00:00+00:00"]
EVIL = "a|b](javascript:x) <script>`~~ ![x](http://evil/)\x1b[1m"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository that one stands in."""
    folder = tmp_path / "repo"
    folder.mkdir()
    for name, value in (("NAME", "Ada"), ("EMAIL", "ada@lab")):
        monkeypatch.setenv(f"GIT_AUTHOR_{name}", value)
        monkeypatch.setenv(f"GIT_COMMITTER_{name}", value)
    git(folder, "init", "-q", "-b", "main")
    git(folder, "commit", "-q", "--allow-empty", "-m", "begin")
    monkeypatch.chdir(folder)
    return folder


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def project(tmp_path: Path, portal: FakePortal) -> Project:
    """Two runs of ada's, of which one failed, one of bo's that is better, one long ago, one that waits."""
    project = Project(tmp_path / "lab")
    runs = [
        project.run(1, {"recorded.jsonl": recorded(val_acc=[0.1, 0.99])}, name="old",
                    submitted_at="2026-10-01T08:00:00Z", started_at=None, finished_at="2026-10-01T08:00:00Z"),
        project.run(2, {"recorded.jsonl": recorded(val_acc=[0.5, 0.8], loss=[2.0, 1.0])}),
        project.run(3, {"recorded.jsonl": recorded(val_acc=[0.5, 0.9, 0.7], loss=[2.0, 0.5, 0.6]),
                        "artifacts/a.png": PNG, "artifacts/b.png": b"<svg onload=x>"},
                    user="bo", gpus=2, finished_at="2026-11-20T09:00:02Z", params={"lr": "0.2"}),
        project.run(4, {}, state="failed", reason="out of memory: it used 4 GiB", exit_code=137),
        project.run(5, name="next", state="queued", started_at=None, finished_at=None, reason="waits"),
    ]  # fmt: skip
    portal.on("GET", "/runs", {"items": list(reversed(runs))})
    return project


def test_the_numbers_behind_it(portal: FakePortal, labctl: Labctl, project: Project, tmp_path: Path) -> None:
    data = labctl("report", "--json", *OPTIONS).json()
    assert data["total"] == 4
    assert data["states"] == {"failed": 1, "queued": 1, "succeeded": 2}
    # bo held two GPUs for an hour, ada one for twice 42 seconds.
    assert [(user["name"], user["gpu_hours"], user["runs"]) for user in data["users"]] == [
        ("bo", 2.0, 1),
        ("ada", 0.02, 3),
    ]
    train = data["experiments"][0]
    assert train["metrics"] == {"val_acc": "max", "loss": "min"}
    assert train["parameters"] == ["lr"]
    assert [(line["metric"], line["value"], line["run"], line["step"]) for line in train["best"]] == [
        ("val_acc", 0.9, "vision-3", 1.0),
        ("loss", 0.5, "vision-3", 1.0),
    ]
    assert [run["id"] for run in train["runs"]] == ["vision-3", "vision-2", "vision-4"]
    assert [run["reason"] for run in data["failures"]] == ["out of memory: it used 4 GiB"]
    assert [run["id"] for run in data["active"]] == ["vision-5"]
    assert data["new"] is None
    assert portal.requests[0].query["project"] == ["vision"]


def test_it_is_written_into_the_repository_and_only_it_is_committed(
    labctl: Labctl, project: Project, repository: Path
) -> None:
    (repository / "mine.py").write_text("half done\n")
    git(repository, "add", "mine.py")
    done = labctl("report", "--commit", *OPTIONS)
    assert done.code == 0, done.err
    text = (repository / "reports" / "vision" / "2026-11-21.md").read_text()
    assert text.startswith("# vision: 2026-11-14 to 2026-11-21\n")
    for line in (
        "4 runs by 2 people, 2.0 GPU-hours: 1 failed, 1 queued, 2 succeeded.",
        "| bo | 1 | 1 | 0 | 2.0 | train |",
        "- best val_acc (greatest): **0.9** by vision-3 (bo), step 1",
        "| vision-3 | bo | succeeded | 0.2 | 0.9 | 0.5 | 1h 00m |  |",
        "| vision-4 | ada | train | 2026-11-20 | failed: out of memory: it used 4 GiB |",
        "| vision-5 | ada | next | queued | 2026-11-20 | waits |",
    ):
        assert line in text.splitlines(), line
    committed = git(repository, "show", "--name-only", "--format=%s", "HEAD").split("\n")
    assert committed[0] == "reports: vision, 2026-11-14 to 2026-11-21"
    pictures = [name for name in committed if "2026-11-21-pictures" in name]
    assert len(pictures) == 3
    assert "mine.py" not in committed
    assert git(repository, "diff", "--cached", "--name-only") == "mine.py\n"
    # Every picture that the text shows lies there, and is what its name says.
    for name in pictures:
        assert f"](2026-11-21-pictures/{Path(name).name})" in text
        content = (repository / name).read_bytes()
        assert content.startswith(PNG if name.endswith(".png") else b"<?xml")
    again = labctl("report", "--commit", *OPTIONS)
    assert again.code == 0
    assert "nothing has changed" in again.err


def test_the_next_one_begins_where_the_last_ended_and_says_what_is_new(
    portal: FakePortal, labctl: Labctl, project: Project, repository: Path
) -> None:
    assert labctl("report", *OPTIONS).code == 0
    times = {"submitted_at": "2026-11-22T08:00:00Z", "started_at": "2026-11-22T08:00:00Z"}
    runs = [
        project.run(6, {"recorded.jsonl": recorded(val_acc=[0.95])}, user="eve", name="train", **times),
        project.run(7, {"recorded.jsonl": recorded(f1=[0.5])}, name="segment", **times),
    ]
    portal.on("GET", "/runs", {"items": [run | {"finished_at": "2026-11-22T09:00:00Z"} for run in runs]})
    done = labctl("report", "-p", "vision", "--until", "2026-11-28T00:00+00:00")
    assert done.code == 0, done.err
    text = (repository / "reports" / "vision" / "2026-11-28.md").read_text()
    assert text.startswith("# vision: 2026-11-21 to 2026-11-28\n")
    assert "- **train**: best val_acc is now **0.95** (was 0.9): vision-6 by eve" in text
    assert "- new experiment **segment**" in text
    assert "- first runs of **eve**" in text


def test_a_template_of_ones_own_extends_ours_in_a_sandbox(
    labctl: Labctl, project: Project, tmp_path: Path
) -> None:
    template = tmp_path / "own.md"
    template.write_text(
        '{% extends "report.md" %}{% block title %}# Group meeting {{ total }}{% endblock %}'
        "{% block experiments %}{% endblock %}"
    )
    done = labctl("report", "--output", "-", "--template", str(template), *OPTIONS)
    assert done.out.startswith("# Group meeting 4\n")
    assert "## train" not in done.out
    for text, says in (
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ users.append(1) }}", "unsafe"),
        ("{% include '/etc/passwd' %}", "passwd"),
        ("{% include '../../main.py' %}", "main.py"),
        ("line\n{% if %}", "line 2"),
        ("{{ nothing }}", "undefined"),
    ):
        template.write_text(text)
        done = labctl("report", "--output", "-", "--template", str(template), *OPTIONS)
        assert (done.code, done.out) == (2, ""), text
        assert says in done.err


def test_what_runs_are_called_is_only_text(
    portal: FakePortal, labctl: Labctl, tmp_path: Path, repository: Path
) -> None:
    project = Project(tmp_path / "evil")
    values = {EVIL: [1.0, 2.0], "../../x": [1.0, 2.0]}
    files = {"recorded.jsonl": recorded(**values), f"artifacts/{EVIL.replace('/', '')}.png": PNG}
    runs = [
        project.run(n, files, params={"lr": "1", "a|b": f"{n}|<b>"}, reason=EVIL, state="failed")
        for n in (1, 2)
    ]
    portal.on("GET", "/runs", {"items": runs})
    done = labctl("report", *OPTIONS)
    assert done.code == 0, done.err
    text = (repository / "reports" / "vision" / "2026-11-21.md").read_text()
    body = text[: text.index("<!-- labctl report")]
    for harm in ("<script>", "](javascript", "](http", "\x1b", "<b>"):
        assert harm not in body.replace("\\<", "").replace("\\]", ""), harm
    rows = [
        line.replace("\\|", "") for line in body.splitlines() if line.startswith("| vision-1 | ada | failed")
    ]
    header = next(line for line in body.splitlines() if line.startswith("| run | who | state"))
    assert rows[0].count("|") == header.replace("\\|", "").count("|")
    written = sorted((repository / "reports" / "vision" / "2026-11-21-pictures").iterdir())
    assert len(written) == 3
    drawn = [ElementTree.parse(path) for path in written if path.suffix == ".svg"]
    assert [tree.find(".//{*}script") for tree in drawn] == [None, None]
    assert "-->" not in text[text.index("<!-- labctl report") : -5]


def test_a_folder_of_pictures_keeps_what_is_not_ours(
    labctl: Labctl, project: Project, tmp_path: Path
) -> None:
    target = tmp_path / "notes.md"
    folder = tmp_path / "notes-pictures"
    folder.mkdir()
    (folder / "precious.png").write_bytes(PNG)
    (folder / "loss-of-old-abcdef.svg").write_text("<svg/>")
    assert labctl("report", "--output", str(target), *OPTIONS).code == 0
    names = {path.name for path in folder.iterdir()}
    assert "precious.png" in names
    assert "loss-of-old-abcdef.svg" not in names


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--commit", "--output", "-"], "no file that could be committed"),
        (["--commit", "--output", "/tmp/labctl-report-elsewhere.md"], "in no git repository here"),
        (["--since", "2026-12-01"], "later than the end"),
        (["--template", "/nowhere.md"], "does not exist"),
    ],
)
def test_what_cannot_be_done_is_said(
    labctl: Labctl, project: Project, repository: Path, words: list[str], says: str
) -> None:
    done = labctl("report", *OPTIONS, *words)
    assert done.code == 2
    assert says in done.err


def test_the_project_is_asked_for_where_there_are_several(
    portal: FakePortal, labctl: Labctl, repository: Path
) -> None:
    portal.on("GET", "/whoami", {"projects": [{"name": "vision"}, {"name": "speech"}]})
    done = labctl("report")
    assert done.code == 2
    assert "--project vision or speech" in done.err


def test_the_project_is_that_of_the_folder_one_is_in(
    portal: FakePortal, labctl: Labctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code, "PROJECTS", str(tmp_path))
    (tmp_path / "speech/code").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "speech/code")
    portal.on("GET", "/whoami", {"projects": [{"name": "vision"}, {"name": "speech"}]})
    portal.on("GET", "/runs", {"items": []})
    assert labctl("report", "-o", "-").out.startswith("# speech:")


def test_members_of_arrays_count_each(portal: FakePortal, labctl: Labctl, tmp_path: Path) -> None:
    project = Project(tmp_path / "lab2")
    members: list[dict[str, Any]] = [
        project.run(9, {"recorded.jsonl": recorded(acc=[k / 10])}, id=f"vision-9.{k}", trial=k)
        for k in range(3)
    ]
    portal.on("GET", "/runs", {"items": [{**members[0], "id": "vision-9", "array": {"indices": "0-2"}}]})
    portal.on("GET", "/runs/vision-9/members", {"items": members})
    data = labctl("report", "--json", *OPTIONS).json()
    assert data["total"] == 3
    assert data["experiments"][0]["best"][0]["run"] == "vision-9.2"
