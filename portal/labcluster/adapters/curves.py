"""Curves as pictures that stand still: SVG without scripts, for documents."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

_COLOURS = ["#2f6fed", "#e4572e", "#17a673", "#b054d6", "#d99000", "#008fa8", "#d0457f", "#6b7a00"]
_POINTS = 120

#: So many lines can be told apart.
MAX_LINES = len(_COLOURS)


def draw(title: str, lines: Mapping[str, Sequence[tuple[float, float | None]]]) -> str | None:
    """A chart with a line a name; None where there are not two finite points in any."""
    import leather

    shown = {}
    for name, points in list(lines.items())[:MAX_LINES]:
        finite = [(x, y) for x, y in points if y is not None and math.isfinite(y) and math.isfinite(x)]
        if len(finite) > 1:
            every = math.ceil(len(finite) / _POINTS)
            shown[name] = finite if every == 1 else [*finite[::every], finite[-1]]
    values = {y for points in shown.values() for _, y in points}
    steps = {x for points in shown.values() for x, _ in points}
    # The scale of a flat line has no length.
    if len(values) < 2 or len(steps) < 2:
        return None
    chart = leather.Chart(title)
    for (name, points), colour in zip(shown.items(), _COLOURS, strict=False):
        chart.add_line(points, name=name, stroke_color=colour, width=1.6)
    drawn = io.StringIO()
    chart.to_svg(drawn, width=720, height=360)
    return drawn.getvalue()
