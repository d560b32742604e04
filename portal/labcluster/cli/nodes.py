"""labctl nodes."""

from __future__ import annotations

from typing import Any

import click

from labcluster.cli import output
from labcluster.cli.output import Column
from labcluster.cli.parameters import json_option
from labcluster.cli.quantities import show_bytes
from labcluster.cli.session import build


@click.command()
@json_option
def command(as_json: bool) -> None:
    """Show the nodes and what is free on them."""
    nodes: list[dict[str, Any]] = build().get("/nodes")["items"]
    if as_json:
        output.emit_json(nodes)
        return
    if not nodes:
        output.say("the cluster has no nodes that run anything")
        return
    columns = [Column("NODE"), Column("STATE"), Column("GPUS FREE", right=True)]
    columns += [Column("CPUS FREE", right=True), Column("MEMORY FREE", right=True), Column("RUNS", wrap=True)]
    rows = [
        [
            node["name"],
            "ready" if node["ready"] else "not ready",
            f"{node['gpus'] - node['gpus_used']} of {node['gpus']}",
            f"{node['cpus'] - node['cpus_used']:.3g} of {node['cpus']:g}",
            f"{show_bytes(node['memory'] - node['memory_used'])} of {show_bytes(node['memory'])}",
            " ".join(node["runs"]),
        ]
        for node in nodes
    ]
    output.table(columns, rows)
