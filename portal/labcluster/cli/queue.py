"""labctl queue."""

from __future__ import annotations

from typing import Any

import click

from labcluster.cli import output
from labcluster.cli.output import Column
from labcluster.cli.parameters import json_option
from labcluster.cli.session import build


@click.command()
@json_option
def command(as_json: bool) -> None:
    """Show what runs and what waits, and why."""
    items: list[dict[str, Any]] = build().get("/queue")["items"]
    if as_json:
        output.emit_json(items)
        return
    if not items:
        output.say("nothing runs and nothing waits")
        return
    columns = [Column("POS", right=True), Column("RUN"), Column("STATE"), Column("NAME"), Column("USER")]
    columns += [
        Column("PRIORITY"),
        Column("GPUS", right=True),
        Column("SUBMITTED"),
        Column("REASON", wrap=True),
    ]
    rows = [
        [
            item["position"],
            item["run"],
            item["state"],
            item["name"],
            item["user"],
            item.get("priority"),
            item["gpus"],
            output.when(item["submitted_at"]),
            item["reason"],
        ]
        for item in items
    ]
    output.table(columns, rows)
