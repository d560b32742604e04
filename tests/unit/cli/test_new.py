"""labctl new: real copier and git, no network. The project's own tests need an index: tests/integration."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from labcluster.adapters import scaffolding

from .conftest import Labctl


def git(folder: Path, *words: str) -> str:
    """What git prints."""
    done = subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a git identity, and a folder to work in."""
    (tmp_path / ".gitconfig").write_text("[user]\n\tname = Ada\n\temail = ada@test\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / ".gitconfig"))
    (tmp_path / "code").mkdir()
    monkeypatch.chdir(tmp_path / "code")
    return tmp_path


@pytest.fixture
def template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the template that a test may change: the next labctl's."""
    import shutil

    copy = tmp_path / "template"
    shutil.copytree(scaffolding.template_folder(), copy)
    monkeypatch.setattr(scaffolding, "template_folder", lambda: copy)
    return copy


@pytest.fixture
def version(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The version that labctl says it has: the last of the list."""
    versions = ["0.1.0"]
    monkeypatch.setattr("labcluster.cli.version.own_version", lambda: versions[-1])
    return versions


@pytest.fixture
def flowers(labctl: Labctl, template: Path, version: list[str]) -> Path:
    """A project made with labctl 0.1.0."""
    done = labctl("new", "flowers", "--answers", "cluster_project=vision")
    assert (done.code, done.out) == (0, "flowers is made\n")
    return Path("flowers").absolute()


def test_a_project_is_made_and_committed(flowers: Path) -> None:
    assert git(flowers, "status", "--porcelain") == ""
    assert "labcluster's template 0.1.0" in git(flowers, "log", "--oneline")
    for file in ("flowers/train.py", "flowers/infer.py", "flowers/evaluate.py", ".gitlab-ci.yml", "Makefile"):
        assert (flowers / file).is_file(), file
    assert 'project = "vision"' in (flowers / "labcluster.toml").read_text()
    rendered = [path for path in flowers.rglob("*") if path.is_file() and ".git" not in path.parts]
    assert not [path for path in rendered if path.suffix == ".jinja" or "{{" in str(path)]
    texts = [path for path in rendered if path.suffix not in (".bundle", ".yml")]
    assert not [path for path in texts if "{{" in path.read_text()]


def test_a_name_that_is_no_python_name_gets_a_package_that_is(labctl: Labctl) -> None:
    assert labctl("new", "My-Flowers 2").code == 0
    assert Path("My-Flowers 2/my_flowers_2/train.py").is_file()


def test_a_bad_answer_is_named(labctl: Labctl) -> None:
    done = labctl("new", "flowers", "--answers", "package=1x")
    assert done.code == 2
    assert "package" in done.err
    assert not Path("flowers/1x").exists()
    assert labctl("new", "flowers", "--answers", "package").code == 2


def test_a_folder_with_something_in_it_stays_as_it_is(labctl: Labctl) -> None:
    Path("flowers").mkdir()
    Path("flowers/notes").write_text("mine")
    done = labctl("new", "flowers")
    assert done.code == 5
    assert "not empty" in done.err
    assert [path.name for path in Path("flowers").iterdir()] == ["notes"]


def test_a_dry_run_lists_the_files_and_makes_none(labctl: Labctl) -> None:
    done = labctl("new", "flowers", "--dry-run")
    assert done.code == 0
    assert "flowers/flowers/train.py" in done.out.splitlines()
    assert not Path("flowers").exists()


def test_an_update_brings_the_templates_changes_and_keeps_ones_own(
    labctl: Labctl, flowers: Path, template: Path, version: list[str]
) -> None:
    train = flowers / "flowers/train.py"
    train.write_text(train.read_text().replace("default=20", "default=50"))
    git(flowers, "commit", "-qam", "longer")
    ours = template / "template/{{ package }}/report.py"
    ours.write_text(ours.read_text() + "\n\nNEW = True\n")
    version.append("0.2.0")

    done = labctl("new", "--update", "flowers", "--dry-run")
    assert "flowers/report.py" in done.out
    assert git(flowers, "status", "--porcelain") == ""

    assert labctl("new", "--update", "flowers").code == 0
    assert "NEW = True" in (flowers / "flowers/report.py").read_text()
    assert "default=50" in train.read_text()
    assert "_commit: v0.2.0" in (flowers / ".copier-answers.yml").read_text()
    assert "cluster_project: vision" in (flowers / ".copier-answers.yml").read_text()


def test_updates_follow_one_another_also_between_two_releases(
    labctl: Labctl, flowers: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(flowers)
    ours = template / "template/Makefile.jinja"
    for number in (1, 2):
        ours.write_text(ours.read_text() + f"# {number}\n")
        assert labctl("new", "--update").code == 0
        git(flowers, "commit", "-qam", str(number))
        assert f"_commit: v0.1.0.post{number}" in (flowers / ".copier-answers.yml").read_text()
    assert (flowers / "Makefile").read_text().endswith("# 1\n# 2\n")
    done = labctl("new", "--update")
    assert (done.code, done.out) == (0, "It is up to date.\n")


def test_changes_of_both_in_one_place_are_marked_and_told(
    labctl: Labctl, flowers: Path, template: Path, version: list[str]
) -> None:
    train, ours = flowers / "flowers/train.py", template / "template/{{ package }}/train.py"
    train.write_text(train.read_text().replace("default=20", "default=50"))
    git(flowers, "commit", "-qam", "longer")
    ours.write_text(ours.read_text().replace("default=20", "default=10"))
    version.append("0.2.0")
    done = labctl("new", "--update", "flowers")
    assert done.code == 5
    assert "flowers/train.py" in done.err
    assert "<<<<<<< before updating" in train.read_text()


def test_an_update_wants_a_clean_tree_a_project_of_ours_and_no_older_labctl(
    labctl: Labctl, flowers: Path, template: Path, version: list[str]
) -> None:
    version.append("0.0.9")
    (template / "template/Makefile.jinja").write_text("all:\n")
    done = labctl("new", "--update", "flowers")
    assert done.code == 5
    assert "not older" in done.err
    (flowers / "notes").write_text("mine")
    done = labctl("new", "--update", "flowers")
    assert done.code == 5
    assert "not committed" in done.err
    Path("other").mkdir()
    assert labctl("new", "--update", "other").code == 4


def test_a_colleague_updates_it_from_a_clone(
    labctl: Labctl, flowers: Path, template: Path, version: list[str], home: Path
) -> None:
    git(home, "clone", "-q", str(flowers), "colleague")
    (template / "template/Makefile.jinja").write_text("all:\n")
    version.append("0.2.0")
    assert labctl("new", "--update", str(home / "colleague")).code == 0
    assert (home / "colleague/Makefile").read_text() == "all:\n"
