"""labctl notify ls."""

from __future__ import annotations

import click

from labcluster.cli import output
from labcluster.cli.output import Column
from labcluster.cli.parameters import json_option
from labcluster.cli.session import build


@click.command()
@json_option
def command(as_json: bool) -> None:
    """List who is told, and whether it works.

    Yours, and those of your projects.
    """
    receivers = build().get("/receivers")["items"]
    if as_json:
        output.emit_json(receivers)
        return
    if not receivers:
        output.say("nobody is told anything: labctl notify set NAME")
        return
    columns = [Column("NAME"), Column("OF"), Column("TO"), Column("EVENTS"), Column("SET BY"), Column("LAST")]
    columns += [Column("LATE", right=True), Column("TROUBLE", wrap=True)]
    rows = [
        [
            receiver["name"],
            receiver["owner"] if receiver["scope"] == "user" else f"project {receiver['owner']}",
            f"{receiver['kind']} {receiver['where']}" if receiver["kind"] != "inbox" else "inbox",
            ",".join(receiver["events"]),
            receiver["set_by"],
            output.when(receiver["delivered_at"]),
            receiver["waiting"] or None,
            receiver["trouble"],
        ]
        for receiver in receivers
    ]
    output.table(columns, rows)
