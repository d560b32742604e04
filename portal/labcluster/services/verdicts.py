"""Whether a run that was run again came out the same.

Metrics are held against tolerances, exact where none is given: runs of one capsule have the same code,
image, seed and data, and whoever allows a difference has to say how large it may be. What differs is told
beside what else is not the same, so that one can see what it may come from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from labcluster.errors import UsageError
from labcluster.models.records import Metric, Record
from labcluster.services.comparison import compare
from labcluster.services.metrics import json_number

REPRODUCED, DRIFTED, IMPOSSIBLE = "reproduced", "drifted", "impossible"
#: What a drift may come from; the others are results, or were asked for.
_CAUSES = ("image", "packages", "node", "code", "data", "parameters", "environment", "command", "resources")
_NAMED = 3
#: So much of a kind is told: a verdict is kept as a whole, and is no place for all packages.
_MAX_ROWS = 50
_MAX_VALUE = 200


@dataclass(frozen=True)
class Tolerance:
    """How far a metric may be from what it was; with neither, as far as it likes."""

    text: str
    absolute: float | None = None
    #: of the first run's value
    relative: float | None = None

    def allows(self, before: float, after: float) -> bool:
        """Whether the two are as good as the same."""
        if (self.absolute, self.relative) == (None, None) or before == after:
            return True
        if math.isnan(before) and math.isnan(after):
            return True
        if not (math.isfinite(before) and math.isfinite(after)):
            return False
        most = self.absolute if self.absolute is not None else (self.relative or 0.0) * abs(before)
        return abs(after - before) <= most


EXACT = Tolerance("exact", absolute=0.0)


@dataclass(frozen=True)
class Tolerances:
    """Tolerances by metrics' names or patterns; a name comes before a pattern, the last of several counts."""

    given: tuple[tuple[str, Tolerance], ...] = ()

    def of(self, metric: str) -> Tolerance:
        """The one for a metric."""
        named = [tolerance for name, tolerance in self.given if name == metric]
        fitting = [tolerance for name, tolerance in self.given if fnmatchcase(metric, name)]
        return (named or fitting or [EXACT])[-1]


def parse_tolerances(words: Sequence[str]) -> Tolerances:
    """`loss=1%`, `acc=0.005`, `val_*=0.1%`, `seconds=any`, or `1%` for all metrics."""
    return Tolerances(tuple(_parse(word) for word in words))


def _parse(word: str) -> tuple[str, Tolerance]:
    name, equals, text = word.rpartition("=")
    name = name.strip() if equals else "*"
    text = text.strip()
    if name and text == "any":
        return name, Tolerance("any")
    try:
        amount = float(text.removesuffix("%"))
    except ValueError:
        amount = math.nan
    if not name or not math.isfinite(amount) or amount < 0:
        raise UsageError(
            f"--tolerance {word!r}: write METRIC=0.005, METRIC=1% or METRIC=any, without METRIC for all"
        )
    if text.endswith("%"):
        return name, Tolerance(text, relative=amount / 100)
    return name, Tolerance(text, absolute=amount) if amount else EXACT


@dataclass(frozen=True)
class MetricVerdict:
    """One metric in both runs; None where a run does not have it."""

    metric: str
    before: float | None
    after: float | None
    tolerance: str
    same: bool
    #: `after - before`, and that as a part of `before`, where there is such a number
    difference: float | None = None
    relative: float | None = None
    #: where on the curve these values are, if not the last
    step: float | None = None
    #: what is wrong besides values
    reason: str | None = None


@dataclass(frozen=True)
class Judgement:
    """A verdict and all that it rests on; `line` is why, in one line."""

    verdict: str
    line: str
    metrics: tuple[MetricVerdict, ...] = ()
    #: by kind and name: the value in both runs
    differences: Mapping[str, Mapping[str, tuple[Any, Any]]] = field(default_factory=dict)
    #: sentences: what could not be held against one another
    notes: tuple[str, ...] = ()
    curves: bool = False

    def as_json(self) -> dict[str, Any]:
        """The same for programs, without the verdict and its line."""
        return {
            "metrics": [
                {key: json_number(value) if isinstance(value, float) else value for key, value in one.items()}
                for one in map(asdict, self.metrics)
            ],
            "differences": {kind: dict(rows) for kind, rows in self.differences.items()},
            "notes": list(self.notes),
            "curves": self.curves,
        }


def impossible(reasons: Sequence[str], notes: Sequence[str] = ()) -> Judgement:
    """It cannot be reproduced, for these reasons."""
    return Judgement(IMPOSSIBLE, "; ".join(reasons), notes=tuple(notes))


def judge(before: Record, after: Record, tolerances: Tolerances, *, curves: bool = False) -> Judgement:
    """The verdict on a run by its repetition; both have ended, and neither by somebody's hand."""
    notes = [f"{record.id}: {sentence}" for record in (before, after) for sentence in record.unknown]
    notes += [
        f"{record.id} had {attempts} attempts: its metrics are those of all of them"
        for record in (before, after)
        if (attempts := record.run.get("attempt") or 1) > 1
    ]
    changed = list(_changed_data(before, after))
    if changed:
        return impossible(changed, notes)
    ends = _ends(before, after)
    metrics = tuple(_metrics(before, after, tolerances, curves=curves))
    differences = _differences(before, after)
    apart = [one for one in metrics if not one.same]
    if not metrics:
        notes.append("there are no metrics: only how it ended was judged")
    if not ends and not apart:
        how = sorted({tolerances.of(one.metric).text for one in metrics}, key=lambda text: text != "exact")
        line = f"{_end(after)} again"
        if metrics:
            of = "metric" if len(metrics) == 1 else "metrics"
            line += f", {len(metrics)} {of} the same ({', '.join(how[:_NAMED])})"
        return Judgement(REPRODUCED, line, metrics, differences, tuple(notes), curves)
    words = [*ends, *(_say(one) for one in apart[:_NAMED])]
    if len(apart) > _NAMED:
        words.append(f"and {len(apart) - _NAMED} more metrics")
    words.append(_against(differences))
    return Judgement(DRIFTED, "; ".join(words), metrics, differences, tuple(notes), curves)


def _changed_data(before: Record, after: Record) -> Iterator[str]:
    seen = {entry.path: entry for entry in after.data}
    for entry in before.data:
        now = seen.get(entry.path)
        if entry.digest is None:
            continue
        if now is None or now.digest is None:
            because = after.run.get("reason") or "it recorded no data"
            yield f"{after.id} did not see the data {entry.path}: {because}"
        elif now.digest != entry.digest:
            yield (
                f"data changed: {entry.path} was {entry.digest[:12]} ({entry.files} files) and is"
                f" {now.digest[:12]} ({now.files} files); labctl compare {before.id} {after.id} names them"
            )


def _end(record: Record) -> str:
    code = record.run.get("exit_code")
    state = str(record.run["state"]).replace("_", " ")
    return f"{state} with exit status {code}" if code else state


def _ends(before: Record, after: Record) -> list[str]:
    same = all(before.run.get(key) == after.run.get(key) for key in ("state", "exit_code"))
    return [] if same else [f"it {_end(before)} and now {_end(after)}"]


def _metrics(
    before: Record, after: Record, tolerances: Tolerances, *, curves: bool
) -> Iterator[MetricVerdict]:
    names = {**before.metrics, **after.metrics}
    for name in sorted(name for name, metric in names.items() if not metric.system):
        tolerance = tolerances.of(name)
        one, other = before.metrics.get(name), after.metrics.get(name)
        free = (tolerance.absolute, tolerance.relative) == (None, None)
        if one is None or other is None:
            was, now = (metric.last.value if metric else None for metric in (one, other))
            only = after.id if one is None else before.id
            yield MetricVerdict(name, was, now, tolerance.text, free, reason=f"only in {only}")
        elif curves and not free:
            yield _curve(name, one, other, tolerance)
        else:
            yield _values(name, one.last.value, other.last.value, tolerance)


def _values(
    name: str, before: float, after: float, tolerance: Tolerance, step: float | None = None
) -> MetricVerdict:
    difference = after - before if math.isfinite(after) and math.isfinite(before) else None
    relative = difference / abs(before) if difference is not None and before else None
    same = tolerance.allows(before, after)
    return MetricVerdict(name, before, after, tolerance.text, same, difference, relative, step)


def _curve(name: str, before: Metric, after: Metric, tolerance: Tolerance) -> MetricVerdict:
    """The point where two curves are farthest apart, which are of the same steps."""
    pairs = list(zip(before.points, after.points, strict=False))
    last = before.last.value, after.last.value
    if before.count != after.count or any(one.step != other.step for one, other in pairs):
        reason = f"{before.count} and {after.count} values" if before.count != after.count else "other steps"
        return MetricVerdict(name, *last, tolerance.text, same=False, reason=reason)
    # What is out of tolerance before what is not, then the largest.
    found = [_values(name, one.value, other.value, tolerance, one.step) for one, other in pairs]
    return max(found, key=lambda one: (not one.same, abs(one.difference or 0.0)))


def _differences(before: Record, after: Record) -> dict[str, dict[str, tuple[Any, Any]]]:
    found: dict[str, dict[str, tuple[Any, Any]]] = {}
    for section in compare([before, after]).sections:
        rows = section.different[:_MAX_ROWS] if section.title in _CAUSES and all(section.known) else ()
        if rows:
            found[section.title] = {row.name: (_cut(row.values[0]), _cut(row.values[1])) for row in rows}
    return found


def _cut(value: Any) -> Any:
    return f"{value[:_MAX_VALUE]}…" if isinstance(value, str) and len(value) > _MAX_VALUE else value


def _say(one: MetricVerdict) -> str:
    if one.reason:
        return f"{one.metric}: {one.reason}"
    at = f" at step {one.step:g}" if one.step is not None else ""
    by = f" ({one.relative:+.3g} of it)" if one.relative is not None else ""
    if one.relative is not None and abs(one.relative) < 10:
        by = f" ({one.relative:+.2%})" if abs(one.relative) >= 1e-4 else f" ({one.relative:+.1e} of it)"
    return f"{one.metric} was {one.before:.8g} and is {one.after:.8g}{at}{by}"


def _against(differences: Mapping[str, Mapping[str, Any]]) -> str:
    names = [f"{kind} {name}" for kind, rows in differences.items() for name in rows]
    if not names:
        return "nothing else that was recorded differs: the run itself is not deterministic"
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"also different: {', '.join(names[:_NAMED])}{more}"


def needed(metrics: Sequence[MetricVerdict]) -> str | None:
    """The tolerance with which all metrics would be the same, if there is such a one."""
    apart = [one for one in metrics if not one.same]
    if not apart or any(one.relative is None for one in apart):
        return None
    most = max(abs(one.relative or 0.0) for one in apart) * 100
    return f"{_up(most)}%"


def _up(value: float) -> str:
    """Rounded up to two digits that count, so that it is enough."""
    exponent = math.floor(math.log10(value)) - 1
    rounded = math.ceil(value / 10**exponent) * 10.0**exponent
    return f"{rounded:.3g}"
