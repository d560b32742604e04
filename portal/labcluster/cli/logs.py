"""labctl logs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from labcluster.cli import output
from labcluster.cli.parameters import RunType
from labcluster.cli.session import build
from labcluster.errors import UsageError

if TYPE_CHECKING:
    from labcluster.adapters.portal import Portal


@click.command()
@click.argument("run", type=RunType())
@click.option("-f", "--follow", is_flag=True, help="Go on until the run ends, then end with its exit status.")
@click.option(
    "--rank",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Of a run on several nodes: which of its pods (0 to --nodes - 1).",
)
def command(run: str, follow: bool, rank: int) -> int | None:
    """Print what a run printed.

    Both of its output streams, in order; of an array name a member, as in vision-12.3. Of a finished run
    it is the file stdout.log in the run's directory (labctl show), or rank-N.log for the other pods of a
    run on several nodes.
    """
    portal = build()
    found = portal.get(f"/runs/{run}")
    if found.get("array"):
        raise UsageError(f"{run} is an array: name a member of {found['array']['indices']}, such as {run}.1")
    from labcluster.cli.following import exit_status, print_file, wait_for_end

    if found["state"] not in output.ACTIVE and print_file(found, rank=rank):
        if not follow:
            return None
        output.say(output.state_line(found))
        return exit_status(found)
    if follow:
        return wait_for_end(portal, found, logs=True, rank=rank)
    _print_answer(portal, found, rank)
    return None


def _print_answer(portal: Portal, run: dict[str, Any], rank: int) -> None:
    from labcluster.cli.following import of_rank

    for block in portal.stream(f"/runs/{run['id']}/logs", of_rank(rank)):
        sys.stdout.buffer.write(block)
    sys.stdout.buffer.flush()
