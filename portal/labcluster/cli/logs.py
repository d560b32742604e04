"""labctl logs."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from labcluster.cli import output
from labcluster.cli.parameters import RunType
from labcluster.cli.session import build

if TYPE_CHECKING:
    from labcluster.adapters.portal import Portal


@click.command()
@click.argument("run", type=RunType())
@click.option("-f", "--follow", is_flag=True, help="Go on until the run ends, then end with its exit status.")
def command(run: str, follow: bool) -> int | None:
    """Print what a run printed.

    Both of its output streams, in order. Of a finished run it is the file stdout.log in the run's
    directory (labctl show).
    """
    portal = build()
    found = portal.get(f"/runs/{run}")
    if found["state"] not in output.ACTIVE and _print_file(found):
        return None if not follow else _result(found)
    if follow:
        from labcluster.cli.following import wait_for_end

        return wait_for_end(portal, found, logs=True)
    _print_answer(portal, found)
    return None


def _print_file(run: dict[str, Any]) -> bool:
    """The run's own file, if the caller may read it here."""
    try:
        with (Path(run["directory"]) / "stdout.log").open("rb") as log:
            shutil.copyfileobj(log, sys.stdout.buffer, 1 << 20)
    except BrokenPipeError:
        raise
    except OSError:
        return False
    sys.stdout.buffer.flush()
    return True


def _print_answer(portal: Portal, run: dict[str, Any]) -> None:
    for block in portal.stream(f"/runs/{run['id']}/logs"):
        sys.stdout.buffer.write(block)
    sys.stdout.buffer.flush()


def _result(run: dict[str, Any]) -> int:
    from labcluster.cli.following import exit_status

    output.say(output.state_line(run))
    return exit_status(run)
