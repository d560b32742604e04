"""labctl attach."""

from __future__ import annotations

import click

from labcluster.cli.entering import address
from labcluster.cli.parameters import RunType
from labcluster.cli.session import build


@click.command()
@click.argument("run", type=RunType())
def command(run: str) -> int:
    """Follow a run's output until its end, and end with its exit status.

    Ctrl-C detaches and leaves the run alone. Nothing can be typed into a run: its standard input is
    /dev/null, so that it never waits for anybody. `labctl shell RUN` opens a shell beside it.
    """
    portal = build()
    found = portal.get(f"/runs/{address(run)[0]}")
    from labcluster.cli import output
    from labcluster.cli.following import exit_status, print_file, wait_for_end

    if found["state"] not in output.ACTIVE and print_file(found):
        output.say(output.state_line(found))
        return exit_status(found)
    return wait_for_end(portal, found, logs=True)
