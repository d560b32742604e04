"""What a capture sees of a file. Standard library only: labctl imports it while somebody waits."""

from __future__ import annotations

from typing import NamedTuple


class Found(NamedTuple):
    """A file, a link, or something that is neither."""

    size: int
    #: What changes whenever the file does, and the later of its times in nanoseconds.
    stamp: tuple[int, ...]
    changed_ns: int
    link: str | None = None
    special: bool = False


class Kept(NamedTuple):
    """An object in a project's store."""

    sha256: str
    size: int


class Packed(NamedTuple):
    """A layer, and the SHA-256 by path of those files that were asked about."""

    layer: Kept
    hashes: dict[str, str]
