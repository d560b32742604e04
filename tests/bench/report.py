"""Tables of figures, with the machine they were taken on."""

from __future__ import annotations

import datetime
import os
import platform
from pathlib import Path
from typing import Any

Results = list[dict[str, Any]]


def machine() -> dict[str, Any]:
    """What the lab stands on: a figure without its machine says nothing."""
    processor = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "processor": processor,
        "kernel": platform.release(),
        "load": round(os.getloadavg()[0], 2),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
    }


def _machine_line(where: dict[str, Any]) -> str:
    return (
        f"{where['cores']} cores, {where['memory_gib']} GiB, {where['processor']}, Linux {where['kernel']},"
        f" {where['date']}"
    )


def _milliseconds(value: float) -> str:
    return f"{value:.0f} ms" if value < 1000 else f"{value / 1000:.2f} s"


def _rows(results: Results) -> list[list[str]]:
    return [
        [
            result["figure"],
            _milliseconds(result["measured_ms"]),
            result["target"] + ("" if result["met"] else " (missed)"),
            str(result["count"]),
            result["notes"],
        ]
        for result in results
    ]


_TITLES = ["figure", "measured", "target", "samples", "notes"]


def plain(where: dict[str, Any], results: Results) -> str:
    """For a terminal."""
    rows = [_TITLES, *([cell.replace("`", "") for cell in row] for row in _rows(results))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join([f"{_machine_line(where)}, load {where['load']}", "", *lines])


def markdown(where: dict[str, Any], results: Results) -> str:
    """For the documentation."""
    lines = ["## labctl", "", f"Measured on {_machine_line(where)}, by `python -m tests.bench`.", ""]
    lines += ["| " + " | ".join(_TITLES) + " |", "|" + " --- |" * len(_TITLES)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in _rows(results))]) + "\n"


def replace_section(path: Path, name: str, text: str) -> None:
    """Put a text between its markers in a file; what else is in the file stays."""
    begin, end = f"<!-- bench:{name} -->\n", f"<!-- /bench:{name} -->\n"
    old = path.read_text() if path.exists() else "# Benchmarks\n\n"
    if begin in old and end in old:
        before, _, rest = old.partition(begin)
        new = before + begin + text + end + rest.partition(end)[2]
    else:
        new = old.rstrip("\n") + "\n\n" + begin + text + end
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(new)
