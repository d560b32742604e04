"""A PostgreSQL of our own, from Debian's package: started for tests, gone after them."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


@contextmanager
def running(home: Path) -> Iterator[str]:
    """`USER@127.0.0.1:PORT/postgres` of a server in a folder; skips where it is not installed.

    PostgreSQL does not run as root, so root borrows Debian's user.
    """
    root = os.geteuid() == 0
    if not BINARIES or (root and not shutil.which("runuser")):
        pytest.skip("PostgreSQL's server is not installed")
    as_user = ["runuser", "-u", "postgres", "--"] if root else []
    user = "postgres" if root else getpass.getuser()
    if root:
        for folder in (home, home.parent):
            folder.chmod(0o755)
        home.parent.parent.chmod(0o755)
        shutil.chown(home, "postgres")
    data = home / "data"
    initialise = [*as_user, BINARIES[-1] / "initdb", "-D", data, "-A", "trust", "-N"]
    subprocess.run(initialise, check=True, capture_output=True)
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c fsync=off -k {home}"
    control = [*as_user, BINARIES[-1] / "pg_ctl", "-D", data, "-w"]
    subprocess.run([*control, "-l", home / "log", "-o", options, "start"], check=True, capture_output=True)
    try:
        yield f"{user}@127.0.0.1:{port}/postgres"
    finally:
        # A first signal was seen to be lost on a machine that had much to do.
        stop = [*control, "-m", "immediate", "-t", "10", "stop"]
        ended = any(subprocess.run(stop, capture_output=True).returncode == 0 for _ in range(3))
        assert ended, f"PostgreSQL in {home} does not end"
