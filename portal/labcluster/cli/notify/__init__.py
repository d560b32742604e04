"""labctl notify: be told what becomes of runs."""

from __future__ import annotations

import click

from labcluster.cli.lazy import LazyGroup

SECTIONS = {
    "Commands": {
        "set": ("labcluster.cli.notify.set", "Be told of your runs, or of a project's."),
        "ls": ("labcluster.cli.notify.ls", "List who is told, and whether it works."),
        "test": ("labcluster.cli.notify.test", "Send a notice now, and say whether it arrived."),
        "read": ("labcluster.cli.notify.read", "Print the notices of an inbox."),
        "rm": ("labcluster.cli.notify.rm", "Be told no more."),
    }
}


@click.group(cls=LazyGroup, sections=SECTIONS)
def command() -> None:
    """Be told what becomes of runs: start, end, failure, long waits.

    By a webhook (as Slack, Mattermost and others take it), by mail, or in an inbox that labctl reads.
    """
