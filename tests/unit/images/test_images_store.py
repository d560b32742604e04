"""The artifact store: built once, seen when damaged, repaired, never half."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from images_tree import IMAGES, Tree, recipe


def damage(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)


def test_a_build_lists_every_program_with_its_checksum(tree: Tree) -> None:
    assert tree.build() == 0
    entry = tree.manifest()["alpha"]
    content = (tree.store / entry["file"]).read_bytes()
    assert entry["file"] == "bin/alpha/alpha"
    assert entry["sha256"] == hashlib.sha256(content).hexdigest()
    assert entry["size"] == len(content)
    assert (entry["kind"], entry["version"], entry["licence"]) == ("binary", "1.0", "Apache-2.0")
    assert entry["build"]["go"] == "go1.26.8"


def test_a_second_build_does_nothing(tree: Tree) -> None:
    tree.build()
    before = (tree.store / "manifest.json").stat()
    assert tree.build() == 0
    assert tree.builds == 2
    assert (tree.store / "manifest.json").stat() == before


def test_only_what_changed_is_built_again(tree: Tree) -> None:
    tree.build()
    key = tree.manifest()["alpha"]["key"]
    (tree.root / "images/binaries/beta/main.go").write_text("package main // other\n")
    tree.build()
    assert tree.builds == 3
    assert tree.manifest()["alpha"]["key"] == key


def test_a_partial_build_leaves_a_manifest_that_can_be_used(tree: Tree) -> None:
    assert tree.build("alpha") == 0
    assert list(tree.manifest()) == ["alpha"]
    assert tree.build("beta") == 0
    assert list(tree.manifest()) == ["alpha", "beta"]


def test_another_clone_takes_finished_artifacts_over(tree: Tree, tmp_path: Path) -> None:
    tree.build()
    shutil.rmtree(tree.store)
    assert tree.build() == 0
    assert tree.builds == 2
    assert set(tree.manifest()) == {"alpha", "beta"}


@pytest.mark.parametrize("kind", ["shorter", "same size", "missing"])
def test_a_damaged_file_is_named_and_repaired(
    tree: Tree, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tree.build()
    path = tree.store / "bin/alpha/alpha"
    good = path.read_bytes()
    if kind == "missing":
        path.unlink()
    else:
        damage(path, b"x" * (len(good) if kind == "same size" else 3))
    assert tree.build("--verify") == 1
    assert "bin/alpha/alpha" in capsys.readouterr().err
    assert tree.build() == 0
    assert path.read_bytes() == good
    assert tree.build("--verify") == 0


def test_damage_that_keeps_size_and_time_is_found_by_verify(tree: Tree) -> None:
    tree.build()
    path = tree.store / "bin/alpha/alpha"
    status = path.stat()
    damage(path, b"x" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert tree.build("--verify") == 1


def test_verify_as_json_counts_and_names(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    tree.build()
    (tree.store / "bin/beta/beta").unlink()
    capsys.readouterr()
    assert tree.build("--verify", "--json") == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer == {"artifacts": 2, "faults": [{"file": "bin/beta/beta", "fault": "is missing"}]}


def test_a_manifest_that_cannot_be_read_is_written_anew(
    tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    tree.build()
    (tree.store / "manifest.json").write_text("{half")
    assert tree.build("--verify") == 1
    assert "manifest.json is damaged; run `make artifacts`" in capsys.readouterr().err
    assert tree.build() == 0
    assert set(tree.manifest()) == {"alpha", "beta"}
    assert tree.builds == 2


def test_what_the_catalog_drops_leaves_the_store(tree: Tree) -> None:
    tree.build()
    tree.write([recipe("alpha")])
    assert tree.build() == 0
    assert set(tree.manifest()) == {"alpha"}
    assert not (tree.store / "bin/beta/beta").exists()


def test_a_failed_build_says_what_failed_and_keeps_the_rest(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    tree.build()
    before = (tree.store / "manifest.json").read_text()
    (tree.root / "images/binaries/beta/main.go").write_text("package broken\n")
    monkeypatch.setenv("GO_FAIL", "1")
    assert tree.build() == 1
    error = capsys.readouterr().err
    assert "main.go:1: it does not compile" in error
    assert (tree.store / "manifest.json").read_text() == before
    assert list((tmp_path / "cache" / "work").iterdir()) == []


def test_an_interrupted_build_leaves_nothing_half(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GO_SLEEP", "1")
    script = "import sys, pathlib, builder.main as b; sys.exit(b.main([], pathlib.Path(sys.argv[1])))"
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tree.root)],
        env={**os.environ, "PYTHONPATH": str(IMAGES)},
        stderr=subprocess.PIPE,
        text=True,
        # Whoever runs the tests in the background ignores SIGINT, and a child would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 20
    while tree.builds == 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "interrupted" in error
    assert list((tmp_path / "cache" / "work").iterdir()) == []
    assert not (tmp_path / "cache" / "store").exists()
    assert not (tree.store / "manifest.json").exists()


def test_leftovers_of_a_killed_build_are_removed(tree: Tree, tmp_path: Path) -> None:
    left = tmp_path / "cache" / "work" / "4194999.alpha.x"
    left.mkdir(parents=True)
    tree.build()
    assert not left.exists()


def test_dry_run_and_list_change_nothing(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    assert tree.build("--dry-run", "--json") == 0
    assert [row["state"] for row in json.loads(capsys.readouterr().out)] == ["to build", "to build"]
    assert not tree.store.exists()
    tree.build()
    capsys.readouterr()
    assert tree.build("--list", "--json") == 0
    assert [row["state"] for row in json.loads(capsys.readouterr().out)] == ["current", "current"]


def test_prune_forgets_results_of_earlier_sources(tree: Tree, tmp_path: Path) -> None:
    tree.build()
    (tree.root / "images/binaries/beta/main.go").write_text("package main // other\n")
    tree.build("--prune")
    assert len(list((tmp_path / "cache" / "store").iterdir())) == 2
