"""The pictures beside a report: curves that are drawn, and what runs have left among their artifacts."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from labcluster.adapters import curves
from labcluster.cli.gathering import Loaded, load
from labcluster.errors import UsageError
from labcluster.models.records import FileEntry
from labcluster.services.metrics import curve_points
from labcluster.services.reporting import rank
from labcluster.services.texts import plain

_MAX_EXPERIMENTS = 12
_MAX_CURVES = 2
_MAX_ARTIFACTS = 4
_MAX_BYTES = 2**20
_OURS = re.compile(r"[A-Za-z0-9-]+-[0-9a-f]{6}\.(svg|png|jpe?g|gif|webp)")
#: By ending, how such a file begins. No SVG: opened by itself it may run scripts.
_KINDS = {
    ".png": (b"\x89PNG\r\n\x1a\n",),
    ".jpg": (b"\xff\xd8\xff",),
    ".jpeg": (b"\xff\xd8\xff",),
    ".gif": (b"GIF87a", b"GIF89a"),
    ".webp": (b"RIFF",),
}


class Album:
    """A folder of pictures, which replaces what an earlier report of the same name left there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, bytes] = {}
        self._experiments = 0

    def add(self, experiment: dict[str, Any], records: Sequence[Loaded]) -> None:
        """Pictures of an experiment; they are told in its `pictures`."""
        self._experiments += 1
        if self._experiments > _MAX_EXPERIMENTS or not records:
            return
        by_id = {one.record.id: one for one in records}
        best = [by_id[record.id] for record in rank([one.record for one in records], experiment["metrics"])]
        for metric in list(experiment["metrics"])[:_MAX_CURVES]:
            lines = {
                one.record.id: _curve(one, metric)
                for one in [one for one in best if metric in one.record.metrics][: curves.MAX_LINES]
            }
            drawn = curves.draw(f"{experiment['name']}: {metric}", lines)
            if drawn is not None:
                self._keep(experiment, f"{metric} of {experiment['name']}", ".svg", drawn.encode())
        for entry, content in _artifacts(best[0]):
            title = f"{entry} of {best[0].record.id}"
            self._keep(experiment, title, PurePosixPath(entry).suffix.lower(), content)

    def _keep(self, experiment: dict[str, Any], title: str, ending: str, content: bytes) -> None:
        # Names come from runs: a file's name is made of what cannot hurt.
        words = "".join(char if char.isascii() and char.isalnum() else "-" for char in title)[:60].strip("-")
        name = f"{words}-{hashlib.sha256(title.encode()).hexdigest()[:6]}{ending}"
        self._files[name] = content
        experiment["pictures"].append({"title": title, "path": f"{self._folder.name}/{name}"})

    def finish(self) -> None:
        """Write what there is; UsageError where that cannot be."""
        try:
            if self._folder.is_symlink() or (self._folder.exists() and not self._folder.is_dir()):
                raise UsageError(f"{self._folder} is no folder: remove it, or write the report elsewhere")
            if self._files:
                self._folder.mkdir(parents=True, exist_ok=True)
            for old in self._folder.glob("*") if self._folder.exists() else ():
                if _OURS.fullmatch(old.name):
                    old.unlink()
            for name, content in self._files.items():
                (self._folder / name).write_bytes(content)
        except OSError as error:
            raise UsageError(f"{self._folder} cannot be written: {error.strerror}") from None


def _curve(run: Loaded, metric: str) -> list[tuple[float, float | None]]:
    found = load(run.record.run).record.metrics.get(metric)
    return [(step, value) for step, value, _ in curve_points(found)] if found else []


def _artifacts(run: Loaded) -> list[tuple[str, bytes]]:
    if run.folder is None:
        return []
    files, _ = run.folder.walk("artifacts")
    found = []
    for entry in files:
        content = _picture(run, entry)
        if content is not None:
            found.append((plain(entry.path, 200), content))
        if len(found) >= _MAX_ARTIFACTS:
            break
    return found


def _picture(run: Loaded, entry: FileEntry) -> bytes | None:
    begins = _KINDS.get(PurePosixPath(entry.path).suffix.lower())
    if begins is None or entry.size > _MAX_BYTES or run.folder is None:
        return None
    file = run.folder.open(f"artifacts/{entry.path}")
    if file is None:
        return None
    with file:
        content = file.read(_MAX_BYTES + 1)
    return content if content.startswith(begins) and len(content) <= _MAX_BYTES else None
