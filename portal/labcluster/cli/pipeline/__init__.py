"""labctl pipeline: tasks of labcluster.pipeline as runs."""

from __future__ import annotations

import click

from labcluster.cli.lazy import LazyGroup

SECTIONS = {
    "Commands": {
        "run": (
            "labcluster.cli.pipeline.run",
            "Run a pipeline: here, in one run, or each heavy task as its own.",
        ),
    }
}


@click.group(cls=LazyGroup, sections=SECTIONS)
def command() -> None:
    """Run pipelines: tasks that are done once for the same parameters and code."""
