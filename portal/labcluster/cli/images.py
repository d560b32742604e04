"""labctl images."""

from __future__ import annotations

import click

from labcluster.cli import output
from labcluster.cli.output import Column
from labcluster.cli.parameters import ProjectType, json_option
from labcluster.cli.session import build


@click.command()
@click.option("-p", "--project", type=ProjectType(), help="Those of this project, and the common ones.")
@json_option
def command(project: str | None, as_json: bool) -> None:
    """List the images that a run may use."""
    images = build().get("/images", {"project": project})["items"]
    if as_json:
        output.emit_json(images)
        return
    if not images:
        output.say("the registry has no image that you may use: ask your administrator")
        return
    # What one types after --image: without the registry's host, and common ones without a folder.
    names = [image["reference"].split("/", 1)[-1].removeprefix("common/") for image in images]
    # A person needs it to compare, a program to use.
    length = len("sha256:") + (12 if output.fancy() else 64)
    rows = [[name, image["digest"][:length]] for name, image in zip(names, images, strict=True)]
    output.table([Column("IMAGE"), Column("DIGEST")], rows)
