"""labctl cancel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from labcluster.cli import output
from labcluster.cli.parameters import RunType, dry_run_option, json_option
from labcluster.cli.session import build
from labcluster.errors import UsageError

if TYPE_CHECKING:
    from labcluster.adapters.portal import Portal

# As many as the portal takes in one request.
_AT_ONCE = 1000


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
def command(
    runs: tuple[str, ...], index: str | None, requeue: bool, dry_run: bool, as_json: bool
) -> int | None:
    """End runs that wait or run.

    RUN is a run, an array, or one member of an array, such as vision-12.3. A running command gets SIGTERM
    and has 25 seconds to save its work. With --requeue the run then waits for its next attempt, also one
    that had ended already.
    """
    if index is not None and len(runs) > 1:
        raise UsageError("--index is for one array: name one RUN")
    portal = build()
    if len(runs) > 1 and not requeue:
        return _cancel_all(portal, list(dict.fromkeys(runs)), dry_run=dry_run, as_json=as_json)
    # All are looked up first: a mistyped id ends nothing.
    found = [portal.get(f"/runs/{run}") for run in runs]
    if dry_run:
        if as_json:
            output.emit_json(found)
        for run in [] if as_json else found:
            print(_would(run, index, requeue))
        return None
    verb = "requeue" if requeue else "cancel"
    ended = [portal.post(f"/runs/{run['id']}/{verb}", query={"index": index}) for run in found]
    if as_json:
        output.emit_json(ended)
        return None
    for before, after in zip(found, ended, strict=True):
        _say(before, after, requeue)
    return None


def _cancel_all(portal: Portal, runs: list[str], *, dry_run: bool, as_json: bool) -> int | None:
    """End many with few requests: each costs a signature and a round trip."""
    groups = [runs[begin : begin + _AT_ONCE] for begin in range(0, len(runs), _AT_ONCE)]
    # Of more than fit into one request all are looked up first: a mistyped id ends nothing.
    found: list[dict[str, Any]] = []
    for only_look in [True] if dry_run else [True, False] if len(groups) > 1 else [False]:
        found = []
        for ids in groups:
            body = {"ids": ids, "dry_run": only_look}
            found += portal.post("/runs/cancel", body)["items"]
    if as_json:
        output.emit_json([item["after"] or item["before"] for item in found])
    for item in [] if as_json else found:
        if dry_run:
            print(_would(item["before"], None, requeue=False))
        elif item["after"]:
            _say(item["before"], item["after"], requeue=False)
    failed = [item for item in found if item["problem"]]
    for item in failed:
        output.say(f"labctl: {item['before']['id']} was not cancelled: {item['problem']}")
    return int(failed[0]["code"] or 1) if failed else None


def _say(before: dict[str, Any], after: dict[str, Any], requeue: bool) -> None:
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
