"""A PostgreSQL of our own, from Debian's package: started for tests, gone after them."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


@contextmanager
def running() -> Iterator[str]:
    """`USER@127.0.0.1:PORT/postgres` of a new server; skips where PostgreSQL is not installed.

    It does not run as root, so root borrows Debian's user. Its folder is none of pytest's, which every other
    session of pytest closes to that user.
    """
    root = os.geteuid() == 0
    if not BINARIES or (root and not shutil.which("runuser")):
        pytest.skip("PostgreSQL's server is not installed")
    as_user = ["runuser", "-u", "postgres", "--"] if root else []
    user = "postgres" if root else getpass.getuser()
    with tempfile.TemporaryDirectory(prefix="labcluster-postgresql-") as folder:
        if root:
            shutil.chown(folder, "postgres")
        data = Path(folder) / "data"
        initialise = [*as_user, BINARIES[-1] / "initdb", "-D", data, "-A", "trust", "-N"]
        subprocess.run(initialise, check=True, capture_output=True)
        with socket.create_server(("127.0.0.1", 0)) as found:
            port = found.getsockname()[1]
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c fsync=off -k {folder}"
        control = [*as_user, BINARIES[-1] / "pg_ctl", "-D", data, "-w"]
        start = [*control, "-l", f"{folder}/log", "-o", options, "start"]
        subprocess.run(start, check=True, capture_output=True)
        try:
            yield f"{user}@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], check=True, capture_output=True)
