"""Bundles of files as a zip archive or a folder: the same files give the same bytes."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from labcluster.errors import ConflictError, LabclusterError

_BLOCK = 2**20
#: Zip archives know no earlier time.
_TIME = (1980, 1, 1, 0, 0, 0)
_MODE = 0o100644 << 16


class Bundle:
    """Files that are written one after the other; each path once."""

    def add(self, path: str, content: bytes | IO[bytes]) -> tuple[int, str]:
        """Write a file; its size and SHA-256."""
        source = io.BytesIO(content) if isinstance(content, bytes) else content
        sha, size = hashlib.sha256(), 0
        with self._create(path) as target:
            while block := source.read(_BLOCK):
                sha.update(block)
                size += len(block)
                target.write(block)
        return size, sha.hexdigest()

    def _create(self, path: str) -> IO[bytes]:
        raise NotImplementedError


class _Zip(Bundle):
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    def _create(self, path: str) -> IO[bytes]:
        entry = zipfile.ZipInfo(path, _TIME)
        entry.compress_type, entry.external_attr, entry.create_system = zipfile.ZIP_DEFLATED, _MODE, 3
        return self._archive.open(entry, "w", force_zip64=True)


class _Folder(Bundle):
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _create(self, path: str) -> IO[bytes]:
        target = self._folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        return target.open("xb")


@contextmanager
def new_bundle(target: Path, *, force: bool) -> Iterator[Bundle]:
    """A bundle that is there as a whole at the end, or not at all; a name with .zip is an archive."""
    if os.path.lexists(target) and not (force and target.is_file()):
        how = "is there already: --force replaces it" if target.is_file() else "is there already: remove it"
        raise ConflictError(f"{target} {how}")
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        if target.suffix == ".zip":
            with zipfile.ZipFile(temporary, "x") as archive:
                yield _Zip(archive)
        else:
            temporary.mkdir()
            yield _Folder(temporary)
        temporary.replace(target)
    except OSError as error:
        raise LabclusterError(
            f"{target} cannot be written: {(error.strerror or str(error)).lower()}"
        ) from None
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
