"""A run's metrics, from the lines that the recorder or the command itself has written."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from labcluster.models.records import Metric, Point, RunFiles
from labcluster.services.texts import MAX_NAME, plain

MAX_METRICS = 1000
#: A curve keeps between half and all of so many points.
MAX_POINTS = 2000

_SPELLED = {"nan": math.nan, "inf": math.inf, "+inf": math.inf, "-inf": -math.inf}
_SPELLED |= {"infinity": math.inf, "+infinity": math.inf, "-infinity": -math.inf}


def read_metrics(files: RunFiles, unknown: list[str], points: int) -> dict[str, Metric]:
    """Every metric of a run: as the recorder wrote them, else as the command itself did."""
    curves: dict[str, _Curve] = {}
    bad = 0
    dropped = False
    for name, values in (("recorded.jsonl", _recorded), ("metrics.jsonl", _reported)):
        for line in files.lines(name):
            found = values(line)
            if found is None:
                bad += 1
                continue
            for key, point in found:
                curve = curves.get(key)
                if curve is None:
                    if len(curves) >= MAX_METRICS:
                        dropped = True
                        continue
                    curve = curves[key] = _Curve(points)
                curve.add(point)
        if curves:
            break
    if bad:
        unknown.append(f"{bad} line{'s' * (bad != 1)} of its metrics could not be understood")
    if dropped:
        unknown.append(f"it has more than {MAX_METRICS} metrics: the others were left out")
    return {key: curves[key].metric(key) for key in sorted(curves)}


def _recorded(line: bytes) -> list[tuple[str, Point]] | None:
    entry = _object(line)
    if entry is None or not isinstance(entry.get("key"), str):
        return None
    value = _number(entry.get("value"))
    if value is None:
        return None
    return [(_name(entry["key"]), Point(_step(entry), value, _finite(entry.get("time"))))]


@lru_cache(maxsize=10_000)
def _name(key: str) -> str:
    return plain(key, MAX_NAME)


def _reported(line: bytes) -> list[tuple[str, Point]] | None:
    entry = _object(line)
    if entry is None:
        return None
    step, time = _step(entry), _finite(entry.get("time"))
    values = ((key, _number(value)) for key, value in entry.items() if key not in ("step", "time"))
    return [(_name(key), Point(step, value, time)) for key, value in values if value is not None]


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        # As text: for bytes json would look for their encoding in every line.
        entry = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


def _number(value: Any) -> float | None:
    if type(value) is float:
        return value
    if isinstance(value, str):
        return _SPELLED.get(value.lower())
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _finite(value: Any) -> float | None:
    number = _number(value)
    return number if number is not None and math.isfinite(number) else None


def _step(entry: Mapping[str, Any]) -> float:
    return _finite(entry.get("step")) or 0.0


class _Curve:
    """A metric while it is read, in bounded memory: every 2^n-th point is kept, and the last."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.count = self.bad = 0
        self.first_bad: Point | None = None
        self.low: Point | None = None
        self.high: Point | None = None
        self.points: list[Point] = []
        self.sum = 0.0
        self.every = 1
        self.last: Point | None = None

    def add(self, point: Point) -> None:
        if self.count % self.every == 0:
            self.points.append(point)
            if len(self.points) >= self.limit:
                del self.points[1::2]
                self.every *= 2
        self.count += 1
        # What was written last, unless an earlier step came late.
        if self.last is None or point.step >= self.last.step:
            self.last = point
        if not math.isfinite(point.value):
            self.bad += 1
            self.first_bad = self.first_bad or point
            return
        self.sum += point.value
        if self.low is None or point.value < self.low.value:
            self.low = point
        if self.high is None or point.value > self.high.value:
            self.high = point

    def metric(self, key: str) -> Metric:
        assert self.last is not None
        points = self.points if self.points[-1] == self.last else [*self.points, self.last]
        ordered = tuple(sorted(points, key=lambda point: point.step))
        mean = self.sum / (self.count - self.bad) if self.count > self.bad else None
        return Metric(
            key, self.count, self.last, mean, self.low, self.high, self.bad, self.first_bad, ordered
        )


def metric_json(metric: Metric) -> dict[str, Any]:
    """A metric without its curve; a value that is not finite is written as a text, as JSON has none."""

    def point(found: Point | None) -> dict[str, Any] | None:
        return (
            None
            if found is None
            else {"value": json_number(found.value), "step": found.step, "time": found.time}
        )

    return {
        "last": point(metric.last),
        "min": point(metric.min),
        "max": point(metric.max),
        "mean": metric.mean if metric.mean is None else json_number(metric.mean),
        "count": metric.count,
        "not_finite": metric.bad,
    }


def json_number(value: float) -> float | str:
    """A number that JSON can hold."""
    return value if math.isfinite(value) else str(value)


def curve_points(metric: Metric) -> Iterator[tuple[float, float | None, float | None]]:
    """Step, value (None where it is not finite) and time of a curve; without steps they are counted."""
    counted = len({point.step for point in metric.points}) == 1
    for number, point in enumerate(metric.points):
        value = point.value if math.isfinite(point.value) else None
        yield float(number) if counted else point.step, value, point.time
