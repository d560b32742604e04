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
from labcluster.errors import UsageError


def _path(project: str, *more: str) -> str:
    return "/admin/projects/" + "/".join(quote(part, safe="") for part in (project, *more))


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


@click.group()
def command() -> None:
    """Create, change and remove projects, say who is in them."""


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
@click.option("--storage", type=click.IntRange(min=0), metavar="GIB", help="Quota on /lab in GiB; 0 is none.")
@click.option(
    "--registry", type=click.IntRange(min=0), metavar="GIB", help="Quota in the registry in GiB; 0 is none."
)
@click.option("--image", "images", multiple=True, help="Further image that runs may use. Repeatable.")
@dry_run_option
@json_option
def create(
    project: str,
    description: str,
    owner: str | None,
    gpus: int,
    max_gpus: int | None,
    weight: int,
    storage: int | None,
    registry: int | None,
    images: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Create a project, or make one be as these options say.

    The same command again changes nothing.
    """
    body: dict[str, Any] = {"description": description, "gpus": gpus, "weight": weight}
    body |= _given(
        max_gpus=max_gpus,
        owner=owner,
        storage_gib=storage,
        registry_gib=registry,
        images=list(images) or None,
    )
    answer = build().put(_path(project), body, {"dry_run": dry_run or None})
    tell(answer, f"project {project}", dry_run=dry_run, as_json=as_json)


@command.command("set")
@click.argument("project")
@click.option("--description", help="What it is about, in one line.")
@click.option("--owner", help="Member who answers for it.")
@click.option("--gpus", type=click.IntRange(min=0), metavar="N", help="GPUs that are its own.")
@click.option("--max-gpus", type=click.IntRange(min=0), metavar="N", help="GPUs at most, borrowed ones too.")
@click.option("--weight", type=click.IntRange(min=1), metavar="N", help="Share of what others lend.")
@click.option("--storage", type=click.IntRange(min=0), metavar="GIB", help="Quota on /lab in GiB; 0 is none.")
@click.option(
    "--registry", type=click.IntRange(min=0), metavar="GIB", help="Quota in the registry in GiB; 0 is none."
)
@click.option(
    "--image", "images", multiple=True, help="Further image that runs may use, in place of those before."
)
@dry_run_option
@json_option
def set_(project: str, dry_run: bool, as_json: bool, **options: Any) -> None:
    """Change a project; what is left out stays as it is."""
    names = {"storage": "storage_gib", "registry": "registry_gib"}
    options["images"] = list(options["images"]) or None
    body = _given(**{names.get(key, key): value for key, value in options.items()})
    if not body:
        raise UsageError("say what is to change; see labctl admin project set --help")
    answer = build().patch(_path(project), body, {"dry_run": dry_run or None})
    tell(answer, f"project {project}", dry_run=dry_run, as_json=as_json)


@command.command("show")
@click.argument("project")
@json_option
def show(project: str, as_json: bool) -> None:
    """Show all that is known of a project."""
    item: dict[str, Any] = build().get(_path(project))
    if as_json:
        output.emit_json(item)
        return
    print(f"{item['name']}  {output.coloured(*['ready' if item['ready'] else 'not ready'] * 2)}")
    output.fields(
        [
            ("reason", item["reason"]),
            ("description", item["description"]),
            ("owner", item["owner"]),
            ("gid", item["gid"]),
            ("GPUs", f"{item['gpus']} of its own, {item['max_gpus']} at most, weight {item['weight']}"),
            ("storage", f"{item['storage_gib']} GiB" if item["storage_gib"] else "no quota"),
            ("registry", f"{item['registry_gib']} GiB" if item["registry_gib"] else "no quota"),
            ("images", " ".join(item["images"])),
            ("members", " ".join(item["members"])),
        ]
    )


@command.command("rm")
@click.argument("project")
@click.option("--confirm", metavar="NAME", help="The project's name once more.")
@dry_run_option
@json_option
def rm(project: str, confirm: str | None, dry_run: bool, as_json: bool) -> None:
    """Remove a project.

    Its runs are cancelled, its queue and its namespace go, and its members are members no more. Its files
    stay on the file server, where only administrators reach them; the record of its runs stays too, and
    neither its name nor its gid is ever given to another project.
    """
    answer = build().delete(_path(project), {"confirm": confirm, "dry_run": dry_run or None})
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
