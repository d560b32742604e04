"""labctl version."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed

import click

from labcluster.cli import output
from labcluster.cli.parameters import json_option
from labcluster.cli.settings import load
from labcluster.errors import UsageError


def own_version() -> str:
    """The version of labctl; `unknown` where it runs from files that were never installed."""
    try:
        return installed("labcluster")
    except PackageNotFoundError:
        return "unknown"


@click.command()
@json_option
def command(as_json: bool) -> None:
    """Show versions and the portal in use."""
    own = own_version()
    try:
        portal: str | None = load().portal
    except UsageError:
        portal = None  # a machine that is no login node still knows its version
    if as_json:
        output.emit_json({"labctl": own, "python": platform.python_version(), "portal": portal})
        return
    print(f"labctl {own} (Python {platform.python_version()})" + (f", portal {portal}" if portal else ""))
