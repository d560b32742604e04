"""labctl export over run directories: a bundle that is complete, the same every time, and says what it is."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from run_folders import Project, recorded

from .conftest import FakePortal, Labctl


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "lab")


@pytest.fixture
def run(project: Project, portal: FakePortal) -> dict[str, Any]:
    """A run of which everything was recorded."""
    base = project.layer({"train.py": "print(1)\n", "big.txt": "x\n"}, links={"latest": "big.txt"})
    run = project.run(
        7,
        {
            "recorded.jsonl": recorded(val_acc=[0.5, 0.75], **{"system/cpu": [1.0]}),
            "packages.json": {"python": "/usr/bin/python3", "packages": {"numpy": "2.1"}},
            "node.json": {"host": "gpu1"},
            "code.json": project.capsule(base, dirty=True),
            "code.patch": "diff\n",
            "data.json": [project.manifest("/lab/datasets/digits", {"a": "1"})],
            "result.json": {"exit_code": 0},
            "stdout.log": "epoch 1\n",
            "artifacts/model.joblib": b"\x00" * 3000,
            "artifacts/plots/learning curve.png": b"\x89PNG\r\n\x1a\n",
        },
        env={"EPOCHS": "2", "WANDB_API_KEY": "hunter2"},
        code={"digest": "a" * 64, "commit": "c" * 40, "remote": "https://git.lab/vision.git", "dirty": True,
              "subdir": "digits", "root": "/lab/home/ada/vision", "branch": "main"},
    )  # fmt: skip
    portal.on("GET", "/runs/vision-7", run)
    return run


def contents(bundle: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(bundle) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def graph(files: dict[str, bytes]) -> dict[str, dict[str, Any]]:
    return {entity["@id"]: entity for entity in json.loads(files["ro-crate-metadata.json"])["@graph"]}


def test_a_bundle_holds_all_of_a_run(labctl: Labctl, run: dict[str, Any], tmp_path: Path) -> None:
    done = labctl("export", "vision-7", "--bundle", str(tmp_path / "paper.zip"), "--license", "CC-BY-4.0")
    assert done.code == 0, done.err
    files = contents(tmp_path / "paper.zip")
    base = "runs/vision-7/"
    assert {name.removeprefix(base) for name in files if name.startswith(base)} == {
        "run.json", "parameters.json", "environment.json", "requirements.txt", "packages.json", "node.json",
        "metrics.csv", "metrics.jsonl", "data.json", "data/1.jsonl", "result.json", "stdout.log", "code.json",
        "code.patch", "code/train.py", "code/big.txt", "artifacts/model.joblib",
        "artifacts/plots/learning curve.png",
    }  # fmt: skip
    assert files[base + "code/train.py"] == b"print(1)\n"
    assert files[base + "requirements.txt"] == b"numpy==2.1\n"
    assert files[base + "metrics.csv"].splitlines()[2] == b"val_acc,0.75,1.0,0.5,0.0,0.75,1.0,0.625,2"
    assert json.loads(files[base + "parameters.json"]) == {"lr": "0.1", "seed": "7"}
    assert json.loads(files[base + "data/1.jsonl"])["path"] == "a"
    assert b"hunter2" not in b"".join(files.values())
    readme = files["README.md"].decode()
    for says in ("# train: vision-7\n", "    python3 train.py --lr 0.1\n", "| lr | 0.1 |", "| val_acc | 0.75",
                 "code/latest is a link", "with changes that are in"):  # fmt: skip
        assert says in readme
    assert "code/latest is a link: it was left out" in done.err


def test_what_it_says_of_itself_is_true(labctl: Labctl, run: dict[str, Any], tmp_path: Path) -> None:
    assert labctl("export", "vision-7", "-b", str(tmp_path / "x.zip"), "--license", "CC-BY-4.0").code == 0
    files = contents(tmp_path / "x.zip")
    entities = graph(files)
    described = {at: entity for at, entity in entities.items() if entity["@type"] == "File"}
    assert {unquote(at) for at in described} == set(files) - {"ro-crate-metadata.json"}
    for at, entity in described.items():
        content = files[unquote(at)]
        assert (entity["contentSize"], entity["sha256"]) == (
            str(len(content)),
            hashlib.sha256(content).hexdigest(),
        )
    action = entities["#vision-7"]
    assert action["@type"] == "CreateAction"
    assert (action["startTime"], action["endTime"]) == (
        "2026-11-20T08:00:02+00:00",
        "2026-11-20T08:00:44+00:00",
    )
    assert action["actionStatus"] == "http://schema.org/CompletedActionStatus"
    assert entities[action["instrument"]["@id"]]["url"] == "https://git.lab/vision.git"
    assert entities[action["containerImage"]["@id"]]["sha256"] == "0" * 64
    results = {entity["@id"] for entity in action["result"]}
    assert {"runs/vision-7/artifacts/model.joblib", "runs/vision-7/metrics.csv"} <= results
    assert entities["./"]["license"] == {"@id": "https://spdx.org/licenses/CC-BY-4.0"}
    # Whatever is referred to is there.
    for entity in entities.values():
        for value in entity.values():
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, dict) and not part["@id"].startswith("http"):
                    assert part["@id"] in entities, part


def test_the_same_runs_give_the_same_bytes(labctl: Labctl, run: dict[str, Any], tmp_path: Path) -> None:
    for name in ("one.zip", "two.zip"):
        assert labctl("export", "vision-7", "-b", str(tmp_path / name)).code == 0
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


def test_a_folder_holds_the_same(labctl: Labctl, run: dict[str, Any], tmp_path: Path) -> None:
    assert labctl("export", "vision-7", "-b", str(tmp_path / "x.zip")).code == 0
    done = labctl("export", "vision-7", "-b", str(tmp_path / "folder"), "--json")
    folder = {
        str(path.relative_to(tmp_path / "folder")): path.read_bytes()
        for path in (tmp_path / "folder").rglob("*") if path.is_file()
    }  # fmt: skip
    assert folder == contents(tmp_path / "x.zip")
    assert len(done.json()["runs"][0]["files"]) == len(folder) - 2


def test_what_is_too_large_is_named_and_left_out(labctl: Labctl, run: dict[str, Any], tmp_path: Path) -> None:
    done = labctl("export", "vision-7", "-b", str(tmp_path / "x.zip"), "--max-size", "2K")
    assert done.code == 0
    files = contents(tmp_path / "x.zip")
    assert "runs/vision-7/artifacts/model.joblib" not in files
    assert "artifacts/model.joblib (2.9 KiB) is larger than --max-size" in done.err
    assert "model.joblib" in files["README.md"].decode()


def test_several_runs_and_one_that_never_began(
    portal: FakePortal, labctl: Labctl, project: Project, run: dict[str, Any], tmp_path: Path
) -> None:
    never = project.run(8, state="cancelled", reason="cancelled by ada", started_at=None, finished_at=None)
    portal.on("GET", "/runs/vision-8", never)
    done = labctl("export", "vision-7", "vision-8", "-b", str(tmp_path / "x.zip"))
    assert done.code == 0, done.err
    action = graph(contents(tmp_path / "x.zip"))["#vision-8"]
    assert action["actionStatus"] == "http://schema.org/FailedActionStatus"
    assert action["error"] == "cancelled by ada"
    assert "vision-8: it never began" in done.err


def test_no_name_of_a_file_leads_out_of_the_bundle(
    portal: FakePortal, labctl: Labctl, project: Project, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("private")
    run = project.run(
        9,
        {
            "artifacts/..\\..\\evil.exe": b"1",
            "artifacts/a\nb": b"2",
            "artifacts/A\tb": b"3",
            "artifacts/x": b"4",
        },
    )
    (Path(run["directory"]) / "artifacts" / "leak").symlink_to(secret)
    (Path(run["directory"]) / "stdout.log").symlink_to(secret)
    portal.on("GET", "/runs/vision-9", run)
    done = labctl("export", "vision-9", "-b", str(tmp_path / "x.zip"))
    assert done.code == 0, done.err
    files = contents(tmp_path / "x.zip")
    assert {name.removeprefix("runs/vision-9/artifacts/") for name in files if "artifacts" in name} == {
        ".._.._evil.exe", "A_b", "a_b~2", "x",
    }  # fmt: skip
    assert b"private" not in b"".join(files.values())
    assert "artifacts/leak is no regular file" in done.err
    assert "\n" not in "".join(files)


def test_an_archive_that_is_there_is_kept_unless_told(
    labctl: Labctl, run: dict[str, Any], tmp_path: Path
) -> None:
    bundle = tmp_path / "x.zip"
    bundle.write_text("precious")
    done = labctl("export", "vision-7", "-b", str(bundle))
    assert (done.code, bundle.read_text()) == (5, "precious")
    assert labctl("export", "vision-7", "-b", str(bundle), "--force").code == 0
    assert "README.md" in contents(bundle)
    (tmp_path / "folder").mkdir()
    assert labctl("export", "vision-7", "-b", str(tmp_path / "folder"), "--force").code == 5
    done = labctl("export", "vision-7", "-b", str(tmp_path / "none" / "x.zip"))
    assert done.code == 1
    assert "cannot be written" in done.err
