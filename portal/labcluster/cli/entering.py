"""What the verbs that enter a run share: which run, whether it can be entered, and ssh itself."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from labcluster.cli import output
from labcluster.errors import ConflictError, NotAllowedError, NotFoundError, UsageError

if TYPE_CHECKING:
    from labcluster.adapters.portal import Portal

#: Runs as hosts: `ssh vision-12.labcluster`. Role login lays down the same settings for ssh itself.
DOMAIN = ".labcluster"
_RANKED = re.compile(r"rank(?P<rank>[0-9]+)\.(?P<run>.+)")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*(?:\.[0-9]+)?")
_POLL_SECONDS = 1.0


def address(name: str) -> tuple[str, int]:
    """The run's id and the rank that a host name stands for; an id stands for itself."""
    run = name.removesuffix(DOMAIN)
    ranked = _RANKED.fullmatch(run)
    if not _NAME.fullmatch(ranked["run"] if ranked else run):
        raise UsageError(f"{name!r} is not a run, such as vision-12, or its host, vision-12{DOMAIN}")
    return (ranked["run"], int(ranked["rank"])) if ranked else (run, 0)


def host(run: str, rank: int = 0) -> str:
    """The host name of a run."""
    return (f"rank{rank}." if rank else "") + run + DOMAIN


def choose(portal: Portal, run: str | None, *, wait: bool) -> dict[str, Any]:
    """The run that was named, or the caller's only one that runs; it can be entered when this returns."""
    found = portal.get(f"/runs/{address(run)[0]}") if run else _only(portal)
    me = portal.get("/whoami")["user"]
    if found["user"] != me:
        raise NotAllowedError(
            f"run {found['id']} belongs to {found['user']}: only {found['user']} may enter it"
        )
    if found.get("array_size") and found.get("array_index") is None:
        raise UsageError(f"{found['id']} is an array: name one of its runs, such as {found['id']}.0")
    said = ""
    while wait and found["state"] in ("queued", "starting"):
        line = output.state_line(found)
        if line != said:
            output.say(line)
            said = line
        time.sleep(_POLL_SECONDS)
        found = portal.get(f"/runs/{found['id']}")
    if found["state"] not in output.ACTIVE:
        raise ConflictError(
            f"run {found['id']} has ended ({found['state']}): labctl logs {found['id']} shows what it printed"
        )
    if found["state"] != "running":
        because = f" ({found['reason']})" if found["reason"] else ""
        raise ConflictError(f"run {found['id']} is not running yet{because}: --wait waits for it")
    return found


def _only(portal: Portal) -> dict[str, Any]:
    me = portal.get("/whoami")["user"]
    runs = portal.get("/runs", {"user": me, "state": "running"})["items"]
    if not runs:
        raise NotFoundError("none of your runs is running: labctl ls shows them")
    if len(runs) > 1:
        names = ", ".join(run["id"] for run in runs[:5])
        raise UsageError(f"{len(runs)} of your runs are running ({names}): say which one")
    return dict(runs[0])


def ssh(run: str, rank: int, options: Sequence[str], command: Sequence[str] = ()) -> NoReturn:
    """Become ssh, connected to the run; it ends with the remote command's exit status, or 255.

    All that it needs is said here, so that it works on machines without our ssh configuration too.
    """
    program = shutil.which("ssh")
    if program is None:
        raise UsageError("there is no ssh on this machine: install the OpenSSH client")
    labctl = shutil.which("labctl") or os.path.realpath(sys.argv[0])
    settings = {
        "ProxyCommand": f"{shlex.quote(labctl)} proxy %h",
        # The channel is proven by the portal, and every connection has a key of its own: labssh.
        "StrictHostKeyChecking": "no",
        "UserKnownHostsFile": "/dev/null",
        "GlobalKnownHostsFile": "/dev/null",
        "PreferredAuthentications": "none",
        "LogLevel": "ERROR",
        # The bytes are in TLS already: the cipher that costs least.
        "Ciphers": "^aes128-gcm@openssh.com",
        "ServerAliveInterval": "30",
        "ServerAliveCountMax": "4",
    }
    words = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    # One word is a line for the shell, as with ssh itself; several are a program and its arguments.
    remote = [command[0] if len(command) == 1 else shlex.join(command)] if command else []
    sys.stdout.flush()
    os.execv(program, [program, *words, *options, "--", host(run, rank), *remote])  # noqa: S606 - no shell wanted
