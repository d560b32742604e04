"""labctl passwd."""

from __future__ import annotations

import sys

import click

from labcluster.cli.parameters import new_password
from labcluster.cli.session import build
from labcluster.errors import UsageError


@click.command()
@click.option(
    "--password-stdin",
    is_flag=True,
    help="Read the old and the new password from two lines of standard input.",
)
def command(password_stdin: bool) -> None:
    """Change your password.

    It is the one for ssh with a password, for labctl login elsewhere, and for the registry. Sessions go on.
    """
    if password_stdin:
        old = sys.stdin.readline().rstrip("\n")
        if not old:
            raise UsageError(
                "--password-stdin: give the old password in the first line, the new one in the second"
            )
    else:
        old = click.prompt("Old password", hide_input=True, err=True)
    new = new_password("New password", from_stdin=password_stdin)
    build().put("/password", {"old": old, "new": new})
    print("your password is changed")
