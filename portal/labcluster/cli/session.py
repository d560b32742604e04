"""Where labctl's parts are put together."""

from __future__ import annotations

from labcluster.adapters.portal import Portal
from labcluster.cli.settings import load


def build() -> Portal:
    """A client of this machine's portal; nothing is connected before the first request."""
    settings = load()
    return Portal(settings.portal, settings.cluster, settings.ca)
