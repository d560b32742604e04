"""labctl admin member."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from labcluster.cli import output
from labcluster.cli.admin.changes import tell
from labcluster.cli.output import Column
from labcluster.cli.parameters import dry_run_option, json_option
from labcluster.cli.session import build
from labcluster.errors import UsageError


@click.group()
def command() -> None:
    """Add people and list them."""


@command.command("add")
@click.argument("name")
@click.option("--full-name", required=True, help="As it is to be shown.")
@click.option("--mail", help="Where notices go.")
@click.option("--ssh-key", "keys", multiple=True, help="Public key, or a file with some. Repeatable.")
@click.option("--password-stdin", is_flag=True, help="Read a password from standard input.")
@dry_run_option
@json_option
def add(
    name: str,
    full_name: str,
    mail: str | None,
    keys: tuple[str, ...],
    password_stdin: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Add a member, or make one be as these options say.

    The same command again changes nothing.
    """
    body: dict[str, Any] = {"full_name": full_name, "ssh_keys": [key for text in keys for key in _keys(text)]}
    if mail is not None:
        body["mail"] = mail
    if password_stdin:
        body["password"] = sys.stdin.readline().rstrip("\n")
        if not body["password"]:
            raise UsageError("--password-stdin: standard input is empty")
    answer = build().put(f"/admin/members/{quote(name, safe='')}", body, {"dry_run": dry_run or None})
    tell(answer, f"member {name}", dry_run=dry_run, as_json=as_json)


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
    columns = [Column("NAME"), Column("UID", right=True), Column("FULL NAME"), Column("KEYS", right=True)]
    columns.append(Column("MAIL"))
    rows = [
        [
            item["name"],
            item["uid"],
            item["full_name"],
            len(item["ssh_keys"]),
            item["mail"],
        ]
        for item in items
    ]
    output.table(columns, rows)


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
