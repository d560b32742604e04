"""The indexes of an array, as Slurm's users write them."""

from __future__ import annotations

import re

from labcluster.errors import UsageError
from labcluster.models.runs import NewArray

MAX_INDEX = 999_999

_PART = re.compile(r"(?P<first>\d{1,9})(?:-(?P<last>\d{1,9})(?::(?P<step>\d{1,9}))?)?")


def parse_array(text: str, most: int) -> NewArray:
    """`0-499%20`, `1,3,5-9:2`: indexes, and after % how many of the members may run at once."""
    words, percent, limit = "".join(text.split()).partition("%")
    if percent and not (limit.isdigit() and 0 < int(limit) <= MAX_INDEX):
        raise UsageError(f"--array {text}: after % stands how many may run at once, as in 0-99%10")
    indices = parse_indices("--array", words, most)
    parallel = int(limit) if percent and int(limit) < len(indices) else None
    return NewArray(text=words + percent + limit, indices=indices, parallel=parallel)


def parse_indices(option: str, text: str, most: int) -> tuple[int, ...]:
    """`3,7-9`, `0-20:5`: each index once, in order. UsageError names `option`."""
    found: set[int] = set()
    for part in text.split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise UsageError(f"{option} {text}: write indexes as 0-99, 1,3,5 or 0-20:5, not {part!r}")
        first = int(match["first"])
        last, step = int(match["last"] or first), int(match["step"] or 1)
        if last < first:
            raise UsageError(f"{option} {text}: {part} ends before it begins")
        if step < 1:
            raise UsageError(f"{option} {text}: the step of {part} must be at least 1")
        if last > MAX_INDEX:
            raise UsageError(f"{option} {text}: an index is at most {MAX_INDEX}")
        span = range(first, last + 1, step)
        if len(span) > most or len(found) > most:
            raise UsageError(f"{option} {text}: an array has at most {most} members")
        found.update(span)
    if len(found) > most:
        raise UsageError(f"{option} {text}: an array has at most {most} members")
    return tuple(sorted(found))
