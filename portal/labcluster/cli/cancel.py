"""labctl cancel."""

from __future__ import annotations

import click

from labcluster.cli import output
from labcluster.cli.parameters import RunType, dry_run_option, json_option
from labcluster.cli.session import build


@click.command()
@click.argument("runs", type=RunType(), nargs=-1, required=True, metavar="RUN...")
@dry_run_option
@json_option
def command(runs: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """End runs that wait or run.

    A running command gets SIGTERM and has 25 seconds to save its work.
    """
    portal = build()
    # All are looked up first: a mistyped id ends nothing.
    found = [portal.get(f"/runs/{run}") for run in runs]
    if dry_run:
        if as_json:
            output.emit_json(found)
        for run in [] if as_json else found:
            would = "would be cancelled" if run["state"] in output.ACTIVE else "would stay"
            print(f"{run['id']} is {run['state']} and {would}")
        return
    ended = [portal.post(f"/runs/{run['id']}/cancel") for run in found]
    if as_json:
        output.emit_json(ended)
        return
    for before, after in zip(found, ended, strict=True):
        if before["state"] in output.ACTIVE:
            print(f"{after['id']} {after['state'].replace('_', ' ')}")
        else:
            print(f"{after['id']} had {after['state'].replace('_', ' ')} already")
