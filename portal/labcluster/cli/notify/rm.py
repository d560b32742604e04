"""labctl notify rm."""

from __future__ import annotations

import click

from labcluster.cli.notify.parameters import name_argument, path, project_option
from labcluster.cli.session import build


@click.command()
@name_argument
@project_option
def command(name: str, project: str | None) -> None:
    """Be told no more.

    What was still to be delivered is dropped.
    """
    build().delete(path(name, project))
    print(f"removed {name}")
