"""Which of MLflow's routes are open: those of routes.txt, and nothing that a later version adds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

# {api}: every API route of MLflow has two names, for clients and for its pages.
_API = r"/(?:ajax-)?api"
_PLACES = {"<name>": "[^/]+", "<path>": ".+"}
# No way of writing them is a part of an honest path: decoded as often as MLflow may decode.
_FOUL = re.compile(r"(^|/)\.{1,2}(/|$)|//|[\\\x00-\x1f\x7f]")
_DECODINGS = 8


class Routes:
    """The list of open routes: lines of `METHOD /path`, `#` begins a comment."""

    def __init__(self, text: str) -> None:
        self._open = {
            method: re.compile("|".join(_pattern(path) for found, path in lines(text) if found == method))
            for method in {method for method, _ in lines(text)}
        }

    @classmethod
    def load(cls) -> Routes:
        """The list of this package."""
        return cls(Path(__file__).with_name("routes.txt").read_text())

    def opens(self, method: str, path: str) -> bool:
        """Whether a request may go on; `path` as ASGI gives it, decoded once."""
        pattern = self._open.get(method)
        return pattern is not None and pattern.fullmatch(path) is not None and honest(path)


def lines(text: str) -> Iterator[tuple[str, str]]:
    """Method and path of each line."""
    for line in text.splitlines():
        if line := line.partition("#")[0].strip():
            method, path = line.split()
            yield method, path


def _pattern(path: str) -> str:
    parts = re.split(r"(\{api\}|<name>|<path>)", path)
    return "".join(_API if part == "{api}" else _PLACES.get(part, re.escape(part)) for part in parts)


def honest(path: str) -> bool:
    """Whether a path means what it says, however often it is decoded."""
    for _ in range(_DECODINGS):
        if _FOUL.search(path):
            return False
        decoded = unquote(path)
        if decoded == path:
            return True
        path = decoded
    return False
