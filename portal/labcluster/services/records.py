"""Makes a run's record of what the portal says and what lies in the run's directory.

The files are written by members: any of them may be missing, of another shape, or made to do harm. What
cannot be understood is left out and said; every text is made fit for a terminal here, once. Values that look
like passwords by their names are not shown: what is made of a record is passed around.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from labcluster.models.records import CodeVersion, DataVersion, Metric, Point, Record, RunFiles
from labcluster.services.parameters import fill

MAX_TEXT = 4000
MAX_NAME = 200
MAX_ENTRIES = 10_000
MAX_METRICS = 1000
#: A curve keeps between half and all of so many points.
MAX_POINTS = 2000
HIDDEN = "(not shown)"

_SECRET = re.compile(r"(?i)passw|secret|credential|(api|access|private)[_-]?key|(^|[_-])(token|auth)$")

_SPELLED = {"nan": math.nan, "inf": math.inf, "+inf": math.inf, "-inf": -math.inf}
_SPELLED |= {"infinity": math.inf, "+infinity": math.inf, "-infinity": -math.inf}
#: Invisible, or in the terminal's own language: control, format, surrogate, private use, not assigned.
_UNFIT = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def plain(value: object, limit: int = MAX_TEXT) -> str:
    """A value as one line that can be printed anywhere: what a terminal would obey becomes an escape."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    cut = text[:limit] + ("…" if len(text) > limit else "")
    if cut.isascii() and cut.isprintable():
        return cut
    return "".join(_escape(char) if unicodedata.category(char) in _UNFIT else char for char in cut)


def plain_lines(text: str) -> str:
    """The same for a text of several lines, which keeps its newlines and tabs."""
    return "".join(
        _escape(char) if char not in "\n\t" and unicodedata.category(char) in _UNFIT else char
        for char in text.replace("\r\n", "\n")
    )


def hide(values: Mapping[str, str]) -> dict[str, str]:
    """The same values, without those whose names say that they are secret."""
    return {key: HIDDEN if _SECRET.search(key) and value else value for key, value in values.items()}


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def read_record(run: Mapping[str, Any], files: RunFiles | None, points: int = MAX_POINTS) -> Record:
    """The record of one run, with curves of at most so many points; `files` if they are on this machine."""
    unknown: list[str] = []
    if files is None:
        return _of_portal(run, ("its files are not on this machine",))
    known = files.json("run.json")
    if isinstance(known, dict) and known.get("id") not in (None, run["id"]):
        return _of_portal(run, (f"its directory belongs to {plain(known['id'], MAX_NAME)}",))
    base = _of_portal(run, ())
    arguments = files.json("args.json")
    arguments = arguments if isinstance(arguments, dict) else {}
    given = {**texts(run.get("params")), **texts(arguments.get("params"))}
    command = tuple(fill(_words(arguments.get("command")) or base.command, given))
    packages = files.json("packages.json")
    packages = packages if isinstance(packages, dict) else {}
    metrics = read_metrics(files, unknown, points)
    result = texts(files.json("result.json"))
    parameters = {**argument_values(command), **given, **_seed({**run, **arguments})}
    return Record(
        id=base.id,
        run=base.run,
        command=command,
        parameters=hide(parameters),
        environment=hide(texts(files.json("env.json"))) or base.environment,
        python=_python(packages),
        packages=texts(packages.get("packages")),
        node=flat(files.json("node.json")),
        data=_data(files.json("data.json")),
        metrics=metrics,
        result=result,
        code=_code(run.get("code"), files.json("code.json")),
        unknown=(*unknown, *(plain(line) for line in files.complaints())),
    )


def _of_portal(run: Mapping[str, Any], unknown: tuple[str, ...]) -> Record:
    given = texts(run.get("params"))
    command = tuple(fill(_words(run.get("command")), given))
    return Record(
        id=str(run["id"]),
        run=_fit({**run, "env": hide(texts(run.get("env")))}),
        command=command,
        parameters=hide({**argument_values(command), **given, **_seed(run)}),
        environment=hide(texts(run.get("env"))),
        code=_code(run.get("code"), None),
        unknown=unknown,
    )


def _fit(value: Any) -> Any:
    """A JSON value of the portal's with every text fit to be printed."""
    if isinstance(value, Mapping):
        return {plain(key, MAX_NAME): _fit(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_fit(item) for item in value]
    return plain(value) if isinstance(value, str) else value


def _seed(run: Mapping[str, Any]) -> dict[str, str]:
    return {} if run.get("seed") is None else {"seed": plain(run["seed"], MAX_NAME)}


def _python(packages: Mapping[str, Any]) -> str | None:
    found = [packages[key] for key in ("version", "python") if isinstance(packages.get(key), str)]
    return plain(" ".join(word for word in found if word), MAX_NAME) or None


def _words(value: Any) -> tuple[str, ...]:
    return tuple(plain(word) for word in value[:MAX_ENTRIES]) if isinstance(value, list | tuple) else ()


def texts(value: Any) -> dict[str, str]:
    """An object's entries as texts; nothing of what is no object."""
    if not isinstance(value, Mapping):
        return {}
    entries = sorted((plain(key, MAX_NAME), plain(item)) for key, item in list(value.items())[:MAX_ENTRIES])
    return dict(entries)


def flat(value: Any, prefix: str = "", depth: int = 0) -> dict[str, str]:
    """A nested object as one level, `gpus.0.model`; a list of plain values is one text."""
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        value = {str(number): item for number, item in enumerate(value)}
    if isinstance(value, Mapping) and depth < 5:
        found: dict[str, str] = {}
        for key, item in list(value.items())[:MAX_ENTRIES]:
            found |= flat(item, f"{prefix}.{key}" if prefix else str(key), depth + 1)
        return dict(sorted(found.items())[:MAX_ENTRIES])
    if not prefix or value is None:
        return {}
    if isinstance(value, list):
        return {plain(prefix, MAX_NAME): plain(", ".join(str(item) for item in value))}
    return {plain(prefix, MAX_NAME): plain(value)}


def argument_values(command: Sequence[str]) -> dict[str, str]:
    """What a command says with `--key value`, `--key=value` and `--flag`; the last one wins."""
    found: dict[str, str] = {}
    key = None
    for word in command:
        if word == "--":
            break
        if word.startswith("--") and len(word) > 2 and not word[2:].startswith("-"):
            name, equals, value = word[2:].partition("=")
            # As argparse calls it.
            name = name[:MAX_NAME].replace("-", "_")
            found[name] = value if equals else "true"
            key = None if equals else name
        elif key is not None and not _is_short_option(word):
            found[key] = word
            key = None
        else:
            key = None
    return found


def _is_short_option(word: str) -> bool:
    return len(word) > 1 and word[0] == "-" and not (word[1].isdigit() or word[1] == ".")


def _data(value: Any) -> tuple[DataVersion, ...]:
    if not isinstance(value, list):
        return ()
    return tuple(
        DataVersion(
            path=plain(entry.get("path", ""), MAX_TEXT),
            digest=_digest(entry.get("digest")),
            manifest=_digest(entry.get("manifest")),
            files=_count(entry.get("files")),
            bytes=_count(entry.get("bytes")),
        )
        for entry in value[:MAX_ENTRIES]
        if isinstance(entry, dict)
    )


def _digest(value: Any) -> str | None:
    """A SHA-256 in hexadecimal, of which a path may be made."""
    text = value.removeprefix("sha256:") if isinstance(value, str) else ""
    return text if len(text) == 64 and set(text) <= set("0123456789abcdef") else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _code(reference: Any, capsule: Any) -> CodeVersion | None:
    """What the portal wrote down at submit; the capsule's own words where that is missing."""
    reference = reference if isinstance(reference, Mapping) else {}
    capsule = capsule if isinstance(capsule, Mapping) else None
    if not reference and not capsule:
        return None
    git = (capsule or {}).get("git")
    told = {
        **(git if isinstance(git, Mapping) else {}),
        **{k: v for k, v in reference.items() if v is not None},
    }

    def text(key: str) -> str | None:
        return plain(told[key], MAX_NAME) if isinstance(told.get(key), str) else None

    digest = _digest(reference.get("digest"))
    return CodeVersion(
        digest, text("commit"), text("branch"), text("remote"), told.get("dirty") is True, capsule
    )


# --- metrics --------------------------------------------------------------------------------------


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


def as_json(record: Record) -> dict[str, Any]:
    """A record as a program reads it; its curves are left to `metrics_rows`."""
    return {
        "id": record.id,
        "run": dict(record.run),
        "command": list(record.command),
        "parameters": dict(record.parameters),
        "environment": dict(record.environment),
        "python": record.python,
        "packages": dict(record.packages),
        "node": dict(record.node),
        "data": [vars(entry) for entry in record.data],
        "metrics": {key: metric_json(metric) for key, metric in record.metrics.items()},
        "result": dict(record.result),
        "code": None
        if record.code is None
        else {key: item for key, item in vars(record.code).items() if key != "capsule"},
        "unknown": list(record.unknown),
    }


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
