"""What is known of a run after the fact: the vocabulary of compare, report and export.

Standard library only, because labctl reads it; every part may be missing (None, empty), for a run that was
cancelled, is old, or never began.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple, Protocol


class Point(NamedTuple):
    """One value of a metric; `time` is in Unix seconds."""

    step: float
    value: float
    time: float | None


@dataclass(frozen=True)
class Metric:
    """A metric of one run: exact extremes of its finite values, and a thinned curve."""

    key: str
    count: int
    last: Point
    #: of the finite values
    mean: float | None
    min: Point | None
    max: Point | None
    #: how many values were not finite, and the first of them
    bad: int
    first_bad: Point | None
    points: tuple[Point, ...]

    @property
    def system(self) -> bool:
        """Whether it is a use of the machine and no result."""
        return self.key.startswith("system/")


@dataclass(frozen=True)
class DataVersion:
    """What a run saw in one data directory; equal digests are equal bytes."""

    path: str
    digest: str | None
    manifest: str | None
    files: int | None
    bytes: int | None


@dataclass(frozen=True)
class CodeVersion:
    """The code that a run ran; equal digests are equal captures."""

    digest: str | None
    commit: str | None
    branch: str | None
    remote: str | None
    dirty: bool
    #: the whole capsule, where it could be read
    capsule: Mapping[str, Any] | None


class FileEntry(NamedTuple):
    """A regular file of a tree; the path is relative and has no `..`."""

    path: str
    size: int


class RunFiles(Protocol):
    """A run's directory, or why it cannot be read; nothing outside of it is ever opened."""

    def json(self, name: str) -> Any:
        """The value of a JSON file; None where there is none that can be read."""

    def lines(self, name: str) -> Iterator[bytes]:
        """Lines of a file, without those that are too long to mean anything."""

    def open(self, name: str) -> BinaryIO | None:
        """A regular file of the directory itself or below; None where there is none."""

    def walk(self, folder: str) -> tuple[list[FileEntry], list[str]]:
        """Regular files below a folder, sorted, and sentences on what was left out."""

    def complaints(self) -> tuple[str, ...]:
        """What could not be read, and why: sentences."""


@dataclass(frozen=True)
class Record:
    """All that could be found out about one run. Every text is fit to be printed."""

    id: str
    #: as the portal tells it
    run: Mapping[str, Any]
    command: tuple[str, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    python: str | None = None
    packages: Mapping[str, str] = field(default_factory=dict)
    node: Mapping[str, str] = field(default_factory=dict)
    data: tuple[DataVersion, ...] = ()
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    result: Mapping[str, str] = field(default_factory=dict)
    code: CodeVersion | None = None
    #: sentences: what is not known, and why
    unknown: tuple[str, ...] = ()

    @property
    def project(self) -> str:
        """Its project's name."""
        return str(self.run["project"])

    @property
    def image(self) -> str | None:
        """The image by digest, else by name."""
        return self.run.get("image_digest") or self.run.get("image")
