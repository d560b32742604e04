"""labctl notify read."""

from __future__ import annotations

import time
from typing import Any

import click

from labcluster.cli import output
from labcluster.cli.notify.parameters import name_argument, path, project_option
from labcluster.cli.parameters import json_option
from labcluster.cli.session import build
from labcluster.errors import UnreachableError

_POLL_SECONDS = 10.0


@click.command()
@name_argument
@project_option
@click.option("-f", "--follow", is_flag=True, help="Go on with those that come, until Ctrl-C.")
@click.option(
    "-l", "--limit", type=click.IntRange(1, 1000), default=100, metavar="N", help="How many.  [default: 100]"
)
@json_option
def command(name: str, project: str | None, follow: bool, limit: int, as_json: bool) -> None:
    """Print the notices of an inbox.

    One line each, oldest first; they are kept for 30 days. To have them in a file:

    \b
      labctl notify read me --follow >> ~/notices.log
    """
    portal = build()
    at = path(name, project) + "/notices"
    found = portal.get(at, {"limit": limit})["items"]
    if as_json and not follow:
        output.emit_json(found)
        return
    _print(found, as_json)
    last = found[-1]["at"] if found else None
    while follow:
        time.sleep(_POLL_SECONDS)
        try:
            found = portal.get(at, {"limit": 1000, "since": last})["items"]
        except UnreachableError as error:
            output.say(f"trying again: {error.detail}")
            continue
        _print(found, as_json)
        last = found[-1]["at"] if found else last


def _print(notices: list[dict[str, Any]], as_json: bool) -> None:
    import json

    for notice in notices:
        told = f"{output.when(notice['at'])}  {notice['text']}"
        line = json.dumps(notice, ensure_ascii=False) if as_json else told
        print(line, flush=True)
