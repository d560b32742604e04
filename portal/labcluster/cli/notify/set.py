"""labctl notify set."""

from __future__ import annotations

import sys
from typing import Any

import click

from labcluster.cli import output
from labcluster.cli.notify.parameters import name_argument, path, project_option
from labcluster.cli.parameters import TimeType, json_option
from labcluster.cli.session import build
from labcluster.errors import UsageError

EVENTS = ("start", "end", "failure", "wait")


@click.command()
@name_argument
@project_option
@click.option(
    "--webhook", is_flag=True, help="To a webhook, whose address is asked for, or read from standard input."
)
@click.option("--mail", metavar="ADDRESS", help="To a mail address.")
@click.option("--inbox", is_flag=True, help="Keep them for labctl notify read.")
@click.option(
    "--on", "events", multiple=True, type=click.Choice(EVENTS), metavar="EVENT",
    help="start, end, failure or wait; several times.  [default: end, failure, wait]",
)  # fmt: skip
@click.option(
    "--wait", type=TimeType(), default="1h", metavar="TIME",
    help="Waiting longer than this is a wait.  [default: 1h]",
)  # fmt: skip
@json_option
def command(
    name: str,
    project: str | None,
    webhook: bool,
    mail: str | None,
    inbox: bool,
    events: tuple[str, ...],
    wait: int,
    as_json: bool,
) -> None:
    """Be told of your runs, or of a project's.

    NAME is what you call it. A webhook's address is a secret: it is never shown again.

    \b
      labctl notify set slack --webhook
      labctl notify set me --mail ada@example.org --on failure
    """
    if webhook + bool(mail) + inbox != 1:
        raise UsageError("say where to: one of --webhook, --mail ADDRESS and --inbox")
    kind = "webhook" if webhook else "mail" if mail else "inbox"
    body: dict[str, Any] = {"kind": kind, "target": _address() if webhook else mail, "wait_seconds": wait}
    if events:
        body["events"] = sorted(set(events))
    receiver = build().put(path(name, project), body)
    if as_json:
        output.emit_json(receiver)
        return
    about = f"project {project}" if project else "your runs"
    print(f"{name}: {', '.join(receiver['events'])} of {about} go to {receiver['where']}")
    output.say(f"labctl notify test {name}{f' --project {project}' if project else ''} tries it")


def _address() -> str:
    if sys.stdin.isatty():
        return str(click.prompt("Address of the webhook", hide_input=True, err=True)).strip()
    address = sys.stdin.readline().strip()
    if not address:
        raise UsageError("--webhook: standard input is empty")
    return address
