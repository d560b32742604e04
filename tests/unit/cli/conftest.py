"""labctl against a portal that answers from a script, over real TLS on the loopback interface."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest
from capsules import Lab, repository
from labcluster.adapters import munge_client
from labcluster.cli import code, following, parameters
from labcluster.cli.main import main
from labcluster.errors import LabclusterError

CLUSTER = "test"
_LOOK = code.look
RUN: dict[str, Any] = {
    "id": "vision-7",
    "project": "vision",
    "number": 7,
    "trial": 0,
    "name": "train",
    "user": "ada",
    "uid": 20000,
    "gid": 30000,
    "state": "queued",
    "reason": "waits for 1 GPU of project vision",
    "image": "registry.test:5000/common/python-ml:1.0",
    "image_digest": "sha256:" + "0" * 64,
    "command": ["python3", "train.py", "--note", "two words"],
    "workdir": "/lab/home/ada",
    "gpus": 1,
    "cpus": 1.0,
    "memory": "4Gi",
    "time_seconds": None,
    "env": {},
    "submitted_at": "2026-11-21T08:00:00Z",
    "started_at": None,
    "finished_at": None,
    "exit_code": None,
    "node": None,
    "directory": "/lab/projects/vision/runs/7_0_train",
}


def run(state: str = "queued", **changes: Any) -> dict[str, Any]:
    """A run in a state, with what goes with it."""
    found = RUN | {"state": state}
    if state != "queued":
        found |= {"node": "gpu1", "reason": None}
    if state not in ("queued", "starting"):
        found |= {"started_at": "2026-11-21T08:00:02Z"}
    if state not in ("queued", "starting", "running"):
        found |= {"finished_at": "2026-11-21T08:00:44Z"}
    if state == "succeeded":
        found |= {"exit_code": 0}
    return found | changes


class Request(NamedTuple):
    """What the portal was asked."""

    method: str
    path: str
    query: dict[str, list[str]]
    body: Any


class Break:
    """An answer that is none: the connection ends."""


class Chunks(list[bytes | type[Break]]):
    """A streamed answer."""


Answer = Any


@dataclass
class FakePortal:
    """Answers from `script`: for a method and path one answer after the other, the last one for ever."""

    url: str = ""
    script: dict[tuple[str, str], list[Answer]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    credentials: set[str] = field(default_factory=set)
    tokens: set[str] = field(default_factory=set)

    def on(self, method: str, path: str, *answers: Answer) -> None:
        """What to answer to a request."""
        self.script[method, path] = list(answers)

    def answer(self, request: Request) -> Answer:
        """The next answer."""
        self.requests.append(request)
        answers = self.script.get((request.method, request.path))
        if not answers:
            return LabclusterError(f"the test has no answer to {request.method} {request.path}")
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def asked(self, method: str) -> list[Request]:
        """All requests of a method."""
        return [request for request in self.requests if request.method == method]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    portal: FakePortal

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not self._proven(body):
            return self._send(401, {"detail": "credential", "status": 401, "code": 3}, problem=True)
        split = urlsplit(self.path)
        request = Request(
            self.command,
            split.path.removeprefix("/api/v1"),
            parse_qs(split.query),
            json.loads(body) if body else None,
        )
        answer = self.portal.answer(request)
        if answer is Break:
            self.close_connection = True
        elif isinstance(answer, Chunks):
            self._stream(answer)
        elif isinstance(answer, LabclusterError):
            self._send(answer.http_status, answer.problem(), problem=True)
        elif isinstance(answer, int):
            self._send(answer, None)
        else:
            self._send(200, answer)
        return None

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815 - http.server's names

    def _proven(self, body: bytes) -> bool:
        """As the portal: made for exactly this request, and never seen before."""
        scheme, _, credential = self.headers.get("Authorization", "").partition(" ")
        if scheme == "Bearer":
            return self.path == "/api/v1/site" or credential in self.portal.tokens
        digest = hashlib.sha256(body).hexdigest()
        expected = f"labcluster:{CLUSTER}\n{self.command} {self.path}\n{digest}".encode()
        fresh = credential not in self.portal.credentials
        self.portal.credentials.add(credential)
        return scheme == "Munge" and fresh and base64.b64decode(credential).partition(b"|")[2] == expected

    def _send(self, status: int, value: Any, problem: bool = False) -> None:
        text = b"<h1>proxy</h1>" if value is None else json.dumps(value).encode()
        self.send_response(status)
        kind = "application/problem+json" if problem else "application/json"
        self.send_header("Content-Type", "text/html" if value is None else kind)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _stream(self, chunks: Chunks) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for chunk in chunks:
            if chunk is Break:
                self.close_connection = True
                return
            assert isinstance(chunk, bytes)
            self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        self.wfile.write(b"0\r\n\r\n")


@pytest.fixture
def portal(certificate: tuple[Path, Path]) -> Iterator[FakePortal]:
    """A portal on loopback."""
    fake = FakePortal()
    handler = type("Handler", (_Handler,), {"portal": fake})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    fake.url = f"https://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield fake
    server.shutdown()
    server.server_close()
    thread.join()


class Done(NamedTuple):
    """What a labctl command left."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Standard output as JSON."""
        return json.loads(self.out)


Labctl = Callable[..., Done]


@pytest.fixture
def settings(portal: FakePortal, certificate: tuple[Path, Path], tmp_path: Path) -> Path:
    """labctl.toml of a login node that belongs to the portal."""
    path = tmp_path / "labctl.toml"
    path.write_text(f'portal = "{portal.url}"\ncluster = "{CLUSTER}"\nca = "{certificate[0]}"\n')
    return path


@pytest.fixture
def labctl(
    settings: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> Labctl:
    """Run labctl as ada types it; munge vouches for whatever it is given."""
    count = iter(range(1_000_000))
    encode = lambda payload: base64.b64encode(b"%d|" % next(count) + payload).decode()  # noqa: E731
    monkeypatch.setattr(munge_client, "encode", encode)
    monkeypatch.setattr(following, "_FIRST_POLL", 0.001)
    monkeypatch.setattr(parameters, "user_name", lambda: "ada")
    monkeypatch.setattr("labcluster.cli.ls.user_name", lambda: "ada")
    # The tests of test_code.py are about code that is kept; the others run in this repository itself.
    monkeypatch.setattr(code, "look", lambda folder: (None, None))
    monkeypatch.setenv("LABCTL_CONFIG", str(settings))
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setenv("COLUMNS", "80")

    def call(*words: str) -> Done:
        code = main(words)
        out, err = capsysbinary.readouterr()
        return Done(code, out.decode(), err.decode())

    return call


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labctl: Labctl) -> Lab:
    """A login node with the store of project vision, on which ada's home is tmp_path/home."""
    monkeypatch.setattr(code, "look", _LOOK)
    monkeypatch.setattr(code, "PROJECTS", str(tmp_path / "lab" / "projects"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "home").mkdir()
    return Lab(tmp_path / "lab")


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository, and the directory that labctl is called in."""
    root = repository(tmp_path / "net", {"train.py": "v1\n", "src/model.py": "m\n"})
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def accepting(portal: FakePortal) -> FakePortal:
    """A portal that accepts everything into project vision."""
    portal.on(
        "POST", "/runs/check", {key: value for key, value in run().items() if key not in ("id", "state")}
    )
    portal.on("POST", "/runs", run())
    return portal


def sent(portal: FakePortal, path: str = "/runs") -> dict[str, Any]:
    """The body of the last request to a path."""
    found: dict[str, Any] = [request for request in portal.requests if request.path == path][-1].body
    return found
