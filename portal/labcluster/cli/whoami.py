"""labctl whoami."""

from __future__ import annotations

import click

from labcluster.cli import output
from labcluster.cli.output import Column
from labcluster.cli.parameters import json_option
from labcluster.cli.session import build


@click.command()
@json_option
def command(as_json: bool) -> None:
    """Show who you are to the cluster, and your projects."""
    me = build().get("/whoami")
    if as_json:
        output.emit_json(me)
        return
    print(f"{me['user']} (uid {me['uid']})" + (", an administrator" if me["admin"] else ""))
    if not me["projects"]:
        output.say("you are in no project" + ("" if me["admin"] else ": ask your administrator"))
        return
    columns = [Column("PROJECT"), Column("GID", right=True), Column("OWN GPUS", right=True)]
    columns += [Column("AT MOST", right=True), Column("FILES")]
    rows = [
        [
            project["name"],
            project["gid"],
            project["gpus"],
            project["max_gpus"],
            f"/lab/projects/{project['name']}",
        ]
        for project in me["projects"]
    ]
    output.table(columns, rows)
