"""A data directory as it is now, against the manifest of what a run saw."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from labcluster.adapters.datasets import look


def sha(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def manifest(folder: Path) -> list[bytes]:
    """As labrun writes it."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = os.fsencode(path.relative_to(folder)).decode("utf-8", "replace")
        if path.is_file():
            state = path.stat()
            entry = {"size": state.st_size, "mtime_ns": state.st_mtime_ns, "sha256": sha(path.read_bytes())}
        elif path.is_symlink():
            entry = {"size": 0, "mtime_ns": 0, "sha256": sha(f"link to {path.readlink()}".encode())}
        else:
            continue
        found.append(json.dumps({"path": name, **entry}).encode())
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    (root / "sub").mkdir(parents=True)
    (root / "a").write_text("1")
    (root / "sub" / "b").write_text("22")
    (root / "to-file").symlink_to("a")
    (root / "to-folder").symlink_to("sub")
    (root / "to-nothing").symlink_to("/nowhere")
    (root / os.fsdecode(b"bad\xff\xfename")).write_text("x")
    return root


def test_a_folder_that_was_left_alone_is_the_same(folder: Path, tmp_path: Path) -> None:
    assert look(str(folder), manifest(folder)) == ([], 0)
    (tmp_path / "link").symlink_to(folder)
    assert look(str(tmp_path / "link"), manifest(folder)) == ([], 0)


def test_what_changed_is_named(folder: Path) -> None:
    before = manifest(folder)
    (folder / "a").unlink()
    (folder / "a").write_text("9")
    (folder / "sub" / "b").unlink()
    (folder / "to-nothing").unlink()
    (folder / "to-nothing").symlink_to("/elsewhere")
    (folder / "new").write_text("")
    os.mkfifo(folder / "pipe")
    assert look(str(folder), before).changes == [
        ("a", "changed"),
        ("sub/b", "removed"),
        ("to-file", "changed"),
        ("to-nothing", "changed"),
        ("new", "added"),
    ]


def test_files_with_another_time_are_read_up_to_a_limit(folder: Path) -> None:
    before = manifest(folder)
    for name in ("a", "sub/b"):
        os.utime(folder / name, (1, 1))
    assert look(str(folder), before) == ([], 0)
    assert look(str(folder), before, limit=0) == ([], 3), "to-file is a too"


@pytest.mark.parametrize("line", [b"{}", b"[]", b"7", b"{", b'{"path": "a", "size": "x", "mtime_ns": 1}'])
def test_a_manifest_that_is_none(folder: Path, line: bytes) -> None:
    with pytest.raises(ValueError, match=r"no entry|Expecting|invalid"):
        look(str(folder), [line])


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        look(str(tmp_path / "gone"), [])
