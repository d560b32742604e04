"""labctl admin member."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from labcluster.cli import output
from labcluster.cli.admin.changes import tell
from labcluster.cli.output import Column
from labcluster.cli.parameters import dry_run_option, json_option, new_password
from labcluster.cli.session import build
from labcluster.errors import UsageError


def _path(name: str, *more: str) -> str:
    return "/admin/members/" + "/".join(quote(part, safe="") for part in (name, *more))


@click.group()
def command() -> None:
    """Add people, set passwords, shut people out, list them."""


@command.command("add")
@click.argument("name", required=False)
@click.option("--full-name", help="As it is to be shown.")
@click.option("--mail", help="Where notices go.")
@click.option("--ssh-key", "keys", multiple=True, help="Public key, or a file with some. Repeatable.")
@click.option("--password-stdin", is_flag=True, help="Read a password from standard input.")
@click.option(
    "--file",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Add all people of a CSV file with the columns name, full_name, mail, ssh_keys, projects.",
)
@dry_run_option
@json_option
def add(
    name: str | None,
    full_name: str | None,
    mail: str | None,
    keys: tuple[str, ...],
    password_stdin: bool,
    file: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Add a member, or make one be as these options say.

    The same command again changes nothing. With --file all people of a list are added, or none if there is a
    fault in it; several keys or projects of one are separated by ';'.

    \b
      labctl admin member add ada --full-name "Ada Lovelace" --ssh-key ada.pub
      labctl admin member add --file people.csv --dry-run
    """
    if file is not None:
        if name or full_name or mail or keys or password_stdin:
            raise UsageError("--file says everything: give no name and no other option with it")
        _enrol(file, dry_run=dry_run, as_json=as_json)
        return
    if not name or not full_name:
        raise UsageError("give NAME and --full-name of one member, or --file for many")
    body: dict[str, Any] = {"full_name": full_name, "ssh_keys": [key for text in keys for key in _keys(text)]}
    if mail is not None:
        body["mail"] = mail
    if password_stdin:
        body["password"] = new_password("", from_stdin=True)
    answer = build().put(_path(name), body, {"dry_run": dry_run or None})
    tell(answer, f"member {name}", dry_run=dry_run, as_json=as_json)


@command.command("passwd")
@click.argument("name")
@click.option("--password-stdin", is_flag=True, help="Read it from standard input, not from the terminal.")
@dry_run_option
@json_option
def passwd(name: str, password_stdin: bool, dry_run: bool, as_json: bool) -> None:
    """Set a member's password.

    It is asked for on the terminal, and never an argument: arguments can be read by everybody on the machine.
    """
    portal = build()
    portal.get(_path(name))  # a mistyped name is said before the password is asked for
    body = {"password": new_password(f"New password of {name}", from_stdin=password_stdin)}
    answer = portal.put(_path(name, "password"), body, {"dry_run": dry_run or None})
    tell(answer, f"member {name}", dry_run=dry_run, as_json=as_json)


@command.command("disable")
@click.argument("name")
@dry_run_option
@json_option
def disable(name: str, dry_run: bool, as_json: bool) -> None:
    """Shut a member out everywhere.

    No password and no key of his opens anything any more, and what he runs is cancelled. His files, his uid
    and the list of his projects are kept.
    """
    answer = build().put(_path(name, "disabled"), None, {"dry_run": dry_run or None})
    tell(answer, f"member {name}", dry_run=dry_run, as_json=as_json)


@command.command("enable")
@click.argument("name")
@dry_run_option
@json_option
def enable(name: str, dry_run: bool, as_json: bool) -> None:
    """Let a disabled member in again, into the projects he was in."""
    answer = build().delete(_path(name, "disabled"), {"dry_run": dry_run or None})
    tell(answer, f"member {name}", dry_run=dry_run, as_json=as_json)


@command.command("show")
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show all that is known of a member."""
    member: dict[str, Any] = build().get(_path(name))
    if as_json:
        output.emit_json(member)
        return
    print(f"{member['name']}  {'disabled' if member['disabled'] else 'enabled'}")
    output.fields(
        [
            ("full name", member["full_name"]),
            ("mail", member["mail"]),
            ("uid", member["uid"]),
            ("home", member["home"]),
            ("shell", member["shell"]),
            ("projects", " ".join(member["projects"])),
            *[("ssh key", key) for key in member["ssh_keys"]],
        ]
    )


@command.command("ls")
@json_option
def ls(as_json: bool) -> None:
    """List the members."""
    items: list[dict[str, Any]] = build().get("/admin/members")["items"]
    if as_json:
        output.emit_json(items)
        return
    if not items:
        output.say("no members: labctl admin member add NAME --full-name … makes one")
        return
    columns = [Column("NAME"), Column("UID", right=True), Column("STATE"), Column("KEYS", right=True)]
    columns += [Column("FULL NAME"), Column("MAIL"), Column("PROJECTS", wrap=True)]
    rows = [
        [
            item["name"],
            item["uid"],
            "disabled" if item["disabled"] else "enabled",
            len(item["ssh_keys"]),
            item["full_name"],
            item["mail"],
            " ".join(item["projects"]),
        ]
        for item in items
    ]
    output.table(columns, rows)


def _enrol(file: Path, *, dry_run: bool, as_json: bool) -> None:
    """Check the whole list with the portal, then do it; a line for each of its lines."""
    from labcluster.cli.admin.people import read_people

    people = read_people(file, _keys)
    portal = build()
    body = {"items": [person for _, person in people]}
    answer = portal.post("/admin/members/enrol", body, {"dry_run": True})
    faults = sum(1 for item in answer["items"] if item["error"])
    if not faults and not dry_run:
        answer = portal.post("/admin/members/enrol", body)
    if as_json:
        output.emit_json(answer)
    for (line, _), item in zip(people, [] if as_json else answer["items"], strict=not as_json):
        if item["error"]:
            output.say(f"{file}:{line}: {item['name']}: {item['error']}")
        else:
            would = "would " if dry_run or faults else ""
            print(f"{item['name']}: {would}{f', {would}'.join(item['actions']) or 'nothing to do'}")
    if faults:
        raise UsageError(f"{file}: {faults} of {len(people)} lines have faults: nobody was added")


def _keys(text: str) -> list[str]:
    """A public key as such, or those of a file."""
    if text.lstrip().startswith(("ssh-", "ecdsa-", "sk-")):
        return [text.strip()]
    try:
        lines = Path(text).expanduser().read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text"
        raise UsageError(
            f"--ssh-key {text!r} is neither a public key nor a file with one ({reason})"
        ) from None
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not keys or any("PRIVATE KEY" in key for key in keys):
        raise UsageError(f"--ssh-key {text}: there is no public key in it; take the .pub file")
    return keys
