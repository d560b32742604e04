"""labctl proxy."""

from __future__ import annotations

import os

import click

from labcluster.cli.entering import address
from labcluster.cli.parameters import RunType
from labcluster.cli.session import build
from labcluster.errors import UsageError


@click.command()
@click.argument("run", type=RunType())
@click.option(
    "--rank", type=click.IntRange(min=0), help="Which pod of a run with several nodes.  [default: 0]"
)
def command(run: str, rank: int | None) -> None:
    """Carry one ssh connection into a run; for ssh's ProxyCommand.

    RUN may be written as a host name: vision-12.labcluster, or rank1.vision-12.labcluster. People use
    `labctl shell RUN` or `ssh RUN.labcluster`.
    """
    if os.isatty(0) or os.isatty(1):
        raise UsageError("labctl proxy speaks the ssh protocol, not to a terminal: use labctl shell")
    name, named_rank = address(run)
    portal = build()
    # asyncio and websockets cost more than all of labctl; only this verb pays for them.
    from labcluster.adapters import tunnel

    tunnel.run(portal, f"/runs/{name}/ssh", {"rank": rank or named_rank or None})
