"""How labctl prints: aligned text where another program reads, a table with colour on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import click

from labcluster.cli.quantities import show_seconds

Run = Mapping[str, Any]

#: What can still change; the other states are final.
ACTIVE = frozenset({"queued", "starting", "running"})

_COLOURS = {
    "queued": "yellow",
    "starting": "cyan",
    "running": "blue",
    "succeeded": "green",
    "failed": "red",
    "timed_out": "red",
    "lost": "red",
    "cancelled": "magenta",
    "ready": "green",
    "not ready": "red",
}


class Column(NamedTuple):
    """A column's title; numbers stand at its right edge; the last ones may be wrapped on a terminal."""

    title: str
    right: bool = False
    wrap: bool = False


def fancy(stream: Any = None) -> bool:
    """Whether a person looks at it (standard output unless said otherwise)."""
    stream = stream or sys.stdout
    return bool(stream.isatty()) and os.environ.get("TERM") != "dumb"


def coloured(text: str, state: str, stream: Any = None) -> str:
    """A text in the colour of a state, where colours are wanted."""
    if not fancy(stream) or os.environ.get("NO_COLOR") or state not in _COLOURS:
        return text
    return click.style(text, fg=_COLOURS[state])


def emit_json(value: Any) -> None:
    """A value as JSON, for programs and for people."""
    import json

    print(json.dumps(value, indent=2, ensure_ascii=False))


def say(message: str) -> None:
    """A remark beside the output, on standard error."""
    print(message, file=sys.stderr, flush=True)


def table(columns: Sequence[Column], rows: Sequence[Sequence[Any]]) -> None:
    """Rows under their titles; a value in `_COLOURS` has its colour on a terminal."""
    cells = [["" if value is None else str(value) for value in row] for row in rows]
    if fancy():
        _rich_table(columns, cells)
    else:
        _plain_table(columns, cells)


def _plain_table(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> None:
    # An empty cell would shift the fields that awk or cut count.
    lines = [[column.title for column in columns], *[[cell or "-" for cell in row] for row in cells]]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        padded = [
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        ]
        print("  ".join(padded).rstrip())


def _rich_table(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        drawn.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=not column.wrap,
            overflow="fold" if column.wrap else "ellipsis",
        )
    for row in cells:
        drawn.add_row(*[Text(cell, style=_COLOURS.get(cell, "")) for cell in row])
    Console(highlight=False).print(drawn)


def fields(pairs: Sequence[tuple[str, Any]]) -> None:
    """Names and values, one pair a line; pairs without a value are left out."""
    shown = [(name, str(value)) for name, value in pairs if value not in (None, "")]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        title = name.ljust(width)
        if fancy() and not os.environ.get("NO_COLOR"):
            title = click.style(title, dim=True)
        print(f"  {title}  {value}")


def when(text: str | None) -> str:
    """A point in time in the reader's time zone, to the second."""
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S") if text else ""


def took(run: Run) -> str:
    """How long a run has run."""
    if not run["started_at"]:
        return ""
    start = datetime.fromisoformat(run["started_at"])
    end = datetime.fromisoformat(run["finished_at"]) if run["finished_at"] else datetime.now(UTC)
    return show_seconds((end - start).total_seconds())


def devices(count: int) -> str:
    """A number of GPUs in words."""
    return "no GPU" if count == 0 else f"{count} GPU" if count == 1 else f"{count} GPUs"


def members(run: Run, *, words: bool = False) -> str:
    """How an array's members stand: `running:20,queued:480`, in words `20 running, 480 queued`."""
    array = run.get("array")
    if not array:
        return ""
    counts = array["counts"]
    order = [state for state in _COLOURS if counts.get(state)]
    if words:
        return ", ".join(f"{counts[state]} {state.replace('_', ' ')}" for state in order)
    return ",".join(f"{state}:{counts[state]}" for state in order)


def verdict(found: Mapping[str, Any], run: str | None = None) -> str:
    """What became of running a run again, in one line; seen from one of the two runs if it is given."""
    if run is not None and run == found["again"]:
        return f"{found['verdict']} {found['of']}: {found['line']}"
    by = f" by {found['again']}" if found["again"] else ""
    return f"{'' if run else found['of'] + ' '}{found['verdict']}{by}: {found['line']}"


def state_line(run: Run) -> str:
    """One line on how a run stands: `vision-7 succeeded in 42s on gpu1, files in /lab/…`."""
    state = run["state"]
    words = [str(run["id"]), coloured(state.replace("_", " "), state, sys.stderr)]
    if state in ACTIVE:
        if run["node"] and state != "queued":
            words.append(f"on {run['node']}")
        because = members(run, words=True) or run["reason"]
        if because:
            words[-1] += f": {because}"
        return " ".join(words)
    if run["started_at"]:
        words.append(f"after {took(run)}" if state != "succeeded" else f"in {took(run)}")
        if run["node"]:
            words.append(f"on {run['node']}")
    if members(run):
        words[-1] += f": {members(run, words=True)}"
    elif run["reason"] and state != "succeeded":
        words[-1] += f": {run['reason']}"
    elif run["exit_code"]:
        words[-1] += f": exit code {run['exit_code']}"
    if run["started_at"]:
        words[-1] += f"; files in {run['directory']}"
    return " ".join(words)
