"""labctl login."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from labcluster.adapters.dex_client import Dex, write_private
from labcluster.cli import output
from labcluster.cli.session import client, token_file
from labcluster.cli.settings import MUNGE, TOKEN, Settings, load, user_folder
from labcluster.errors import UsageError


@click.command()
@click.option(
    "--portal",
    metavar="URL",
    help="Make this machine one of that portal's, e.g. https://portal.lab.internal.",
)
@click.option(
    "--ca",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Certificate of the site's authority; login nodes have it as /etc/labcluster/ca.crt.",
)
def command(portal: str | None, ca: Path | None) -> None:
    """Log in with the name and password of the cluster, in any browser.

    On a login node only kubectl needs it. On another machine labctl works after it like on a login node; the
    first time with --portal and --ca, which are remembered.
    """
    if (portal is None) is not (ca is None):
        raise UsageError("--portal and --ca go together: the portal's address and what proves it")
    if portal is not None and ca is not None:
        if not portal.startswith("https://"):
            raise UsageError(f"--portal {portal}: must begin with https://")
        settings = Settings(portal, "", str(ca), login=TOKEN)
    else:
        settings = load()
    site: dict[str, Any] = client(settings, lambda: "none").get("/site")
    if portal is not None and ca is not None:
        settings = _remember(portal, site["cluster"], ca)
    place = site["login"]
    name = place["client_id"] if settings.login == MUNGE else place["client_id_elsewhere"]
    dex = Dex(place["issuer"], name, settings.ca)
    device = dex.begin()
    output.say(f"Open this page in a browser and log in, if it shows the code {device.user_code}:")
    output.say("")
    output.say(f"    {device.url}")
    output.say("")
    tokens = dex.wait(device)
    me = client(settings, lambda: tokens.id_token).get("/whoami")
    token_file(settings).save(tokens)
    output.say(f"logged in to {site['cluster']} as {me['user']}; labctl renews the login by itself")


def _remember(portal: str, cluster: str, ca: Path) -> Settings:
    """Write the person's own labctl.toml, and the authority's certificate beside it."""
    folder = Path(user_folder())
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    kept = folder / "ca.crt"
    write_private(kept, ca.read_text())
    settings = Settings(portal.rstrip("/"), cluster, str(kept), login=TOKEN)
    given = {key: value for key, value in settings._asdict().items() if value is not None}
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in given.items()]
    write_private(folder / "labctl.toml", "# Written by labctl login.\n" + "".join(lines))
    return settings
