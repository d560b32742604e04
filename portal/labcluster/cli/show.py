"""labctl show."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import click

from labcluster.cli import output
from labcluster.cli.parameters import RunType, json_option
from labcluster.cli.quantities import show_seconds
from labcluster.cli.session import build


@click.command()
@click.argument("run", type=RunType())
@json_option
def command(run: str, as_json: bool) -> None:
    """Show all that is known about a run."""
    found = build().get(f"/runs/{run}")
    if as_json:
        output.emit_json(found)
    else:
        show(found)


def show(run: Mapping[str, Any]) -> None:
    """A run, or what would become one (then it has no id and no state)."""
    if run.get("id"):
        state = output.coloured(run["state"].replace("_", " "), run["state"])
        print(f"{run['id']} {run['name']}: {state}" + (f", {run['reason']}" if run["reason"] else ""))
    resources = [output.devices(run["gpus"]), f"{run['cpus']:g} CPU" + "s" * (run["cpus"] != 1)]
    resources += [f"{run['memory']} memory"]
    if run["time_seconds"]:
        resources.append(f"at most {show_seconds(run['time_seconds'])}")
    finished = output.when(run.get("finished_at"))
    if finished and run.get("started_at"):
        finished += f"  ({output.took(run)})"
    output.fields(
        [
            ("name", None if run.get("id") else run["name"]),
            ("command", shlex.join(run["command"])),
            ("directory", run["workdir"]),
            ("environment", " ".join(f"{key}={shlex.quote(text)}" for key, text in run["env"].items())),
            ("project", run["project"]),
            ("user", f"{run['user']} (uid {run['uid']}, gid {run['gid']})"),
            ("resources", ", ".join(resources)),
            ("image", run["image"]),
            ("digest", run["image_digest"]),
            ("submitted", output.when(run.get("submitted_at"))),
            ("started", output.when(run.get("started_at"))),
            ("finished", finished),
            ("exit status", run.get("exit_code")),
            ("node", run.get("node")),
            ("files", run.get("directory")),
        ]
    )
