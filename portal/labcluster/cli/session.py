"""Where labctl's parts are put together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from labcluster.cli import output
from labcluster.cli.settings import load

if TYPE_CHECKING:
    from labcluster.adapters.portal import Portal


def build() -> Portal:
    """A client of this machine's portal; nothing is connected before the first request."""
    from labcluster.adapters.portal import Portal  # brings ssl and http.client: not for --help

    settings = load()
    portal = Portal(settings.portal, settings.cluster, settings.ca, notice=output.say)
    context = click.get_current_context(silent=True)
    if context is not None:
        context.call_on_close(portal.close)
    return portal
