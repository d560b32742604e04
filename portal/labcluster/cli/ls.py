"""labctl ls."""

from __future__ import annotations

from typing import Any

import click

from labcluster.cli import output
from labcluster.cli.output import Column
from labcluster.cli.parameters import STATES, ProjectType, json_option, user_name
from labcluster.cli.session import build


@click.command()
@click.option("-a", "--all", "everybody", is_flag=True, help="Runs of everybody in your projects.")
@click.option("-u", "--user", help="Runs of this user.  [default: yours]")
@click.option("-p", "--project", type=ProjectType(), help="Only runs of this project.")
@click.option(
    "-s",
    "--state",
    type=click.Choice(STATES),
    metavar="STATE",
    help="Only runs in this state, as in the table.",
)
@click.option(
    "-l", "--limit", type=click.IntRange(1, 1000), default=20, metavar="N", help="How many.  [default: 20]"
)
@json_option
def command(
    everybody: bool, user: str | None, project: str | None, state: str | None, limit: int, as_json: bool
) -> None:
    """List runs, newest first.

    An array is one row: labctl show lists its members.
    """
    who = None if everybody else user or user_name()
    query = {"project": project, "user": who, "state": state, "limit": limit}
    runs: list[dict[str, Any]] = build().get("/runs", query)["items"]
    if as_json:
        output.emit_json(runs)
        return
    if not runs:
        filtered = everybody or user or project or state
        output.say("no runs" if filtered else "you have no runs: labctl submit -- COMMAND makes one")
        return
    columns = [Column("RUN"), Column("STATE"), Column("NAME"), Column("USER"), Column("GPUS", right=True)]
    columns += [Column("SUBMITTED"), Column("TOOK", right=True), Column("NODE")]
    arrays = any(run.get("array") for run in runs)
    columns += [Column("MEMBERS", wrap=True)] if arrays else []
    rows = [
        [
            run["id"],
            run["state"],
            run["name"],
            run["user"],
            run["gpus"] * run.get("nodes", 1),
            output.when(run["submitted_at"]),
            output.took(run),
            run["node"],
            *([output.members(run)] if arrays else []),
        ]
        for run in runs
    ]
    output.table(columns, rows)
