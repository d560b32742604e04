"""labctl image push."""

from __future__ import annotations

import click

from labcluster.cli import output
from labcluster.cli.parameters import json_option
from labcluster.cli.session import build
from labcluster.errors import UsageError


@click.command()
@click.argument("source")
@click.argument("name", required=False, metavar="[PROJECT/NAME:TAG]")
@json_option
def command(source: str, name: str | None, as_json: bool) -> None:
    """Push an image to the registry.

    SOURCE is an image of this machine (buildah images), or a file or folder that holds one: an archive
    of `docker save` or `podman save`, or OCI's layout. No password is asked: the portal knows you.

    \b
      labctl image push net.tar vision/net:1
      labctl image push localhost/net:1 vision/net:1
    """
    from labcluster.adapters.image_tools import ImageTools, archive_of

    portal = build()
    wanted = name or source
    if "/" not in wanted or wanted.startswith(("/", "./", "../", "localhost/")):
        raise UsageError("say what it is to be called: labctl image push SOURCE PROJECT/NAME:TAG")
    login = portal.post("/images/login", {"push": wanted})
    with ImageTools(login) as tools:
        pushed = tools.push(archive_of(source) or source, tools.reference(wanted))
    tell(pushed, as_json)


def tell(pushed: dict[str, str], as_json: bool) -> None:
    """How the image is called now."""
    if as_json:
        output.emit_json(pushed)
        return
    from labcluster.cli.image.ls import short_name

    print(short_name(pushed["reference"]) if not output.fancy() else f"pushed {pushed['reference']}")
