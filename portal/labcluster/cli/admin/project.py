"""labctl admin project."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from labcluster.cli import output
from labcluster.cli.admin.changes import tell
from labcluster.cli.output import Column
from labcluster.cli.parameters import dry_run_option, json_option
from labcluster.cli.session import build


def _path(project: str, *more: str) -> str:
    return "/admin/projects/" + "/".join(quote(part, safe="") for part in (project, *more))


@click.group()
def command() -> None:
    """Create projects, list them, say who is in them."""


@command.command("create")
@click.argument("project")
@click.option("--description", default="", help="What it is about, in one line.")
@click.option("--owner", help="Member who answers for it.")
@click.option("--gpus", type=click.IntRange(min=0), required=True, metavar="N", help="GPUs that are its own.")
@click.option(
    "--max-gpus",
    type=click.IntRange(min=0),
    metavar="N",
    help="GPUs at most, borrowed ones too.  [default: --gpus]",
)
@click.option(
    "--weight",
    type=click.IntRange(min=1),
    metavar="N",
    default=1,
    help="Share of what others lend.  [default: 1]",
)
@dry_run_option
@json_option
def create(
    project: str,
    description: str,
    owner: str | None,
    gpus: int,
    max_gpus: int | None,
    weight: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Create a project, or make one be as these options say.

    The same command again changes nothing.
    """
    body: dict[str, Any] = {"description": description, "gpus": gpus, "weight": weight}
    body |= {key: value for key, value in (("max_gpus", max_gpus), ("owner", owner)) if value is not None}
    answer = build().put(_path(project), body, {"dry_run": dry_run or None})
    tell(answer, f"project {project}", dry_run=dry_run, as_json=as_json)


@command.command("ls")
@json_option
def ls(as_json: bool) -> None:
    """List the projects."""
    items: list[dict[str, Any]] = build().get("/admin/projects")["items"]
    if as_json:
        output.emit_json(items)
        return
    if not items:
        output.say("no projects: labctl admin project create NAME --gpus N makes one")
        return
    columns = [Column("PROJECT"), Column("STATE"), Column("GID", right=True), Column("OWN GPUS", right=True)]
    columns += [Column("AT MOST", right=True), Column("WEIGHT", right=True), Column("MEMBERS", wrap=True)]
    columns.append(Column("DESCRIPTION", wrap=True))
    rows = [
        [
            item["name"],
            "ready" if item["ready"] else "not ready",
            item["gid"],
            item["gpus"],
            item["max_gpus"],
            item["weight"],
            " ".join(item["members"]),
            item["description"] if item["ready"] else item["reason"],
        ]
        for item in items
    ]
    output.table(columns, rows)


@command.command("add-member")
@click.argument("project")
@click.argument("user")
@dry_run_option
@json_option
def add_member(project: str, user: str, dry_run: bool, as_json: bool) -> None:
    """Let a member work in a project."""
    answer = build().put(_path(project, "members", user), None, {"dry_run": dry_run or None})
    tell(answer, f"{user} in {project}", dry_run=dry_run, as_json=as_json)


@command.command("remove-member")
@click.argument("project")
@click.argument("user")
@dry_run_option
@json_option
def remove_member(project: str, user: str, dry_run: bool, as_json: bool) -> None:
    """End a member's work in a project; files and runs stay."""
    answer = build().delete(_path(project, "members", user), {"dry_run": dry_run or None})
    tell(answer, f"{user} in {project}", dry_run=dry_run, as_json=as_json)
