"""A data directory as it is now, held against the manifest of what a run saw.

The manifest is that of `labrun` (images/runner/data.go): regular files and links to them, of other links what
they say. Sizes and times are looked at first; of files with another time the bytes are read, up to a limit.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

MAX_FILES = 2_000_000
#: So much is read on the login node; the rest the repetition itself hashes, on its node.
MAX_READ_BYTES = 2**30
_BLOCK = 2**20


class Look(NamedTuple):
    """What was found: paths that differ, each with how, and how many files were not read."""

    changes: list[tuple[str, str]]
    unread: int


class _File(NamedTuple):
    size: int
    mtime_ns: int
    sha256: str | None
    path: str


def look(folder: str, manifest: Iterable[bytes], limit: int = MAX_READ_BYTES) -> Look:
    """How a folder differs from a manifest; OSError or ValueError where one of them cannot be read."""
    now = dict(_walk(Path(folder).resolve(strict=True)))
    changes: list[tuple[str, str]] = []
    unread = 0
    for path, size, mtime, digest in _entries(manifest):
        file = now.pop(_key(path), None)
        if file is None:
            changes.append((path, "removed"))
        elif file.size != size or (file.sha256 is not None and file.sha256 != digest):
            changes.append((path, "changed"))
        elif file.sha256 is None and (file.mtime_ns != mtime or not mtime):
            if size > limit:
                unread += 1
                continue
            limit -= size
            if _hash(Path(folder, file.path)) != digest:
                changes.append((path, "changed"))
    changes += [(path, "added") for path in sorted(now)]
    return Look(changes, unread)


def _entries(manifest: Iterable[bytes]) -> Iterator[tuple[str, int, int, str]]:
    for line in manifest:
        value: Any = json.loads(line)
        try:
            yield str(value["path"]), int(value["size"]), int(value["mtime_ns"]), str(value["sha256"])
        except (TypeError, KeyError):
            raise ValueError("a line of it is no entry") from None


def _walk(root: Path) -> Iterator[tuple[str, _File]]:
    folders = [""]
    count = 0
    while folders:
        folder = folders.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                elif (file := _file(entry, path)) is not None:
                    count += 1
                    if count > MAX_FILES:
                        raise ValueError(f"it has more than {MAX_FILES} files")
                    yield _key(path), file


def _key(path: str) -> str:
    """A path as it can stand in JSON: bytes that are no text are one sign, however many they are."""
    return re.sub("\ufffd+", "\ufffd", os.fsencode(path).decode("utf-8", "replace"))


def _file(entry: os.DirEntry[str], path: str) -> _File | None:
    try:
        state = entry.stat()
    except OSError:
        state = entry.stat(follow_symlinks=False)
    if stat.S_ISREG(state.st_mode):
        return _File(state.st_size, state.st_mtime_ns, None, path)
    if entry.is_symlink():
        text = f"link to {os.readlink(entry.path)}"  # noqa: PTH115 - the bytes as they stand
        return _File(0, 0, hashlib.sha256(os.fsencode(text)).hexdigest(), path)
    return None


def _hash(path: Path) -> str:
    # A named pipe that took the file's place would never end.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    sha = hashlib.sha256()
    with os.fdopen(handle, "rb") as file:
        while block := file.read(_BLOCK):
            sha.update(block)
    return sha.hexdigest()
