"""What lies in the registry's storage, counted in its files (distribution's layout v2).

The registry's own interface lists tags only, and an image whose tag was pushed anew goes on taking space.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from labcluster.errors import UnreachableError

log = logging.getLogger(__name__)

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MAX_MANIFEST = 8 * 1024 * 1024


class RegistryStorage:
    """Sizes of projects' images. Manifests and blobs never change, so each is read once."""

    def __init__(
        self, root: Path, *, seconds: float = 2.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._root = root / "docker" / "registry" / "v2"
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._blobs: dict[str, tuple[str, ...]] = {}
        self._sizes: dict[str, int] = {}
        self._used: dict[str, tuple[float, int]] = {}

    def used(self, project: str) -> int:
        """Bytes of all blobs that the project's manifests name, as of some seconds ago."""
        with self._lock:
            known = self._used.get(project)
            if known is not None and self._clock() - known[0] < self._seconds:
                return known[1]
            try:
                total = self._count(project)
            except OSError as error:
                raise UnreachableError(f"the registry's storage cannot be read: {error}") from error
            self._used[project] = (self._clock(), total)
            return total

    def projects(self) -> list[str]:
        """Folders at the top: projects, `common` and `labcluster`."""
        try:
            with os.scandir(self._root / "repositories") as entries:
                return sorted(entry.name for entry in entries if entry.is_dir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UnreachableError(f"the registry's storage cannot be read: {error}") from error

    def _count(self, project: str) -> int:
        blobs: set[str] = set()
        for digest in _manifests(str(self._root / "repositories" / project)):
            blobs.add(digest)
            blobs.update(self._named_by(digest))
        return sum(self._size(digest) for digest in blobs)

    def _named_by(self, digest: str) -> tuple[str, ...]:
        if digest not in self._blobs:
            try:
                with self._file(digest).open("rb") as file:
                    content = json.loads(file.read(_MAX_MANIFEST))
            except FileNotFoundError:  # just being collected
                return ()
            except ValueError:
                content = {}
            self._blobs[digest] = tuple(_digests(content))
        return self._blobs[digest]

    def _size(self, digest: str) -> int:
        if digest not in self._sizes:
            try:
                self._sizes[digest] = self._file(digest).stat().st_size
            except FileNotFoundError:
                return 0
        return self._sizes[digest]

    def _file(self, digest: str) -> Path:
        algorithm, _, name = digest.partition(":")
        return self._root / "blobs" / algorithm / name[:2] / name / "data"


def _manifests(folder: str) -> Iterator[str]:
    """Digests of all manifests of the repositories below a folder."""
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.name == "_manifests":
            yield from _revisions(entry.path)
        elif not entry.name.startswith("_"):
            yield from _manifests(entry.path)


def _revisions(folder: str) -> Iterator[str]:
    try:
        names = os.listdir(f"{folder}/revisions/sha256")  # noqa: PTH208 - thousands of them
    except FileNotFoundError:
        return
    for name in names:
        # A manifest that was removed leaves its folder without the link.
        if os.path.exists(f"{folder}/revisions/sha256/{name}/link"):  # noqa: PTH110
            yield f"sha256:{name}"


def _digests(content: Any) -> Iterator[str]:
    """The blobs of an image's manifest; what a list names are manifests of the repository themselves."""
    if not isinstance(content, dict):
        return
    layers = content.get("layers")
    for blob in [content.get("config"), *(layers if isinstance(layers, list) else [])]:
        digest = blob.get("digest") if isinstance(blob, dict) else None
        if isinstance(digest, str) and _DIGEST.fullmatch(digest):
            yield digest
