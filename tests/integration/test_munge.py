"""Credentials through a real munged. Needs Debian's munge."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from labcluster.adapters import munge_client
from labcluster.adapters.munge import MungeDecoder
from labcluster.errors import NotAuthenticatedError, UnreachableError

# The tests' munged has just started, which is another test's business.
LONG_AGO = -3600


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
    process = _munged(command, home / "s")
    try:
        yield home / "s"
    finally:
        process.terminate()
        process.wait(10)


def _munged(command: list[str], socket: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 10
    while not socket.exists():
        assert time.monotonic() < deadline, "munged does not start"
        time.sleep(0.05)
    return process


def credential(socket: Path, text: str, *options: str) -> str:
    command = ["munge", "-S", str(socket), "-s", text, *options]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_credential_tells_uid_and_payload_once(socket: Path) -> None:
    decoder = MungeDecoder(socket, LONG_AGO)
    good = credential(socket, "GET /ü\nx")
    found = decoder.decode(good)
    assert (found.uid, found.payload) == (os.geteuid(), "GET /ü\nx".encode())
    with pytest.raises(NotAuthenticatedError, match="it was used before"):
        decoder.decode(good)


def test_empty_payload_is_empty(socket: Path) -> None:
    assert MungeDecoder(socket, LONG_AGO).decode(credential(socket, "")).payload == b""


def test_forged_and_expired_credentials_are_refused(socket: Path) -> None:
    decoder = MungeDecoder(socket, LONG_AGO)
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


def test_what_was_made_before_munged_started_is_not_accepted(socket: Path) -> None:
    # munged has forgotten what was used before its start, so this may be a replay.
    with pytest.raises(UnreachableError, match="just restarted: nothing was accepted"):
        MungeDecoder(socket, 3600).decode(credential(socket, "x"))


def test_what_labctl_makes_is_for_the_portal_alone_and_for_a_minute(
    socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(munge_client, "PORTAL_UID", os.geteuid())
    text = munge_client.encode(b"x", socket)
    found = subprocess.run(
        ["unmunge", "-S", str(socket)], input=text, capture_output=True, text=True, check=True
    ).stdout
    assert re.search(r"^TTL: +60$", found, re.MULTILINE)
    monkeypatch.setattr(munge_client, "PORTAL_UID", os.geteuid() + 1)
    with pytest.raises(NotAuthenticatedError, match="made for another reader"):
        MungeDecoder(socket, LONG_AGO).decode(munge_client.encode(b"x", socket))
