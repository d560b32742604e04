"""What happened in a project within a time: who ran what, what came out best, what failed, what is new."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from labcluster.models.records import Metric, Point, Record
from labcluster.services.metrics import json_number

#: A metric is better when it is smaller if one of these words is part of its name.
_SMALLER = re.compile(
    r"(?i)loss|err|mse|mae|rmse|perplexity|ppl|nll|entropy|divergence|fid|wer(?![a-z])|cer(?![a-z])|latency|seconds"
)
_HELD_OUT = re.compile(r"(?i)val|test|eval|dev")
ACTIVE = frozenset({"queued", "starting", "running"})
FAILED = ("failed", "timed_out", "lost")
MAX_METRICS = 4
MAX_ROWS = 10
MAX_PARAMETERS = 6

Json = dict[str, Any]


@dataclass(frozen=True)
class Window:
    """The time that a report is about."""

    since: datetime
    until: datetime

    def overlaps(self, run: Mapping[str, Any]) -> bool:
        """Whether a run waited, ran or ended within."""
        end = _time(run.get("finished_at"))
        return (_time(run["submitted_at"]) or self.since) < self.until and (end is None or end >= self.since)

    def gpu_hours(self, run: Mapping[str, Any]) -> float:
        """What it held of GPUs within."""
        start, end = _time(run.get("started_at")), _time(run.get("finished_at")) or self.until
        if start is None:
            return 0.0
        seconds = (min(end, self.until) - max(start, self.since)).total_seconds()
        return max(0.0, seconds) / 3600 * (run.get("gpus") or 0) * (run.get("nodes") or 1)


def _time(text: Any) -> datetime | None:
    return datetime.fromisoformat(text) if isinstance(text, str) else None


def goal_of(metric: str) -> str:
    """Whether less of a metric is better, judged by its name."""
    return "min" if _SMALLER.search(metric) else "max"


def best_point(metric: Metric, goal: str) -> Point | None:
    """The best finite value that a run reached."""
    return metric.min if goal == "min" else metric.max


def report(
    project: str,
    window: Window,
    records: Sequence[Record],
    *,
    goals: Mapping[str, str] | None = None,
    before: Mapping[str, Any] | None = None,
    left_out: int = 0,
) -> Json:
    """The data behind a report.

    `goals` names the metrics that count, and which way; `before` is what `carried` gave for the last report.
    """
    names = sorted({str(record.run["name"]) for record in records})
    experiments = [
        _experiment(name, [record for record in records if record.run["name"] == name], goals or {})
        for name in names
    ]
    experiments.sort(key=lambda experiment: -experiment["total"])
    users = _users(records, window)
    known = {"users": sorted(user["name"] for user in users), "experiments": names}
    best = {
        f"{experiment['name']}/{line['metric']}": line
        for experiment in experiments
        for line in experiment["best"]
    }
    return {
        "project": project,
        "since": window.since.isoformat(timespec="seconds"),
        "until": window.until.isoformat(timespec="seconds"),
        "total": len(records),
        "left_out": left_out,
        "states": dict(sorted(Counter(str(record.run["state"]) for record in records).items())),
        "gpu_hours": round(sum(window.gpu_hours(record.run) for record in records), 2),
        "users": users,
        "experiments": experiments,
        "failures": [_brief(record) for record in records if record.run["state"] in FAILED],
        "active": [_brief(record) for record in records if record.run["state"] in ACTIVE],
        "reproductions": _reproductions(records),
        "best": best,
        "known": known,
        "new": _news(best, known, before),
    }


def _users(records: Sequence[Record], window: Window) -> list[Json]:
    found: dict[str, Json] = {}
    for record in records:
        run = record.run
        line = found.setdefault(
            str(run["user"]),
            {
                "name": run["user"],
                "runs": 0,
                "succeeded": 0,
                "failed": 0,
                "gpu_hours": 0.0,
                "experiments": [],
            },
        )
        line["runs"] += 1
        line["succeeded"] += run["state"] == "succeeded"
        line["failed"] += run["state"] in FAILED
        line["gpu_hours"] = round(line["gpu_hours"] + window.gpu_hours(run), 2)
        if run["name"] not in line["experiments"]:
            line["experiments"].append(run["name"])
    return sorted(found.values(), key=lambda line: (-line["gpu_hours"], -line["runs"], line["name"]))


def _experiment(name: str, records: Sequence[Record], goals: Mapping[str, str]) -> Json:
    metrics = main_metrics(records, goals)
    ranked = rank(records, metrics)
    best = []
    for metric, goal in metrics.items():
        order = rank(records, {metric: goal})
        point = best_point(order[0].metrics[metric], goal) if order and metric in order[0].metrics else None
        if point is not None:
            run = order[0].run
            best.append(
                {"metric": metric, "goal": goal, "run": order[0].id, "user": run["user"],
                 "value": json_number(point.value), "step": point.step}
            )  # fmt: skip
    return {
        "name": name,
        "total": len(records),
        "metrics": metrics,
        "parameters": varied(records)[:MAX_PARAMETERS],
        "best": best,
        "runs": [_line(record, metrics) for record in ranked[:MAX_ROWS]],
        "pictures": [],
    }


def main_metrics(records: Sequence[Record], goals: Mapping[str, str]) -> dict[str, str]:
    """The few metrics that tell how good runs are, and which way: the given ones, else the most common."""
    counts = Counter(key for record in records for key, metric in record.metrics.items() if not metric.system)
    if any(key in counts for key in goals):
        return {key: goal for key, goal in goals.items() if key in counts}
    # What was measured on held out data says more than what was trained on.
    order = sorted(counts, key=lambda key: (not _HELD_OUT.search(key), -counts[key], key))
    return {key: goal_of(key) for key in order[:MAX_METRICS]}


def rank(records: Sequence[Record], metrics: Mapping[str, str]) -> list[Record]:
    """Best first by the first metric; runs without it come last, newest first."""
    metric, goal = next(iter(metrics.items()), ("", "max"))

    def key(record: Record) -> tuple[float, int]:
        found = record.metrics.get(metric)
        point = best_point(found, goal) if found else None
        value = math.inf if point is None else point.value if goal == "min" else -point.value
        return value, -int(record.run.get("number") or 0)

    return sorted(records, key=key)


def varied(records: Sequence[Record]) -> list[str]:
    """Parameters that are not the same in all runs; those that take the most values first, the seed last."""
    names = {name for record in records for name in record.parameters}
    values = {name: {record.parameters.get(name) for record in records} for name in names}
    return sorted(
        (name for name in names if len(values[name]) > 1),
        key=lambda name: (name == "seed", -len(values[name]), name),
    )


def _line(record: Record, metrics: Mapping[str, str]) -> Json:
    values: Json = {}
    for key, goal in metrics.items():
        metric = record.metrics.get(key)
        point = best_point(metric, goal) if metric else None
        values[key] = None if metric is None or point is None else {
            "best": point.value, "step": point.step, "last": json_number(metric.last.value)
        }  # fmt: skip
    code = record.code
    version = (code.commit or "")[:10] + ("+" if code.dirty else "") if code else None
    return _brief(record) | {
        "parameters": dict(record.parameters),
        "metrics": values,
        "commit": version or None,
    }


def _reproductions(records: Sequence[Record]) -> list[Json]:
    """Verdicts on runs or by them, newest last; each once, though both of its runs may be here."""
    found = {
        (one["of"], one["again"]): dict(one)
        for record in records
        for one in record.run.get("reproductions") or ()
    }
    return sorted(found.values(), key=lambda one: str(one["at"]))


def _brief(record: Record) -> Json:
    keys = (
        "id",
        "name",
        "user",
        "state",
        "reason",
        "exit_code",
        "gpus",
        "submitted_at",
        "started_at",
        "finished_at",
    )
    return {key: record.run.get(key) for key in (*keys, "node", "parent", "directory")}


def _news(
    best: Mapping[str, Json], known: Mapping[str, list[str]], before: Mapping[str, Any] | None
) -> Json | None:
    """What the last report did not know; None if there is none to hold this one against."""
    if before is None:
        return None
    old_best, old_known = _object(before.get("best")), _object(before.get("known"))
    records = []
    for key, line in best.items():
        old = _object(old_best.get(key))
        was, value = old.get("value"), line["value"]
        if not isinstance(was, int | float) or not isinstance(value, int | float):
            continue
        if value < was if line["goal"] == "min" else value > was:
            records.append({**line, "experiment": key.removesuffix(f"/{line['metric']}"), "was": was})
    new = {
        kind: [name for name in names if name not in _list(old_known.get(kind))]
        for kind, names in known.items()
    }
    return {**new, "best": records}


def carried(data: Mapping[str, Any], before: Mapping[str, Any] | None) -> Json:
    """What the next report is told: everything known up to now, and the best there ever was."""
    before = before or {}
    best = {key: _object(line) for key, line in _object(before.get("best")).items()}
    for key, line in data["best"].items():
        was = best.get(key, {}).get("value")
        better = not isinstance(was, int | float) or not isinstance(line["value"], int | float)
        if better or (line["value"] < was if line["goal"] == "min" else line["value"] > was):
            best[key] = {name: line[name] for name in ("value", "run")}
    old = _object(before.get("known"))
    known = {kind: sorted({*_list(old.get(kind)), *names}) for kind, names in data["known"].items()}
    return {"project": data["project"], "until": data["until"], "best": best, "known": known}


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
