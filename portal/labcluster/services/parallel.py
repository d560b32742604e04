"""What a plot in parallel coordinates shows of a sweep: an axis for each parameter and one for the metric."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import BaseModel

from labcluster.models.runs import RunView
from labcluster.models.sweeps import Goal, Range, SweepSpec


class Axis(BaseModel):
    """One parameter, or the metric: a number or, with `names`, one of those."""

    name: str
    log: bool = False
    names: list[str] | None = None


class Line(BaseModel):
    """One arm, with its value on each axis; that of the metric is the last."""

    arm: str
    values: list[float | str]


class Plot(BaseModel):
    """What is to be drawn."""

    axes: list[Axis]
    lines: list[Line]
    best: str | None
    #: Whether a large value of the metric is a good one.
    rising: bool


def plot(arms: Sequence[RunView], spec: SweepSpec, best: str | None) -> Plot | None:
    """The plot of those arms that have a value; None if there are none."""
    shown = [arm for arm in arms if arm.value is not None and set(spec.params) <= set(arm.params)]
    if not shown:
        return None
    axes: list[Axis] = []
    columns: list[Sequence[float | str]] = []
    for name, space in spec.params.items():
        texts = [arm.params[name] for arm in shown]
        numbers = _numbers(texts)
        columns.append(numbers or texts)
        log = isinstance(space, Range) and space.log and bool(numbers) and min(numbers) > 0
        axes.append(Axis(name=name, log=log, names=None if numbers else sorted(set(texts))))
    axes.append(Axis(name=spec.metric or "value"))
    columns.append([arm.value or 0.0 for arm in shown])
    lines = [
        Line(arm=arm.id, values=list(values))
        for arm, values in zip(shown, zip(*columns, strict=True), strict=True)
    ]
    return Plot(axes=axes, lines=lines, best=best, rising=spec.goal is Goal.MAX)


def _numbers(texts: Sequence[str]) -> list[float]:
    """The values as numbers, if all of them are finite ones."""
    try:
        found = [float(text) for text in texts]
    except ValueError:
        return []
    return found if all(map(math.isfinite, found)) else []
