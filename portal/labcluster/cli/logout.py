"""labctl logout."""

from __future__ import annotations

import click

from labcluster.cli import output
from labcluster.cli.session import token_file
from labcluster.cli.settings import load


@click.command()
def command() -> None:
    """Forget the login of this machine.

    A token that was given out already, to kubectl for example, is good for some more minutes.
    """
    settings = load()
    gone = token_file(settings).forget()
    output.say(f"logged out of {settings.cluster}" if gone else f"nobody was logged in to {settings.cluster}")
