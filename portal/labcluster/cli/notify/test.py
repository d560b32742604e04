"""labctl notify test."""

from __future__ import annotations

import time
from typing import Any

import click

from labcluster.cli.notify.parameters import matches, name_argument, path, project_option
from labcluster.cli.session import build
from labcluster.errors import LabclusterError, NotFoundError

_PATIENCE_SECONDS = 40.0
_POLL_SECONDS = 1.0


@click.command()
@name_argument
@project_option
def command(name: str, project: str | None) -> None:
    """Send a notice now, and say whether it arrived.

    It may take some seconds.
    """
    portal = build()
    before = portal.post(path(name, project) + "/test")
    until = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < until:
        time.sleep(_POLL_SECONDS)
        now = _find(portal.get("/receivers")["items"], name, project)
        if now["delivered_at"] != before["delivered_at"]:
            print(f"{name}: delivered to {now['where']}")
            return
        if now["trouble"] and now["waiting"] < before["waiting"]:
            raise LabclusterError(f"{name}: {now['where']} did not take it: {now['trouble']}")
    raise LabclusterError(
        f"{name}: not delivered after {_PATIENCE_SECONDS:.0f} s: labctl notify ls shows more"
    )


def _find(receivers: list[dict[str, Any]], name: str, project: str | None) -> dict[str, Any]:
    for receiver in receivers:
        if matches(receiver, name, project):
            return receiver
    raise NotFoundError(f"{name} was removed meanwhile")
