"""labctl notebook: notebooks as runs."""

from __future__ import annotations

import click

from labcluster.cli.lazy import LazyGroup

SECTIONS = {
    "Commands": {
        "run": ("labcluster.cli.notebook.run", "Run a notebook on the cluster, with parameters."),
    }
}


@click.group(cls=LazyGroup, sections=SECTIONS)
def command() -> None:
    """Run notebooks on the cluster."""
