"""What counts and limits the tree, on a directory of its own; the kernel's quotas are a table here."""

from __future__ import annotations

import http.server
import json
import os
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from labcluster.tree import usage
from labcluster.tree.usage import Amount, Owned, count, enforce, give_to_project, owned, run, walk

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives directories to others, as root can")


class FakeQuotas:
    """Project ids by inode, limits by project."""

    def __init__(self) -> None:
        self.ids: dict[int, tuple[int, bool]] = {}
        self.limits: dict[int, int] = {}
        self.set: list[int] = []

    def project_of(self, file: int) -> tuple[int, bool]:
        return self.ids.get(os.fstat(file).st_ino, (0, False))

    def assign(self, file: int, project: int, *, inherit: bool) -> None:
        self.ids[os.fstat(file).st_ino] = (project, inherit)

    def used(self, project: int) -> Amount:
        return project, 1

    def limit(self, project: int) -> int:
        return self.limits.get(project, 0)

    def set_limit(self, project: int, limit: int) -> None:
        self.limits[project] = limit
        self.set.append(project)


def make(path: Path, uid: int, gid: int, size: int = 0) -> Path:
    if size:
        path.write_bytes(b"x" * size)
    else:
        path.mkdir()
    os.chown(path, uid, gid)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("home", "scratch", "projects"):
        (tmp_path / name).mkdir()
    runs = make(make(tmp_path / "projects" / "vision", 0, 30000) / "runs", 0, 30000)
    make(runs / "weights", 20000, 30000, 100_000)
    make(make(tmp_path / "home" / "ada", 20000, 20000) / "notes", 20000, 20000, 10_000)
    make(make(tmp_path / "scratch" / "ada", 20000, 20000) / "more", 20000, 20000, 20_000)
    return tmp_path


@pytest.fixture
def root(tree: Path) -> Iterator[int]:
    handle = os.open(tree, os.O_RDONLY)
    yield handle
    os.close(handle)


def test_what_belongs_to_whom_is_read_from_the_tree(tree: Path, root: int) -> None:
    # None of these was made by the tree's agent.
    make(tree / "projects" / "stranger", 20000, 30001)
    make(tree / "projects" / "system", 0, 0)
    make(tree / "home" / "local", 10000, 10000)
    (tree / "home" / "link").symlink_to("ada")
    assert [(place.kind, place.name, place.number) for place in owned(root)] == [
        ("projects", "vision", 30000),
        ("people", "ada", 20000),
        ("people", "ada", 20000),
    ]


def test_artifacts_in_mlflow_count_with_their_project(tree: Path, root: int) -> None:
    before = count(root, None)["projects"]["vision"]["bytes"]
    workspaces = make(make(tree / "mlflow", 10106, 10106) / "workspaces", 10106, 10106)
    make(make(workspaces / "vision", 10106, 10106) / "model", 10106, 10106, 50_000)
    make(workspaces / "removed", 10106, 10106)
    assert [(p.number, p.path) for p in owned(root) if p.kind == "projects"] == [
        (30000, ("projects", "vision")),
        (30000, ("mlflow", "workspaces", "vision")),
    ]
    assert 50_000 <= count(root, None)["projects"]["vision"]["bytes"] - before < 70_000
    quotas = FakeQuotas()
    assert count(root, quotas)["projects"] == {"vision": {"bytes": 30000, "files": 1}}
    assert quotas.ids[(workspaces / "vision" / "model").stat().st_ino] == (30000, False)
    enforce(root, quotas, {"vision": 1 << 30})
    assert quotas.set == [30000]


@pytest.mark.parametrize("link", ["mlflow", "mlflow/workspaces", "mlflow/workspaces/vision"])
def test_links_among_the_artifacts_lead_nowhere(tree: Path, root: int, link: str) -> None:
    """MLflow owns that folder: whoever takes it over must not choose what root counts and gives away."""
    elsewhere = make(tree / "elsewhere", 0, 0)
    make(make(elsewhere / "workspaces", 0, 0) / "vision", 0, 0)
    make(elsewhere / "vision", 0, 0)
    (tree / link).parent.mkdir(parents=True, exist_ok=True)
    (tree / link).symlink_to(elsewhere)
    assert [p.path for p in owned(root) if p.kind == "projects"] == [("projects", "vision")]


def test_walk_counts_blocks_and_a_file_of_two_names_once(tree: Path, root: int) -> None:
    runs = tree / "projects" / "vision" / "runs"
    place = Owned("projects", "vision", 30000, ("projects", "vision"))
    size, files = walk(root, place)
    assert 100_000 <= size < 130_000
    os.link(runs / "weights", runs / "again")
    (runs / "elsewhere").symlink_to("/")
    assert walk(root, place) == (size, files + 1)  # the link itself


def test_without_quotas_home_and_scratch_are_added_up(root: int) -> None:
    counted = count(root, None)
    assert 30_000 <= counted["people"]["ada"]["bytes"] < 60_000
    assert counted["projects"]["vision"]["files"] == 2


def test_directory_that_goes_while_all_are_counted_is_left_out(
    tree: Path, root: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tree / "home" / "bo", 20001, 20001)
    places = owned(root)
    next(place for place in places if place.name == "ada")
    (tree / "home" / "bo").rmdir()
    assert "bo" not in [place.name for place in places]
    gone, kept = (Owned("people", name, 20000, ("home", name)) for name in ("bo", "ada"))
    monkeypatch.setattr(usage, "owned", lambda _: [gone, kept])
    assert list(count(root, FakeQuotas())["people"]) == ["ada"]
    assert list(count(root, None)["people"]) == ["ada"]


def test_everything_of_a_project_gets_its_id_once(tree: Path, root: int) -> None:
    quotas = FakeQuotas()
    outside = make(tree / "outside", 0, 0, 10)
    (tree / "projects" / "vision" / "runs" / "link").symlink_to(outside)
    place = next(owned(root))
    assert give_to_project(quotas, root, place)
    folder = tree / "projects" / "vision"
    assert quotas.ids == {
        folder.stat().st_ino: (30000, True),
        (folder / "runs").stat().st_ino: (30000, True),
        (folder / "runs" / "weights").stat().st_ino: (30000, False),
    }
    assert not give_to_project(quotas, root, place)


def test_pass_that_was_interrupted_is_begun_again(root: int, monkeypatch: pytest.MonkeyPatch) -> None:
    quotas = FakeQuotas()
    place = next(owned(root))

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(usage, "_give_file", killed)
        with pytest.raises(KeyboardInterrupt):
            give_to_project(quotas, root, place)
    assert give_to_project(quotas, root, place)


def test_limits_are_set_once_and_lifted(root: int) -> None:
    quotas = FakeQuotas()
    for limits in ({"vision": 5000, "gone": 1}, {"vision": 5000}):
        enforce(root, quotas, limits)
    assert quotas.limits == {30000: 5000}
    enforce(root, quotas, {})
    assert quotas.limits == {30000: 0}


class Portal:
    """Takes reports over TLS and answers with limits."""

    def __init__(self, home: Path) -> None:
        self.ca_file = str(home / "portal.crt")
        self.reports: list[tuple[str, Any]] = []
        self.answer: bytes = json.dumps({"projects": {"vision": 4096}}).encode()
        self.status = 200
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=portal", "-days", "1",
             "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", home / "portal.key", "-out", self.ca_file],
            check=True, capture_output=True,
        )  # fmt: skip
        portal = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                portal.reports.append((f"{self.headers['Authorization']} {self.path}", body))
                self.send_response(portal.status)
                self.end_headers()
                self.wfile.write(portal.answer)

            def log_message(self, *_: Any) -> None: ...

        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.ca_file, home / "portal.key")
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self.server.server_port}/api/v1/storage"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def portal(tmp_path: Path) -> Iterator[Portal]:
    portal = Portal(tmp_path)
    yield portal
    portal.server.shutdown()
    portal.server.server_close()


def test_portal_is_told_and_its_limits_are_enforced(root: int, portal: Portal, tmp_path: Path) -> None:
    quotas = FakeQuotas()
    file = tmp_path / "usage.json"
    assert run(root, quotas, file, portal.url, "secret", portal.ca_file, now=False) == 0
    (sent, report), *_ = portal.reports
    assert sent == "Bearer secret /api/v1/storage"
    assert (report["quotas"], report["projects"]) == (True, {"vision": {"bytes": 30000, "files": 1}})
    assert quotas.limits == {30000: 4096}


@pytest.mark.parametrize(("status", "answer"), [(503, b"{}"), (200, b"<html>"), (200, b"{}")])
def test_limits_stay_while_the_portal_does_not_answer(
    root: int, portal: Portal, tmp_path: Path, status: int, answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    quotas = FakeQuotas()
    quotas.limits[30000] = 8192
    portal.status, portal.answer = status, answer
    assert run(root, quotas, tmp_path / "usage.json", portal.url, "secret", portal.ca_file, now=False) == 0
    assert quotas.limits == {30000: 8192}
    assert "did not take the report" in caplog.text


def test_a_long_walk_is_not_begun_again_at_once(
    root: int, portal: Portal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, clock = tmp_path / "usage.json", [1000.0]
    monkeypatch.setattr(usage.time, "time", lambda: clock[0])
    real = usage.walk

    def slow(*words: Any) -> Amount:
        clock[0] += 100
        return real(*words)

    monkeypatch.setattr(usage, "walk", slow)  # three directories: 300 s
    for moment, now in ((1000.0, False), (9000.0, False), (9000.0, True), (40000.0, False)):
        clock[0] = moment
        run(root, None, file, portal.url, "secret", portal.ca_file, now=now)
    # Each time the portal hears the newest figures, with the time that they are of.
    times = [report["measured_at"][11:19] for _, report in portal.reports]
    assert times == ["00:16:40", "00:16:40", "02:30:00", "11:06:40"]
