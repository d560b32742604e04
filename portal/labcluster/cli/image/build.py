"""labctl image build."""

from __future__ import annotations

import click

from labcluster.cli.image.push import tell
from labcluster.cli.parameters import json_option
from labcluster.cli.session import build
from labcluster.errors import UsageError


@click.command()
@click.option(
    "-f",
    "--file",
    "file",
    type=click.Path(exists=True, dir_okay=False),
    help="Containerfile.  [default: CONTEXT/Containerfile]",
)
@click.option(
    "-t", "--tag", "name", required=True, metavar="PROJECT/NAME:TAG", help="What the image is called."
)
@click.option("--build-arg", "arguments", multiple=True, metavar="K=V", help="Value of an ARG. Repeatable.")
@click.option("--no-push", is_flag=True, help="Leave it on this machine: see buildah images.")
@click.argument("context", type=click.Path(exists=True, file_okay=False), default=".")
@json_option
def command(
    file: str | None, name: str, arguments: tuple[str, ...], no_push: bool, context: str, as_json: bool
) -> None:
    """Build an image from a Containerfile on this machine without any privilege, and push it.

    Base images come from the site's registry: FROM common/python-ml:TAG (labctl image ls).

    \b
      labctl image build -t vision/net:1 .
      labctl submit --image vision/net:1 -- python3 train.py
    """
    from labcluster.adapters.image_tools import ImageTools, containerfile_in

    found = file or containerfile_in(context)
    if found is None:
        raise UsageError(f"{context} has no Containerfile: name one with --file")
    # Asked before the work: whoever may not push learns it now.
    login = build().post("/images/login", {"push": None if no_push else name})
    with ImageTools(login) as tools:
        reference = tools.reference(name)
        tools.build(found, context, reference, arguments)
        pushed = {"reference": reference} if no_push else tools.push(reference, reference)
    tell(pushed, as_json)
