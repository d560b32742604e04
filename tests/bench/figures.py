"""What is measured, what counts, and what it must be."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

Samples = dict[str, list[float]]


def percentile(values: list[float], share: float) -> float:
    """The value that a share of all values does not exceed (nearest rank)."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(len(ranked) * share) - 1)]


class Figure(NamedTuple):
    """One number of the project's promises."""

    title: str
    measure: str
    repeats: int
    target: str
    value: Callable[[Samples], float]
    met: Callable[[Samples], bool]
    notes: Callable[[Samples], str]

    def judge(self, samples: Samples) -> dict[str, Any]:
        """The figure with what was measured."""
        return {
            "figure": self.title,
            "target": self.target,
            "measured_ms": round(self.value(samples), 1),
            "met": self.met(samples),
            "notes": self.notes(samples),
            "count": max(map(len, samples.values())),
            "samples_ms": {name: [round(value, 2) for value in values] for name, values in samples.items()},
        }


def _help_p50(samples: Samples) -> float:
    return statistics.median(samples["help"])


def _bare_p50(samples: Samples) -> float:
    return statistics.median(samples["bare"])


def _submit_p95(samples: Samples) -> float:
    return percentile(samples["submit"], 0.95) - statistics.median(samples["bare"])


def _start_p50(samples: Samples) -> float:
    return statistics.median(samples["start"])


FIGURES = {
    "help": Figure(
        title="`labctl --help`, p50",
        measure="help",
        repeats=60,
        target="≤ 60 ms, or ≤ 3 × `python -c pass`",
        value=_help_p50,
        met=lambda s: _help_p50(s) <= max(60.0, 3 * _bare_p50(s)),
        notes=lambda s: f"bare Python {_bare_p50(s):.0f} ms, {_help_p50(s) / _bare_p50(s):.1f} ×",
    ),
    "submit": Figure(
        title="`labctl submit` beyond the interpreter's start, p95",
        measure="submit",
        repeats=40,
        target="≤ 150 ms",
        value=_submit_p95,
        met=lambda s: _submit_p95(s) <= 150.0,
        notes=lambda s: f"p50 {statistics.median(s['submit']) - _bare_p50(s):.0f} ms",
    ),
    "start": Figure(
        title="`labctl submit` → the command runs in its container, p50",
        measure="start",
        repeats=15,
        target="≤ 3 s",
        value=_start_p50,
        met=lambda s: _start_p50(s) <= 3000.0,
        notes=lambda s: f"p95 {percentile(s['start'], 0.95):.0f} ms; image present, idle lab, one at a time",
    ),
}
