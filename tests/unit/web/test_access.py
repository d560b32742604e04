"""Connections into runs: labctl's own client, a real web server and TLS, and a stand-in for the exec."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from anyio.from_thread import start_blocking_portal
from labcluster.adapters import tunnel
from labcluster.adapters.portal import Portal
from labcluster.errors import (
    ConflictError,
    LabclusterError,
    NotAllowedError,
    NotAuthenticatedError,
    NotFoundError,
    UnreachableError,
)
from labcluster.models.runs import RunState
from labcluster.services.access import SERVER
from labcluster.web import access
from labcluster.web.app import create_app
from portal_site import Site


class Connection:
    """`labctl proxy` in a thread, with ssh's ends of its two pipes."""

    def __init__(self, portal: Portal, run: str, rank: int | None = None) -> None:
        theirs, self.stdin = os.pipe()
        self.stdout, ours = os.pipe()
        self.error: LabclusterError | None = None

        def serve() -> None:
            try:
                tunnel.run(portal, f"/runs/{run}/ssh", {"rank": rank}, stdin=theirs, stdout=ours)
            except LabclusterError as error:
                self.error = error
            finally:
                os.close(theirs)
                os.close(ours)

        self._thread = threading.Thread(target=serve)
        self._thread.start()

    def read(self, size: int) -> bytes:
        """So many bytes of what the run sends, or all until its end."""
        found = bytearray()
        while len(found) < size and (block := os.read(self.stdout, size - len(found))):
            found += block
        return bytes(found)

    def leave(self) -> None:
        """As when ssh ends."""
        os.close(self.stdin)

    def ended(self) -> LabclusterError | None:
        """Wait for the end; the error that labctl would print."""
        self._thread.join(15)
        assert not self._thread.is_alive()
        return self.error


Connect = Callable[..., Connection]


@pytest.fixture
def site(lab: Any) -> Iterator[Site]:
    with start_blocking_portal() as loop:
        yield Site(lab, loop)


@pytest.fixture
def url(site: Site, certificate: tuple[Path, Path]) -> Iterator[str]:
    """The portal, served as its program serves it."""
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(site.portal),
            port=0,
            ssl_certfile=certificate[0],
            ssl_keyfile=certificate[1],
            log_config=None,
            ws_per_message_deflate=False,
        )
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"https://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def connect(site: Site, url: str, certificate: tuple[Path, Path]) -> Connect:
    """connect("ada", "vision-1"): a connection into a run."""

    def make(user: str, run: str, rank: int | None = None, cluster: str = "lab") -> Connection:
        credential = functools.partial(site.sign, user)
        return Connection(Portal(url, cluster, str(certificate[0]), credential), run, rank)

    return make


def enter(site: Site, pod_of: Callable[..., Any], **changes: Any) -> Any:
    """A run of ada's whose pod runs."""
    run = site.lab.row(site.lab.submit(**changes))
    pod = running_pod(run, pod_of)
    site.lab.cluster.pod_list.append(pod)
    return run, pod


def running_pod(run: Any, pod_of: Callable[..., Any], rank: int = 0) -> Any:
    """A pod of ada's that runs."""
    pod = pod_of(run, state={"running": {}})
    pod["metadata"]["name"] += str(rank)
    pod["metadata"]["labels"] |= {
        "labcluster.internal/user": "ada",
        "batch.kubernetes.io/controller-uid": run.job_uid,
        "batch.kubernetes.io/job-completion-index": str(rank),
    }
    return pod


def audited(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """What was written down."""
    return [json.loads(r.message) for r in caplog.records if r.name == "labcluster.audit"]


def test_bytes_pass_unchanged_and_a_line_is_kept_of_it(
    site: Site, connect: Connect, pod_of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "labcluster.audit")
    run, pod = enter(site, pod_of)
    connection = connect("ada", run.id)
    sent = os.urandom(3_000_000)
    writer = threading.Thread(
        target=lambda: [os.write(connection.stdin, sent[i : i + 65536]) for i in range(0, len(sent), 65536)]
    )
    writer.start()
    got = connection.read(len(sent))
    writer.join()
    assert hashlib.sha256(got).digest() == hashlib.sha256(sent).digest()
    connection.leave()
    assert connection.ended() is None
    assert site.exec.streams[0].closed.wait(5)
    assert site.exec.asked == [
        {
            "namespace": "project-vision",
            "pod": pod["metadata"]["name"],
            "container": "run",
            "command": SERVER,
            "user": "ada",
        }
    ]
    start, end = audited(caplog)
    about = {
        "user": "ada",
        "run": run.id,
        "pod": f"project-vision/{pod['metadata']['name']}",
        "from": "127.0.0.1",
    }
    assert start == {"event": "session-start", "session": end["session"], **about}
    assert (end["event"], end["bytes_to_run"], end["bytes_from_run"]) == ("session-end", len(sent), len(sent))
    assert end["end"] == "left"
    assert end["seconds"] >= 0


@pytest.mark.parametrize(
    ("user", "change", "kind", "words"),
    [
        ("bo", {}, NotFoundError, "no run"),
        ("bo", {"project": "shared"}, NotAllowedError, "belongs to ada: only ada may enter it"),
        ("labadmin", {}, NotAllowedError, "only ada may enter it"),
        ("ada", {"pod": None}, ConflictError, "is not running yet, it is queued"),
        ("ada", {"pod": "waiting"}, ConflictError, "is not running yet"),
        ("ada", {"state": RunState.SUCCEEDED}, ConflictError, "has ended (succeeded)"),
        ("ada", {"rank": 3}, NotFoundError, "ranks are 0 to 0"),
        ("ada", {"label": "bo"}, NotAllowedError, "is not ada's"),
        ("ada", {"cluster": "other"}, NotAuthenticatedError, "made for another request"),
        ("ada", {"refusal": UnreachableError("the Kubernetes API is away")}, UnreachableError, "is away"),
    ],
)
def test_who_may_not_enter_is_told_why(
    site: Site, connect: Connect, pod_of: Any, user: str, change: dict[str, Any], kind: type, words: str
) -> None:
    run, pod = enter(site, pod_of, project=change.get("project", "vision"))
    if "pod" in change:
        site.lab.cluster.pod_list[:] = [pod_of(run, state={"waiting": {}})] if change["pod"] else []
    if "state" in change:
        site.lab.store.rows[run.id] = run.model_copy(update={"state": change["state"]})
    if "label" in change:
        pod["metadata"]["labels"]["labcluster.internal/user"] = change["label"]
    site.exec.refusal = change.get("refusal")
    connection = connect(user, run.id, change.get("rank"), change.get("cluster", "lab"))
    error = connection.ended()
    assert type(error) is kind
    assert words in str(error)
    assert connection.read(1) == b""
    assert not site.exec.asked


def test_the_pod_of_a_rank_is_found(site: Site, connect: Connect, pod_of: Any) -> None:
    run, _ = enter(site, pod_of)
    site.lab.cluster.pod_list.append(running_pod(run, pod_of, rank=1))
    for rank in (1, 0, None):
        connection = connect("ada", run.id, rank)
        os.write(connection.stdin, b"x")
        assert connection.read(1) == b"x"
        connection.leave()
        assert connection.ended() is None
    assert [asked["pod"] for asked in site.exec.asked] == [f"{run.job_name}-x7{rank}" for rank in (1, 0, 0)]


def test_a_pod_that_only_bears_the_runs_id_is_passed_over(site: Site, connect: Connect, pod_of: Any) -> None:
    run, pod = enter(site, pod_of)
    other = running_pod(run, pod_of)
    other["metadata"]["name"] = "newer"
    other["metadata"]["labels"]["batch.kubernetes.io/controller-uid"] = "of another Job"
    site.lab.cluster.pod_list.append(other)
    connection = connect("ada", run.id)
    os.write(connection.stdin, b"x")
    assert connection.read(1) == b"x"
    connection.leave()
    assert connection.ended() is None
    assert site.exec.asked[0]["pod"] == pod["metadata"]["name"]


def test_the_end_of_the_run_is_told(
    site: Site, connect: Connect, pod_of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "labcluster.audit")
    run, pod = enter(site, pod_of)
    connection = connect("ada", run.id)
    os.write(connection.stdin, b"x")
    assert connection.read(1) == b"x"
    site.exec.streams[0].end(well=False)
    pod["status"]["containerStatuses"][0]["state"] = {"terminated": {"exitCode": 0}}
    error = connection.ended()
    assert isinstance(error, ConflictError)
    assert str(error) == f"run {run.id} has ended, and this connection with it"
    assert audited(caplog)[-1]["end"] == str(error)


def test_a_broken_connection_is_told_and_a_good_end_is_silent(
    site: Site, connect: Connect, pod_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "_END_SECONDS", 0.2)
    run, _ = enter(site, pod_of)
    for well in (False, True):
        connection = connect("ada", run.id)
        os.write(connection.stdin, b"x")
        assert connection.read(1) == b"x"
        site.exec.streams[-1].end(well=well)
        error = connection.ended()
        if well:
            assert error is None
        else:
            assert isinstance(error, UnreachableError)
            assert "broke: connect again" in str(error)


def test_connections_are_counted(site: Site, connect: Connect, pod_of: Any) -> None:
    run, _ = enter(site, pod_of)
    inside = []
    for _ in range(2):
        inside.append(connect("ada", run.id))
        os.write(inside[-1].stdin, b"x")
        assert inside[-1].read(1) == b"x"
    error = connect("ada", run.id).ended()
    assert isinstance(error, ConflictError)
    assert "2 connections into runs already" in str(error)
    inside[0].leave()
    assert site.exec.streams[0].closed.wait(5)
    again = connect("ada", run.id)
    os.write(again.stdin, b"x")
    assert again.read(1) == b"x"
    for connection in (inside[1], again):
        connection.leave()
        assert connection.ended() is None


def test_a_run_that_takes_nothing_stops_the_sender(site: Site, connect: Connect, pod_of: Any) -> None:
    site.exec.taking = False
    run, _ = enter(site, pod_of)
    connection = connect("ada", run.id)
    size, sent = 20_000_000, 0
    moved = threading.Event()

    def write() -> None:
        nonlocal sent
        while sent < size:
            sent += os.write(connection.stdin, bytes(min(65536, size - sent)))
            moved.set()

    writer = threading.Thread(target=write)
    writer.start()
    while moved.wait(0.5):  # until nothing has moved for a while
        moved.clear()
    assert sent < size / 2
    site.exec.streams[0].take()
    assert len(connection.read(size)) == size
    writer.join()
    connection.leave()
    assert connection.ended() is None


def test_a_portal_that_is_away_is_told(connect: Connect, site: Site, certificate: tuple[Path, Path]) -> None:
    away = Portal("https://127.0.0.1:1", "lab", str(certificate[0]), functools.partial(site.sign, "ada"))
    error = Connection(away, "vision-1").ended()
    assert isinstance(error, UnreachableError)
    assert str(error) == (
        "the portal does not answer at https://127.0.0.1:1 (connection refused): try again in a minute"
    )
