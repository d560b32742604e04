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


def _milliseconds_each(samples: Samples) -> float:
    return samples["each"][0]


def _answers(samples: Samples) -> str:
    shares = ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
    told = ", ".join(f"{name} {percentile(samples['answer'], share):.0f} ms" for share, name in shares)
    return f"{1000 / samples['each'][0]:.0f} a second; an answer takes {told}"


def _kept_p50(samples: Samples) -> float:
    return statistics.median(samples["kept"]) - statistics.median(samples["plain"])


def _start_p50(samples: Samples) -> float:
    return statistics.median(samples["start"])


def _bound_p99(samples: Samples) -> float:
    return percentile(samples["bound"], 0.99)


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
        repeats=20,
        target="≤ 150 ms",
        value=_submit_p95,
        met=lambda s: _submit_p95(s) <= 150.0,
        notes=lambda s: f"p50 {statistics.median(s['submit']) - _bare_p50(s):.0f} ms",
    ),
    "capsule": Figure(
        title="added to `labctl submit` by keeping the code of a git repository of 500 files, warm, p50",
        measure="capsule",
        repeats=15,
        target="≤ 100 ms",
        value=_kept_p50,
        met=lambda s: _kept_p50(s) <= 100.0,
        notes=lambda s: (
            f"without it {statistics.median(s['plain']):.0f} ms; one file differs from the commit"
        ),
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
    "rate": Figure(
        title="accepted submits, each committed, from 8 clients at once",
        measure="rate",
        repeats=1200,
        target="≤ 10 ms each: 100 a second",
        value=_milliseconds_each,
        met=lambda s: _milliseconds_each(s) <= 10.0,
        notes=_answers,
    ),
    "array": Figure(
        title="`labctl submit --array 0-499%20`, p95",
        measure="array",
        repeats=5,
        target="≤ 3 s",
        value=lambda s: percentile(s["array"], 0.95),
        met=lambda s: percentile(s["array"], 0.95) <= 3000.0,
        notes=lambda s: f"p50 {statistics.median(s['array']):.0f} ms",
    ),
    "bulk": Figure(
        title="`labctl submit --file` of 500 lines, p95",
        measure="bulk",
        repeats=2,
        target="≤ 3 s",
        value=lambda s: percentile(s["bulk"], 0.95),
        met=lambda s: percentile(s["bulk"], 0.95) <= 3000.0,
        notes=lambda s: f"p50 {statistics.median(s['bulk']):.0f} ms",
    ),
    "bound": Figure(
        title="submit → pod bound to a node, p99, at 10 submits/s on 50 fake nodes of 8 GPUs",
        measure="steady",
        repeats=300,
        target="≤ 1 s",
        value=_bound_p99,
        met=lambda s: _bound_p99(s) <= 1000.0,
        notes=lambda s: (
            f"p50 {statistics.median(s['bound']):.0f} ms, p95 {percentile(s['bound'], 0.95):.0f} ms;"
            " KWOK answers for nodes and pods, all else is real"
        ),
    ),
}
