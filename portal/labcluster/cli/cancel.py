"""labctl cancel."""

from __future__ import annotations

from typing import Any

import click

from labcluster.cli import output
from labcluster.cli.parameters import RunType, dry_run_option, json_option
from labcluster.cli.session import build
from labcluster.errors import UsageError


@click.command()
@click.argument("runs", type=RunType(), nargs=-1, required=True, metavar="RUN...")
@click.option("--index", metavar="INDEXES", help="Of an array: only these members, as in 3,7-9.")
@click.option(
    "--requeue",
    is_flag=True,
    help="Queue it again; of an array, without --index, what runs or ended without success.",
)
@dry_run_option
@json_option
def command(runs: tuple[str, ...], index: str | None, requeue: bool, dry_run: bool, as_json: bool) -> None:
    """End runs that wait or run.

    RUN is a run, an array, or one member of an array, such as vision-12.3. A running command gets SIGTERM
    and has 25 seconds to save its work. With --requeue the run then waits for its next attempt, also one
    that had ended already.
    """
    if index is not None and len(runs) > 1:
        raise UsageError("--index is for one array: name one RUN")
    portal = build()
    # All are looked up first: a mistyped id ends nothing.
    found = [portal.get(f"/runs/{run}") for run in runs]
    if dry_run:
        if as_json:
            output.emit_json(found)
        for run in [] if as_json else found:
            print(_would(run, index, requeue))
        return
    verb = "requeue" if requeue else "cancel"
    ended = [portal.post(f"/runs/{run['id']}/{verb}", query={"index": index}) for run in found]
    if as_json:
        output.emit_json(ended)
        return
    for before, after in zip(found, ended, strict=True):
        state = after["state"].replace("_", " ")
        if after.get("array"):
            print(f"{after['id']} now: {output.members(after, words=True)}")
        elif requeue:
            print(f"{after['id']} {state}, attempt {after['attempt']}")
        elif before["state"] in output.ACTIVE:
            print(f"{after['id']} {state}")
        else:
            print(f"{after['id']} had {state} already")


def _would(run: dict[str, Any], index: str | None, requeue: bool) -> str:
    verb = "be queued again" if requeue else "be cancelled"
    if run.get("array"):
        which = f"of its members {index}" if index else "of its members"
        what = "those that run or ended without success" if requeue and not index else "what has not ended"
        return f"{run['id']} has {output.members(run, words=True)}: {which} {what} would {verb}"
    stays = run["state"] not in output.ACTIVE and not requeue
    return f"{run['id']} is {run['state']} and would {'stay' if stays else verb}"
