"""`labctl validate SITE`: check a site's inventory folder before anything touches a node."""

from __future__ import annotations

import json
from pathlib import Path

import click

from labcluster.errors import UsageError


def declared_variables(roles: Path) -> frozenset[str]:
    """Names of the variables that the argument specs of the roles in a folder declare."""
    import yaml

    names: set[str] = set()
    for specs in sorted(roles.glob("*/meta/argument_specs.yml")):
        for entry in yaml.safe_load(specs.read_text())["argument_specs"].values():
            names |= set(entry.get("options") or {})
    return frozenset(names)


@click.command()
@click.argument("site", type=click.Path(path_type=Path))
@click.option(
    "--roles", type=click.Path(path_type=Path), help="folder of roles whose variables the site may set"
)
@click.option("--json", "as_json", is_flag=True, help="print the problems as JSON")
def validate(site: Path, roles: Path | None, as_json: bool) -> None:
    """Check a site's inventory folder: every value, and every value against the others.

    Prints one line a problem (where: what is wrong and what to do) and exits with 2 if there is one.
    """
    from labcluster.adapters.inventory import read_inventory
    from labcluster.services.site import check_site

    problems = check_site(read_inventory(site), declared_variables(roles) if roles else None)
    if as_json:
        click.echo(json.dumps({"problems": [{"where": p.where, "what": p.what} for p in problems]}))
    else:
        for problem in problems:
            click.echo(str(problem), err=True)
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise UsageError(f"{site}: {count}; nothing was changed")
    if not as_json:
        click.echo(f"{site}: the site is complete and consistent")
