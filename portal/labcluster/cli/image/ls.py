"""labctl image ls."""

from __future__ import annotations

from typing import Any

import click

from labcluster.cli import output
from labcluster.cli.output import Column
from labcluster.cli.parameters import ProjectType, json_option
from labcluster.cli.quantities import show_bytes
from labcluster.cli.session import build


@click.command()
@click.option("-p", "--project", type=ProjectType(), help="Those of this project, and the common ones.")
@json_option
def command(project: str | None, as_json: bool) -> None:
    """List the images that a run may use, and how much of its share each project uses."""
    found = build().get("/images", {"project": project})
    if as_json:
        output.emit_json(found)
        return
    if found["items"]:
        # A person needs the digest to compare, a program to use.
        length = len("sha256:") + (12 if output.fancy() else 64)
        rows = [
            [short_name(image["reference"]), _size(image["size_bytes"]), image["digest"][:length]]
            for image in found["items"]
        ]
        output.table([Column("IMAGE"), Column("SIZE", right=True), Column("DIGEST")], rows)
    else:
        output.say("the registry has no image that you may use: ask your administrator")
    for usage in found["usage"]:
        output.say(_usage(usage))


def short_name(reference: str) -> str:
    """What one types after --image: without the registry's host, and common ones without a folder."""
    return reference.split("/", 1)[-1].removeprefix("common/")


def _size(count: int | None) -> str:
    return "" if count is None else show_bytes(count)


def _usage(usage: dict[str, Any]) -> str:
    used, quota = usage["used_bytes"], usage["quota_bytes"]
    words = "an unknown amount" if used is None else show_bytes(used)
    limit = f" of {show_bytes(quota)}" if quota is not None else ""
    return f"project {usage['project']} uses {words}{limit} in the registry"
