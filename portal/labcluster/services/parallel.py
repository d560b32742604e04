"""Parallel coordinates of a sweep: one axis for each parameter and one for the metric, one line for each arm.

Only positions are computed here; the page draws them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from labcluster.models.runs import RunView
from labcluster.models.sweeps import Goal, Range, SweepSpec

WIDTH, HEIGHT = 960.0, 300.0
_SIDE, _TOP, _BOTTOM = 60.0, 34.0, 20.0
_TICKS = 5


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    y: float
    text: str


@dataclass(frozen=True)
class Axis:
    """One parameter, or the metric."""

    name: str
    x: float
    ticks: Sequence[Tick]


@dataclass(frozen=True)
class Line:
    """One arm; `rank` is 0 for the best and 1 for the worst value."""

    arm: str
    points: str
    rank: float
    title: str
    best: bool

    @property
    def colour(self) -> str:
        """From blue for good to grey for bad, readable on light and dark ground."""
        return f"hsl({220 - 180 * self.rank:.0f} {75 - 35 * self.rank:.0f}% 55%)"


@dataclass(frozen=True)
class Plot:
    """What is to be drawn."""

    axes: Sequence[Axis]
    lines: Sequence[Line]
    top: float = _TOP
    bottom: float = HEIGHT - _BOTTOM
    width: float = WIDTH
    height: float = HEIGHT


class _Scale:
    """Where the values of one axis lie."""

    def __init__(self, texts: Sequence[str], *, log: bool) -> None:
        numbers = _numbers(texts)
        self._names: list[str] = [] if numbers else list(dict.fromkeys(sorted(texts)))
        self._log = log and bool(numbers) and min(numbers) > 0
        placed = [self._number(number) for number in numbers]
        self._low, self._high = (min(placed), max(placed)) if placed else (0.0, len(self._names) - 1.0)

    def _number(self, value: float) -> float:
        return math.log10(value) if self._log else value

    def y(self, text: str) -> float:
        """The height of a value; the largest is on top."""
        place = float(self._names.index(text)) if self._names else self._number(float(text))
        return self._height(place)

    def _height(self, place: float) -> float:
        share = (place - self._low) / (self._high - self._low) if self._high > self._low else 0.5
        return round(HEIGHT - _BOTTOM - share * (HEIGHT - _BOTTOM - _TOP), 1)

    def ticks(self) -> list[Tick]:
        """Marks that are enough to read the axis by."""
        if self._names:
            return [Tick(self.y(name), name[:14]) for name in self._names]
        if self._high <= self._low:
            values = [self._low]
        else:
            values = [self._low + (self._high - self._low) * n / (_TICKS - 1) for n in range(_TICKS)]
        return [Tick(self._height(value), f"{10**value if self._log else value:.3g}") for value in values]


def _numbers(texts: Sequence[str]) -> list[float]:
    """The values as numbers, if all of them are finite ones."""
    try:
        found = [float(text) for text in texts]
    except ValueError:
        return []
    return found if all(map(math.isfinite, found)) else []


def plot(arms: Sequence[RunView], spec: SweepSpec, best: str | None) -> Plot | None:
    """The plot of those arms that have a value, the best drawn last; None if there are none."""
    shown = [arm for arm in arms if arm.value is not None and set(spec.params) <= set(arm.params)]
    if not shown:
        return None
    columns: list[tuple[str, list[str], bool]] = []
    for name, space in spec.params.items():
        log = isinstance(space, Range) and space.log
        columns.append((name, [arm.params[name] for arm in shown], log))
    columns.append((spec.metric or "", [repr(arm.value) for arm in shown], False))
    gap = (WIDTH - 2 * _SIDE) / (len(columns) - 1)
    axes, heights = [], []
    for place, (name, texts, log) in enumerate(columns):
        scale = _Scale(texts, log=log)
        axes.append(Axis(name, round(_SIDE + place * gap, 1), scale.ticks()))
        heights.append([scale.y(text) for text in texts])
    order = sorted((arm.value or 0.0 for arm in shown), reverse=spec.goal is Goal.MAX)
    lines = []
    for number, arm in enumerate(shown):
        points = " ".join(f"{axis.x},{column[number]}" for axis, column in zip(axes, heights, strict=True))
        rank = order.index(arm.value or 0.0) / max(1, len(order) - 1)
        title = f"{arm.id}: {spec.metric} {arm.value:g}, " + ", ".join(
            f"{name} {arm.params[name]}" for name in spec.params
        )
        lines.append(Line(arm.id, points, rank, title, arm.id == best))
    return Plot(axes, sorted(lines, key=lambda line: (line.best, -line.rank)))
