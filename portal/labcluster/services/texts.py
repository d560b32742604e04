"""What members wrote, made fit to be shown: on a terminal, in a page, in a document."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping

MAX_TEXT = 4000
MAX_NAME = 200
HIDDEN = "(not shown)"

#: Invisible, or in the terminal's own language: control, format, surrogate, private use, not assigned.
_UNFIT = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_SECRET = re.compile(r"(?i)passw|secret|credential|(api|access|private)[_-]?key|(^|[_-])(token|auth)$")


def plain(value: object, limit: int = MAX_TEXT) -> str:
    """A value as one line that can be printed anywhere: what a terminal would obey becomes an escape."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    cut = text[:limit] + ("…" if len(text) > limit else "")
    if cut.isascii() and cut.isprintable():
        return cut
    return "".join(_escape(char) if unicodedata.category(char) in _UNFIT else char for char in cut)


def plain_lines(text: str) -> str:
    """The same for a text of several lines, which keeps its newlines and tabs."""
    return "".join(
        _escape(char) if char not in "\n\t" and unicodedata.category(char) in _UNFIT else char
        for char in text.replace("\r\n", "\n")
    )


def hide(values: Mapping[str, str]) -> dict[str, str]:
    """The same values, without those whose names say that they are secret."""
    return {key: HIDDEN if _SECRET.search(key) and value else value for key, value in values.items()}


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
