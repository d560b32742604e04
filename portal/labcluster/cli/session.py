"""Where labctl's parts are put together."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from labcluster.cli import output
from labcluster.cli.settings import TOKEN, Settings, load

if TYPE_CHECKING:
    from labcluster.adapters.dex_client import TokenFile
    from labcluster.adapters.portal import Portal


def build() -> Portal:
    """A client of this machine's portal; nothing is connected before the first request."""
    settings = load()
    bearer = bearer_of(settings) if settings.login == TOKEN else None
    return client(settings, bearer)


def client(settings: Settings, bearer: Callable[[], str] | None) -> Portal:
    """A client of the portal that these settings name; without tokens munge proves who asks."""
    from labcluster.adapters.portal import Portal  # brings ssl and http.client: not for --help

    portal = Portal(settings.portal, settings.cluster, settings.ca, bearer=bearer, notice=output.say)
    context = click.get_current_context(silent=True)
    if context is not None:
        context.call_on_close(portal.close)
    return portal


def bearer_of(settings: Settings) -> Callable[[], str]:
    """Gives the person's token, renewed in time."""
    return lambda: token_file(settings).current().id_token


def token_file(settings: Settings) -> TokenFile:
    """Where the tokens of this person for this cluster are kept."""
    from pathlib import Path

    from labcluster.adapters.dex_client import TokenFile

    base = os.environ.get("XDG_STATE_HOME")
    folder = Path(base) if base else Path.home() / ".local" / "state"
    return TokenFile(folder / "labcluster" / f"{settings.cluster}.json")
