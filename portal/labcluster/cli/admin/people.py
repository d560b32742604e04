"""A list of people, as a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

from labcluster.errors import UsageError

_REQUIRED = {"name", "full_name"}
_KNOWN = _REQUIRED | {"mail", "ssh_keys", "projects"}


def read_people(file: Path, keys_of: Callable[[str], list[str]]) -> list[tuple[int, dict[str, Any]]]:
    """Line number and request of each person; UsageError for what is no such list.

    `keys_of` gives the public keys that one entry of the column ssh_keys means.
    """
    try:
        # utf-8-sig: spreadsheets begin what they write with a mark.
        with file.open(encoding="utf-8-sig", newline="") as text:
            return _read(file, csv.DictReader(text, strict=True), keys_of)
    except OSError as error:
        raise UsageError(f"--file {file}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"--file {file}: it is no CSV file in UTF-8: {error}") from None


def _read(
    file: Path, reader: csv.DictReader[str], keys_of: Callable[[str], list[str]]
) -> list[tuple[int, dict[str, Any]]]:
    columns = set(reader.fieldnames or ())
    if missing := _REQUIRED - columns:
        raise UsageError(f"--file {file}: its first line must name the columns {', '.join(sorted(missing))}")
    if more := columns - _KNOWN:
        raise UsageError(
            f"--file {file}: no column {', '.join(sorted(more))} is known, only {', '.join(sorted(_KNOWN))}"
        )
    people = []
    for row in reader:
        values = {column: (value or "").strip() for column, value in row.items() if column is not None}
        if None in row:
            raise UsageError(f"{file}:{reader.line_num}: more fields than columns")
        try:
            keys = [key for text in _split(values.get("ssh_keys", "")) for key in keys_of(text)]
        except UsageError as error:
            raise UsageError(f"{file}:{reader.line_num}: {error.detail}") from None
        person = {
            "name": values["name"],
            "full_name": values["full_name"],
            "ssh_keys": keys,
            "projects": _split(values.get("projects", "")),
        }
        if mail := values.get("mail"):
            person["mail"] = mail
        people.append((reader.line_num, person))
    if not people:
        raise UsageError(f"--file {file}: there is nobody in it")
    return people


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(";") if part.strip()]
