"""A server in MLflow's place: says what it was sent, keeps nothing, and gives as much as it is asked for."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

BLOCK = b"0123456789abcdef" * 4096


class StandInMlflow:
    """Implements ASGI. `GET /get-artifact?path=<bytes>` gives so many; else the answer says what came."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.status = 200
        self.headers: list[tuple[bytes, bytes]] = [(b"content-type", b"application/json")]
        #: How much of a body had come when the portal was asked for the rest.
        self.gate: Callable[[int], None] = lambda _: None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        digest, size, more = hashlib.sha256(), 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.asked.append({"path": scope["path"], "broken": True})
                return
            body = message.get("body", b"")
            digest.update(body)
            size += len(body)
            self.gate(size)
            more = message.get("more_body", False)
        said = {
            "method": scope["method"],
            "path": scope["raw_path"].decode(),
            "query": scope["query_string"].decode(),
            "headers": [[name.decode(), value.decode()] for name, value in scope["headers"]],
            "size": size,
            "sha256": digest.hexdigest(),
        }
        self.asked.append(said)
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        if scope["path"] == "/get-artifact":
            left = int(scope["query_string"].decode().partition("=")[2])
            while left > 0:
                await send({"type": "http.response.body", "body": BLOCK[:left], "more_body": True})
                left -= len(BLOCK)
            await send({"type": "http.response.body", "body": b""})
        else:
            await send({"type": "http.response.body", "body": json.dumps(said).encode()})


@contextmanager
def serving(app: Any, **options: Any) -> Iterator[str]:
    """An application on a port of loopback; its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, **options))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
