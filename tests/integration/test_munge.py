"""Credentials through a real munged. Needs Debian's munge."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from labcluster.adapters.munge import MungeDecoder
from labcluster.errors import NotAuthenticatedError, UnreachableError


@pytest.fixture(scope="module")
def socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A munged of our own, started as in the portal's pod."""
    if not shutil.which("munged"):
        pytest.skip("munge is not installed")
    home = tmp_path_factory.mktemp("munge")
    key = home / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    files = {"key-file": key, "socket": home / "s", "pid-file": home / "p", "seed-file": home / "seed"}
    options = [f"--{name}={path}" for name, path in files.items()]
    command = ["munged", "--foreground", "--force", f"--log-file={home / 'log'}", *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not (home / "s").exists():
            assert time.monotonic() < deadline, "munged does not start"
            time.sleep(0.05)
        yield home / "s"
    finally:
        process.terminate()
        process.wait(10)


def credential(socket: Path, text: str, *options: str) -> str:
    command = ["munge", "-S", str(socket), "-s", text, *options]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_credential_tells_uid_and_payload_once(socket: Path) -> None:
    decoder = MungeDecoder(socket)
    good = credential(socket, "GET /ü\nx")
    found = decoder.decode(good)
    assert (found.uid, found.payload) == (os.geteuid(), "GET /ü\nx".encode())
    with pytest.raises(NotAuthenticatedError, match="it was used before"):
        decoder.decode(good)


def test_empty_payload_is_empty(socket: Path) -> None:
    assert MungeDecoder(socket).decode(credential(socket, "")).payload == b""


def test_forged_and_expired_credentials_are_refused(socket: Path) -> None:
    decoder = MungeDecoder(socket)
    good = credential(socket, "x")
    place = len(good) // 2
    other = "A" if good[place] != "A" else "B"
    for bad in (good[:place] + other + good[place + 1 :], "MUNGE:AAAA:", "nonsense", "ü", ""):
        with pytest.raises(NotAuthenticatedError):
            decoder.decode(bad)
    short = credential(socket, "x", "--ttl=1")
    time.sleep(2.1)
    with pytest.raises(NotAuthenticatedError, match="expired"):
        decoder.decode(short)


def test_absent_munged_is_the_clusters_fault(socket: Path) -> None:
    with pytest.raises(UnreachableError, match="munged does not answer"):
        MungeDecoder(socket.parent / "nosuch").decode(credential(socket, "x"))
