"""labctl forward."""

from __future__ import annotations

import re

import click

from labcluster.cli import output
from labcluster.cli.entering import address, choose, ssh
from labcluster.cli.parameters import RunType
from labcluster.cli.session import build
from labcluster.errors import UsageError

_PORTS = re.compile(r"(?:(?P<local>[0-9]{1,5}):)?(?P<remote>[0-9]{1,5})")
_SOCKET = re.compile(r"(?P<path>[^:]*/[^:]*):(?P<remote>[0-9]{1,5})")


@click.command()
@click.argument("run", type=RunType())
@click.argument("ports", metavar="[LOCAL:]PORT...", nargs=-1, required=True)
@click.option("--wait", is_flag=True, help="Wait until the run has started.")
@click.option("--rank", type=click.IntRange(min=0), default=0, help="Which pod of a run with several nodes.")
def command(run: str, ports: tuple[str, ...], wait: bool, rank: int) -> None:
    """Make ports of your running run reachable on this machine, until Ctrl-C or the run's end.

    \b
      labctl forward vision-12 6006              http://localhost:6006 is port 6006 of the run
      labctl forward vision-12 8000:6006         http://localhost:8000 is port 6006 of the run
      labctl forward vision-12 ~/board:6006      the socket ~/board, which nobody else can open

    Everybody on this machine can connect to a local port: what listens in the run should ask for a
    password or token.
    """
    options = ["-N", "-o", "ExitOnForwardFailure=yes"]
    lines = []
    for text in ports:
        bound, remote, line = _parse(text)
        options += ["-L", f"{bound}:localhost:{remote}"]
        lines.append(line)
    found = choose(build(), run, wait=wait)
    for line in lines:
        output.say(f"{line} of {found['id']}; Ctrl-C ends it")
    ssh(found["id"], rank or address(run)[1], options)


def _parse(text: str) -> tuple[str, int, str]:
    """What ssh binds, the port in the run, and how both are told."""
    socket = _SOCKET.fullmatch(text)
    match = socket or _PORTS.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r}: write it as PORT, LOCAL:PORT or PATH/OF/SOCKET:PORT")
    remote = int(match["remote"])
    local = remote if socket else int(match["local"] or remote)
    if not (0 < remote < 1 << 16 and 0 < local < 1 << 16):
        raise UsageError(f"{text!r}: ports are 1 to 65535")
    if socket:
        return socket["path"], remote, f"{socket['path']} is port {remote}"
    if local < 1024:
        raise UsageError(
            f"{text!r}: only root may listen on port {local}; choose another, 8{local:03d}:{remote}"
        )
    return f"localhost:{local}", remote, f"http://localhost:{local} is port {remote}"
