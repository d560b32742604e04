"""A folder of a Go module is packed as it is, the same bytes each time."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from images_tree import Tree, recipe

CHART: dict[str, Any] = {
    "name": "alpha-chart",
    "kind": "module-folder",
    "folder": "binaries/alpha-chart",
    "version": "1.0",
    "licence": "Apache-2.0",
    "source": "here",
    "module": "example/alpha",
    "path": "charts/alpha",
}


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "module" / "charts" / "alpha"
    folder.mkdir(parents=True)
    (folder / "Chart.yaml").write_text("name: alpha\n")
    monkeypatch.setenv("GO_MODULE", str(tmp_path / "module"))
    return folder


def test_it_is_packed_while_a_program_compiles(
    tree: Tree, module: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tree.write([recipe("alpha"), CHART])
    # The stand-in's compiler waits until the other was asked for.
    monkeypatch.setenv("GO_WAIT", str(tmp_path / "asked"))
    assert tree.build() == 0
    assert set(tree.manifest()) == {"alpha", "alpha-chart"}


def test_it_lies_below_its_own_name(tree: Tree, module: Path) -> None:
    tree.write([CHART])
    assert tree.build() == 0
    assert tree.manifest()["alpha-chart"]["files"] == ["alpha/Chart.yaml"]
    with tarfile.open(tree.store / "archives" / "alpha-chart.tar.gz") as archive:
        assert archive.getmember("alpha/Chart.yaml").uid == 0


def test_times_of_the_module_cache_do_not_matter(
    tree: Tree, module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.write([CHART])
    assert tree.build() == 0
    first = tree.manifest()["alpha-chart"]["sha256"]
    os.utime(module / "Chart.yaml", (1, 1))
    monkeypatch.setenv("LABCLUSTER_CACHE", str(tmp_path / "another-cache"))
    assert tree.build() == 0
    assert tree.manifest()["alpha-chart"]["sha256"] == first


def test_a_folder_that_the_module_lacks_is_named(
    tree: Tree, module: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree.write([CHART | {"path": "charts/beta"}])
    assert tree.build() == 1
    assert "module example/alpha has no folder charts/beta" in capsys.readouterr().err
