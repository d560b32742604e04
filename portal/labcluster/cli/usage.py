# ruff: noqa: ARG002 - the signature of convert is click's
"""labctl usage."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import click

from labcluster.cli import output
from labcluster.cli.output import Column
from labcluster.cli.parameters import ProjectType, json_option
from labcluster.cli.quantities import parse_time, show_bytes, show_seconds
from labcluster.cli.session import build
from labcluster.errors import UsageError


class MomentType(click.ParamType[datetime]):
    """A date, a time, or how long ago."""

    name = "when"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """The point in time of `30d`, `12h`, `2026-11-01` or `2026-11-01T08:00`."""
        if isinstance(value, datetime):
            return value
        try:
            return datetime.fromisoformat(value).astimezone()
        except ValueError:
            pass
        try:
            return datetime.now(UTC) - timedelta(seconds=parse_time(value))
        except UsageError:
            name = f"--{param.name}" if param else "the time"
            raise UsageError(f"{name} {value!r} is no time: write 30d, 12h or 2026-11-01") from None


@click.command()
@click.option("--since", type=MomentType(), help="From then on: 30d, 12h, 2026-11-01.  [default: 30d]")
@click.option("--until", type=MomentType(), help="Up to then, likewise.  [default: now]")
@click.option("-p", "--project", type=ProjectType(), help="Only this project.")
@click.option("-u", "--user", help="Only this user.")
@json_option
def command(
    since: datetime | None, until: datetime | None, project: str | None, user: str | None, as_json: bool
) -> None:
    """Show who used how much of GPUs, processors and storage.

    Of your own projects and their users; administrators see all. A run counts with the part of its time
    that lies within. WAIT is the median time from submission to start.
    """
    query = {
        "since": since.isoformat() if since else None,
        "until": until.isoformat() if until else None,
        "project": project,
        "user": user,
    }
    usage: dict[str, Any] = build().get("/usage", query)
    if as_json:
        output.emit_json(usage)
        return
    output.table(_columns("PROJECT", "LIMIT", "IMAGES"), [_project(line) for line in usage["projects"]])
    if usage["users"]:
        print()
        output.table(_columns("USER"), [_row(line) for line in usage["users"]])
    output.say(f"from {output.when(usage['since'])} to {output.when(usage['until'])}; {_storage(usage)}")


def _columns(title: str, *more: str) -> list[Column]:
    numbers = ["RUNS", "GPU-HOURS", "CPU-HOURS", "WAIT", "STORAGE", *more]
    return [Column(title), *(Column(name, right=True) for name in numbers)]


def _row(line: dict[str, Any]) -> list[Any]:
    stored = line["storage_bytes"]
    return [
        line["name"],
        line["runs"],
        f"{line['gpu_hours']:.1f}",
        f"{line['cpu_hours']:.1f}",
        None if line["wait_seconds"] is None else show_seconds(line["wait_seconds"]),
        None if stored is None else show_bytes(stored),
    ]


def _project(line: dict[str, Any]) -> list[Any]:
    more = (line["storage_limit_bytes"], line["registry_bytes"])
    return [*_row(line), *(None if size is None else show_bytes(size) for size in more)]


def _storage(usage: dict[str, Any]) -> str:
    measured = usage["storage_measured_at"]
    if measured is None:
        return "storage was not measured yet"
    limits = "" if usage["storage_enforced"] else "; this file system has no quotas: limits are not enforced"
    return f"storage as of {output.when(measured)}{limits}"
