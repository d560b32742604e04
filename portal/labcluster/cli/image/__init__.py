"""labctl image: images of the site's registry."""

from __future__ import annotations

import click

from labcluster.cli.lazy import LazyGroup

SECTIONS = {
    "Commands": {
        "ls": ("labcluster.cli.image.ls", "List the images that a run may use."),
        "build": ("labcluster.cli.image.build", "Build an image from a Containerfile, and push it."),
        "push": ("labcluster.cli.image.push", "Push an image of this machine or out of a file."),
        "rm": ("labcluster.cli.image.rm", "Remove an image from the registry."),
    }
}


@click.group(cls=LazyGroup, sections=SECTIONS)
def command() -> None:
    """Images that runs use: list, build, push and remove them.

    A project's images are called PROJECT/NAME:TAG; its members push and pull them. Everybody may use
    those of common/.
    """
