"""Gives tests a small tree that builds two programs with a stand-in for Go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from images_tree import GO, Tree, recipe


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """A tree that builds `alpha` and `beta`."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "go").write_text(GO)
    (programs / "go").chmod(0o755)
    log = tmp_path / "go.log"
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("GO_LOG", str(log))
    monkeypatch.setenv("LABCLUSTER_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tree" / "images").mkdir(parents=True)
    made = Tree(tmp_path / "tree", log)
    made.write([recipe("alpha"), recipe("beta")])
    return made
