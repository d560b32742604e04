"""labctl image rm."""

from __future__ import annotations

import click

from labcluster.cli import output
from labcluster.cli.parameters import dry_run_option, json_option
from labcluster.cli.session import build


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME:TAG...")
@dry_run_option
@json_option
def command(names: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Remove images of your projects from the registry.

    NAME@sha256:… removes an image with all its tags. One that a waiting or running run needs stays. The
    project's use falls at once; the disk is freed by the registry's next garbage collection.
    """
    portal = build()
    removed = [portal.delete(f"/images/{name}", {"dry_run": dry_run or None}) for name in names]
    if as_json:
        output.emit_json(removed)
        return
    for image in removed:
        tags = ", ".join(image["tags"]) or "no tag"
        verb = "would remove" if dry_run else "removed"
        print(f"{verb} {image['repository']} ({tags}) {image['digest'][:19]}")
