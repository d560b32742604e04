"""Where the parts that read runs after the fact are put together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tarfile import TarError
from typing import TYPE_CHECKING, Any

from labcluster.adapters.code_trees import CodeTree, diff, of_capsule, of_folder
from labcluster.adapters.records import Objects, RunFolder
from labcluster.cli import output
from labcluster.errors import LabclusterError, UsageError
from labcluster.models.records import DataVersion, Record
from labcluster.services.comparison import FileChange, TreeChange, file_changes
from labcluster.services.metrics import MAX_POINTS
from labcluster.services.records import read_record
from labcluster.services.texts import plain, plain_lines

if TYPE_CHECKING:
    from labcluster.adapters.portal import Portal

#: So many files are named for one pair of runs; the count is of all.
MAX_NAMED = 200
MAX_MANIFEST_LINES = 2_000_000


@dataclass(frozen=True)
class Loaded:
    """A run's record, and its directory where it can be read on this machine."""

    record: Record
    folder: RunFolder | None

    @property
    def objects(self) -> Objects:
        """Its project's object store."""
        return Objects(Path(str(self.record.run["directory"])).parents[1])

    def code(self) -> CodeTree:
        """The tree that it ran; ValueError says why it cannot be had."""
        if self.folder is None:
            raise ValueError("; ".join(self.record.unknown))
        capsule = self.record.code.capsule if self.record.code else None
        if capsule is None:
            return of_folder(self.folder)
        try:
            return of_capsule(capsule, self.objects)
        except (OSError, ValueError, TarError, EOFError) as error:
            try:
                # What was checked out for it is as good, as long as the run left it alone.
                return of_folder(self.folder)
            except ValueError:
                raise ValueError(f"its captured code cannot be read: {plain(str(error))}") from None


def runs_of(portal: Portal, ids: Sequence[str], most: int) -> list[dict[str, Any]]:
    """What the portal knows of runs, an array replaced by its members; every run once."""
    found: dict[str, dict[str, Any]] = {}
    for name in ids:
        run = portal.get(f"/runs/{name}")
        members = portal.get(f"/runs/{name}/members")["items"] if run.get("array") else [run]
        found |= {member["id"]: member for member in members}
        if len(found) > most:
            raise UsageError(
                f"{len(found)} runs are too many, the most is {most}: name members of arrays, as in {name}.3"
            )
    return list(found.values())


def load(run: Mapping[str, Any], points: int = MAX_POINTS) -> Loaded:
    """One run's record, with curves of at most so many points."""
    directory = Path(str(run["directory"]))
    try:
        folder = RunFolder(directory)
    except OSError as error:
        record = read_record(run, None)
        return Loaded(replace(record, unknown=(_why_not(run, directory, error),)), None)
    return Loaded(read_record(run, folder, points), folder)


def _why_not(run: Mapping[str, Any], directory: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        if not directory.parents[2].is_dir():
            return f"its files are not on this machine, which has no {directory.parents[2]}"
        return "it never began: it has no files" if not run.get("started_at") else f"{directory} is gone"
    if isinstance(error, PermissionError):
        return f"you may not read {directory}"
    return f"{directory} cannot be read: {error.strerror}"


def code_changes(runs: Sequence[Loaded], *, lines: bool = True) -> tuple[TreeChange, ...]:
    """How the code of each run differs from the first one's."""
    first, *others = runs
    trees: dict[str, CodeTree | str] = {}
    return tuple(_code_change(first, other, trees, lines) for other in others)


def _code_change(first: Loaded, other: Loaded, trees: dict[str, CodeTree | str], lines: bool) -> TreeChange:
    name, (one, two) = other.record.id, (first.record.code, other.record.code)
    if one and two and one.digest and one.digest == two.digest:
        return TreeChange(name, same=True)
    sides = []
    for side in (first, other):
        tree = trees.setdefault(side.record.id, _tree(side))
        if isinstance(tree, str):
            return TreeChange(name, reason=f"{side.record.id}: {tree}")
        sides.append(tree)
    before, after = sides
    changes = file_changes(before.digests, after.digests)
    if not changes:
        return TreeChange(name, same=True)
    text, reason = "", None
    counts: dict[str, tuple[int, int]] = {}
    if lines:
        try:
            text, counts = diff(before, after, [change.path for change in changes])
        except LabclusterError as error:
            reason = error.detail
    files = [_counted(change, counts) for change in changes[:MAX_NAMED]]
    return TreeChange(name, False, tuple(files), len(changes), plain_lines(text), reason)


def _counted(change: FileChange, counts: Mapping[str, tuple[int, int]]) -> FileChange:
    added, removed = counts.get(change.path, (None, None))
    return FileChange(plain(change.path), change.change, added, removed)


def _tree(side: Loaded) -> CodeTree | str:
    try:
        return side.code()
    except ValueError as error:
        return str(error)


def data_changes(runs: Sequence[Loaded]) -> tuple[TreeChange, ...]:
    """Which files of data directories differ from what the first run saw; equal directories are left out."""
    first, *others = runs
    before = {entry.path: entry for entry in first.record.data}
    found = []
    for other in others:
        for entry in other.record.data:
            seen = before.get(entry.path)
            if seen is not None and seen.digest != entry.digest:
                found.append(_data_change(first, seen, other, entry))
    return tuple(found)


def _data_change(first: Loaded, seen: DataVersion, other: Loaded, entry: DataVersion) -> TreeChange:
    try:
        changes = file_changes(manifest(first, seen), manifest(other, entry))
    except (OSError, ValueError) as error:
        return TreeChange(
            other.record.id, reason=f"its manifest cannot be read: {plain(str(error))}", path=entry.path
        )
    files = tuple(FileChange(plain(change.path), change.change) for change in changes[:MAX_NAMED])
    return TreeChange(other.record.id, not changes, files, len(changes), path=entry.path)


def manifest(run: Loaded, entry: DataVersion) -> dict[str, str]:
    """Path to size and digest of what a run saw; OSError or ValueError where it cannot be read."""
    if entry.manifest is None:
        raise ValueError("there is none")
    found = {}
    with run.objects.open(entry.manifest) as file:
        for number, line in enumerate(file):
            if number >= MAX_MANIFEST_LINES:
                raise ValueError(f"it has more than {MAX_MANIFEST_LINES} files")
            value = json.loads(line)
            if isinstance(value, dict):
                found[str(value.get("path"))] = f"{value.get('size')} {value.get('sha256')}"
    return found


def say_unknown(records: Sequence[Record]) -> None:
    """What is not known of runs, on standard error."""
    for record in records:
        for sentence in record.unknown:
            output.say(f"{record.id}: {sentence}")
