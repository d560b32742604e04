"""Commands in pods, against a server that speaks the apiserver's v5.channel.k8s.io."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from kubernetes import client
from labcluster.adapters.exec import KubeExec, KubeExecStream
from labcluster.adapters.kube import KubeApi
from labcluster.errors import NotAllowedError, NotFoundError, UnreachableError
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

OUT, ERR, STATUS = b"\x01", b"\x02", b"\x03"
GOOD = STATUS + json.dumps({"status": "Success"}).encode()

Behaviour = Callable[[ServerConnection], None]


class Apiserver:
    """Answers every exec as it is told."""

    def __init__(self) -> None:
        self.behave: Behaviour = lambda _: None
        self.refuse: tuple[int, str] | None = None
        self.requests: list[Request] = []
        self.received: list[bytes] = []
        self.url = ""

    def check(self, connection: ServerConnection, request: Request) -> Response | None:
        """Refuse, or let the WebSocket be opened."""
        self.requests.append(request)
        if self.refuse is None:
            return None
        code, message = self.refuse
        return connection.respond(HTTPStatus(code), json.dumps({"kind": "Status", "message": message}))

    def handle(self, connection: ServerConnection) -> None:
        """One exec, and what the client sends until it leaves."""
        self.behave(connection)
        try:
            while True:
                message = connection.recv()
                assert isinstance(message, bytes)
                self.received.append(message)
        except ConnectionClosed:
            pass


@pytest.fixture
def apiserver() -> Iterator[Apiserver]:
    fake = Apiserver()
    server = serve(
        fake.handle,
        "127.0.0.1",
        0,
        process_request=fake.check,
        subprotocols=["v5.channel.k8s.io"],  # type: ignore[list-item]
    )
    fake.url = f"http://127.0.0.1:{server.socket.getsockname()[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield fake
    server.shutdown()
    thread.join()


@pytest.fixture
def starts(apiserver: Apiserver) -> KubeExec:
    configuration = client.Configuration(host=apiserver.url)
    configuration.api_key = {"authorization": "Bearer the-portals"}
    return KubeExec(KubeApi(configuration), "labcluster:shell")


async def opened(starts: KubeExec) -> KubeExecStream:
    return await starts.open("project-vision", "run-vision-7-x", "run", ["/labcluster/labssh"], user="ada")


async def everything(stream: KubeExecStream) -> bytes:
    return b"".join([block async for block in stream])


def says(*messages: bytes) -> Behaviour:
    """Send these and close."""

    def behave(connection: ServerConnection) -> None:
        for message in messages:
            connection.send(message)
        connection.close()

    return behave


def test_the_exec_is_the_users_with_one_group(apiserver: Apiserver, starts: KubeExec) -> None:
    apiserver.behave = says(OUT, OUT + b"SSH-2.0\n", ERR + b"note", OUT + b"\x00\xff", GOOD)

    async def act() -> tuple[bytes, KubeExecStream]:
        stream = await opened(starts)
        out = await everything(stream)
        await stream.close()
        return out, stream

    out, stream = asyncio.run(act())
    assert out == b"SSH-2.0\n\x00\xff"
    assert (stream.complaint, stream.succeeded) == ("note", True)
    request = apiserver.requests[0]
    assert urlsplit(request.path).path == "/api/v1/namespaces/project-vision/pods/run-vision-7-x/exec"
    assert parse_qs(urlsplit(request.path).query) == {
        "container": ["run"],
        "command": ["/labcluster/labssh"],
        **{name: ["true"] for name in ("stdin", "stdout", "stderr")},
    }
    said: Any = {name.lower(): value for name, value in request.headers.raw_items()}
    assert (said["impersonate-user"], said["impersonate-group"]) == ("ada", "labcluster:shell")
    assert said["authorization"] == "Bearer the-portals"


def test_input_is_framed_and_its_end_is_told(apiserver: Apiserver, starts: KubeExec) -> None:
    apiserver.behave = lambda connection: connection.send(OUT + b"ready")

    async def act() -> None:
        stream = await opened(starts)
        await stream.send(b"abc")
        await stream.send(b"\x00\x01")
        await stream.close()

    asyncio.run(act())
    assert apiserver.received == [b"\x00abc", b"\x00\x00\x01", b"\xff\x00"]


@pytest.mark.parametrize(
    ("code", "kind"), [(403, NotAllowedError), (404, NotFoundError), (500, UnreachableError)]
)
def test_a_refusal_keeps_its_meaning(
    apiserver: Apiserver, starts: KubeExec, code: int, kind: type[Exception]
) -> None:
    apiserver.refuse = (code, 'pods "x" is what it is')
    with pytest.raises(kind, match='pods "x" is what it is'):
        asyncio.run(opened(starts))


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([STATUS + b'{"status": "Failure", "message": "no such file: labssh"}'], "no such file: labssh"),
        ([ERR + b"exec format error\n", STATUS + b"{}"], "exec format error"),
        ([STATUS + b"not json"], "not json"),
        ([], "the connection broke"),
    ],
)
def test_a_command_that_does_not_start_is_told(
    apiserver: Apiserver, starts: KubeExec, messages: list[bytes], words: str
) -> None:
    apiserver.behave = says(*messages)
    with pytest.raises(UnreachableError, match=words):
        asyncio.run(opened(starts))


@pytest.mark.parametrize(
    "last", [[], [STATUS + b'{"status": "Failure", "message": "command terminated with exit code 137"}']]
)
def test_a_killed_command_has_not_succeeded(
    apiserver: Apiserver, starts: KubeExec, last: list[bytes]
) -> None:
    apiserver.behave = says(OUT + b"ready", *last)

    async def act() -> KubeExecStream:
        stream = await opened(starts)
        assert await everything(stream) == b"ready"
        await stream.send(b"nobody takes it")  # quiet: the end is told by the output
        await stream.close()
        return stream

    assert not asyncio.run(act()).succeeded


def test_an_apiserver_that_is_away_is_told(starts: KubeExec) -> None:
    away = KubeExec(KubeApi(client.Configuration(host="http://127.0.0.1:1")), "labcluster:shell")
    with pytest.raises(UnreachableError, match="does not answer"):
        asyncio.run(opened(away))
