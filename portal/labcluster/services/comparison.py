"""What differs between runs, and what does not.

A value is only held against runs of which that kind of thing is known: a run without a list of packages
differs in none of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from labcluster.models.records import Metric, Record
from labcluster.services.metrics import json_number

Value = str | float | None
_AT = " at step"


@dataclass(frozen=True)
class Row:
    """One thing and its value in every run; None where a run does not have it."""

    name: str
    values: tuple[Value, ...]
    differs: bool
    #: at which step of each run, where that was asked for
    steps: tuple[float | None, ...] | None = None


@dataclass(frozen=True)
class Section:
    """Rows of one kind; `known` says for each run whether that kind is known of it at all."""

    title: str
    rows: tuple[Row, ...]
    known: tuple[bool, ...]

    @property
    def different(self) -> tuple[Row, ...]:
        """Only what differs."""
        return tuple(row for row in self.rows if row.differs)


@dataclass(frozen=True)
class FileChange:
    """A file that is not the same as in the reference run; lines are None where they were not counted."""

    path: str
    change: str
    added: int | None = None
    removed: int | None = None


@dataclass(frozen=True)
class TreeChange:
    """How a run's tree of files differs from the reference run's; `reason` where that cannot be said."""

    run: str
    same: bool = False
    files: tuple[FileChange, ...] = ()
    #: how many there are, where `files` has only the first of them
    total: int = 0
    diff: str = ""
    reason: str | None = None
    path: str = ""


@dataclass(frozen=True)
class Comparison:
    """Runs beside one another; changes of code and data are told against the first."""

    records: tuple[Record, ...]
    sections: tuple[Section, ...]
    code: tuple[TreeChange, ...] = ()
    data: tuple[TreeChange, ...] = ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics with a curve to draw, results before uses of the machine."""
        names = {metric.key: metric.system for record in self.records for metric in record.metrics.values()}
        return tuple(sorted(names, key=lambda name: (names[name], name)))

    def as_json(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "runs": [_summary(record) for record in self.records],
            "reference": self.records[0].id,
            "differences": {section.title: _rows(section.different) for section in self.sections},
            "same": {
                section.title: _rows([row for row in section.rows if not row.differs])
                for section in self.sections
            },
            "code": [_change(change) for change in self.code],
            "data": [_change(change) for change in self.data],
            "unknown": {record.id: list(record.unknown) for record in self.records if record.unknown},
        }


def _rows(rows: Sequence[Row]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for row in rows:
        found[row.name] = [json_number(value) if isinstance(value, float) else value for value in row.values]
        if row.steps is not None:
            found[f"{row.name}{_AT}"] = list(row.steps)
    return found


def _change(change: TreeChange) -> dict[str, Any]:
    found = {key: value for key, value in vars(change).items() if value not in (None, "", ())}
    return {**found, "same": change.same, "files": [vars(file) for file in change.files]}


def _summary(record: Record) -> dict[str, Any]:
    keys = (
        "id",
        "name",
        "user",
        "state",
        "reason",
        "submitted_at",
        "started_at",
        "finished_at",
        "exit_code",
        "node",
    )
    return {key: record.run.get(key) for key in (*keys, "directory", "parent", "reproductions")}


def compare(
    records: Sequence[Record], code: tuple[TreeChange, ...] = (), data: tuple[TreeChange, ...] = ()
) -> Comparison:
    """Everything that the records say, beside what somebody has found out about their code and data."""
    parts: list[tuple[str, Callable[[Record], Mapping[str, Value]]]] = [
        ("parameters", lambda record: record.parameters),
        ("metrics", _metric_values),
        ("command", _command),
        ("code", _code),
        ("data", lambda record: {entry.path: entry.digest and entry.digest[:12] for entry in record.data}),
        ("image", lambda record: _some(record, "image", "image_digest")),
        ("packages", _packages),
        ("environment", lambda record: record.environment),
        (
            "resources",
            lambda record: _some(record, "gpus", "cpus", "memory", "nodes", "time_seconds", "priority"),
        ),
        ("node", _node),
        ("machine use", _machine_use),
        ("end", _end),
    ]
    sections = tuple(section(title, [of(record) for record in records]) for title, of in parts)
    return Comparison(tuple(records), sections, code, data)


def section(title: str, tables: Sequence[Mapping[str, Value]]) -> Section:
    """The tables of all runs as rows; names keep the order in which they are first seen."""
    known = tuple(bool(table) for table in tables)
    names = list(dict.fromkeys(name for table in tables for name in table))
    rows = []
    for name in names:
        if name.endswith(_AT) and name.removesuffix(_AT) in names:
            continue
        values = tuple(table.get(name) for table in tables)
        judged = [value for value, there in zip(values, known, strict=True) if there]
        differs = any(not _equal(value, judged[0]) for value in judged[1:])
        rows.append(
            Row(name, values, differs, _steps(tables, f"{name}{_AT}") if f"{name}{_AT}" in names else None)
        )
    return Section(title, tuple(rows), known)


def _steps(tables: Sequence[Mapping[str, Value]], name: str) -> tuple[float | None, ...]:
    found = (table.get(name) for table in tables)
    return tuple(step if isinstance(step, float) else None for step in found)


def _equal(one: Value, other: Value) -> bool:
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other):
        return True
    return one == other


def _metric_values(record: Record) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for metric in record.metrics.values():
        if not metric.system:
            found |= dict(_values(metric))
    return found


def _machine_use(record: Record) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for metric in record.metrics.values():
        if metric.system and metric.max is not None:
            name = metric.key.removeprefix("system/").replace("_", " ")
            found |= {f"{name}, mean": metric.mean, f"{name}, max": metric.max.value}
    return found


def _values(metric: Metric) -> Iterator[tuple[str, Value]]:
    yield f"{metric.key} last", metric.last.value
    for word, point in (("min", metric.min), ("max", metric.max)):
        # Of a value that was reported once there is nothing more to say.
        if point is not None and metric.count > 1:
            yield f"{metric.key} {word}", point.value
            yield f"{metric.key} {word}{_AT}", point.step
    if metric.first_bad is not None:
        yield f"{metric.key} not finite at step", metric.first_bad.step


def _command(record: Record) -> dict[str, Value]:
    import shlex

    words = {"command": shlex.join(record.command)} if record.command else {}
    return {**words, **_some(record, "workdir", "name")}


def _code(record: Record) -> dict[str, Value]:
    code = record.code
    if code is None:
        return {}
    return {
        "capture": code.digest and code.digest[:12],
        "commit": code.commit,
        "branch": code.branch,
        "remote": code.remote,
        "uncommitted changes": "yes" if code.dirty else "no",
    }


def _packages(record: Record) -> dict[str, Value]:
    python: dict[str, Value] = {"python": record.python} if record.python else {}
    return {**python, **record.packages}


def _node(record: Record) -> dict[str, Value]:
    # A pod's name is never the same twice.
    facts = {name: value for name, value in record.node.items() if name not in ("pod", "attempt")}
    return {**_some(record, "node"), **facts}


def _some(record: Record, *keys: str) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for key in keys:
        value = record.run.get(key)
        if value is not None:
            found[key.replace("_", " ")] = value if isinstance(value, str) else f"{value:g}"
    return found


def _end(record: Record) -> dict[str, Value]:
    return {**_some(record, "state", "reason", "exit_code", "attempt"), **_signal(record)}


def _signal(record: Record) -> dict[str, Value]:
    wanted = {"signal": "signal", "ended_by": "ended by", "seconds": "seconds"}
    return {
        title: record.result[key]
        for key, title in wanted.items()
        if record.result.get(key) not in (None, "null")
    }


def file_changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[FileChange]:
    """How one table of paths and contents' digests became another, by path."""
    return [
        FileChange(path, "added" if path not in before else "removed" if path not in after else "changed")
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    ]
