"""Commands in pods: Kubernetes' exec over a WebSocket.

It is asynchronous, unlike the rest of the adapters: a session lasts for days and must cost no thread. What
nobody takes is not read, in both directions, so that a slow end slows the other down instead of filling
our memory.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from labcluster.adapters.kube import KubeApi, failure_of
from labcluster.errors import UnreachableError

_PROTOCOL = Subprotocol("v5.channel.k8s.io")
# Each message begins with its channel's number.
_STDIN, _STDOUT, _STDERR, _STATUS, _CLOSE = 0, 1, 2, 3, 255
_OPEN_SECONDS = 15.0
_CLOSE_SECONDS = 5.0
_PING_SECONDS = 20.0
# A peer that takes nothing for so long has gone; a suspended client may well be silent for a minute.
_PONG_SECONDS = 120.0
_KEPT_STDERR = 2000


class KubeExec:
    """Starts commands in containers under the name of a user and one group that we may act for."""

    def __init__(self, api: KubeApi, group: str) -> None:
        self._api = api
        self._group = group

    async def open(
        self, namespace: str, pod: str, container: str, command: Sequence[str], *, user: str
    ) -> KubeExecStream:
        """The command's standard input and output, once it has printed its first bytes."""
        words = [("container", container), ("stdin", "true"), ("stdout", "true"), ("stderr", "true")]
        query = urlencode([*words, *(("command", word) for word in command)])
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/exec?{query}"
        # Reading the token and the certificates touches files.
        target = await asyncio.to_thread(self._api.socket, path, user=user, group=self._group)
        try:
            connection = await connect(
                target.url,
                additional_headers=target.headers,
                ssl=target.tls,
                subprotocols=[_PROTOCOL],
                compression=None,
                proxy=None,
                open_timeout=_OPEN_SECONDS,
                close_timeout=_CLOSE_SECONDS,
                ping_interval=_PING_SECONDS,
                ping_timeout=_PONG_SECONDS,
            )
        except InvalidStatus as error:
            answer = error.response
            raise failure_of(answer.status_code, answer.reason_phrase, bytes(answer.body)) from error
        except (OSError, TimeoutError, InvalidHandshake) as error:
            raise UnreachableError(
                f"the Kubernetes API does not answer: {error or type(error).__name__}"
            ) from error
        stream = KubeExecStream(connection)
        try:
            async with asyncio.timeout(_OPEN_SECONDS):
                await stream.begin()
        except BaseException as error:
            await stream.close()
            if isinstance(error, TimeoutError):
                raise UnreachableError(f"the command in pod {pod} does not start") from error
            raise
        return stream


class KubeExecStream:
    """One command that runs."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._first = b""
        self._errors = b""
        self._status: str | None = None

    @property
    def complaint(self) -> str:
        """What the command wrote to standard error last."""
        return self._errors.decode("utf-8", "replace").strip()

    @property
    def succeeded(self) -> bool:
        """Whether the command has ended by itself, and well."""
        return self._status == "Success"

    async def begin(self) -> None:
        """Wait for the first output; UnreachableError with the reason if the command ends before it."""
        block = await self._read()
        if block is None:
            why = self.complaint or self._status or "the connection broke"
            raise UnreachableError(f"the command in the pod did not start: {why}")
        self._first = block

    async def send(self, block: bytes) -> None:
        """Give the command input; waits while it does not take it. Quiet when the command has ended."""
        try:
            await self._connection.send(bytes([_STDIN]) + block)
        except ConnectionClosed:
            return

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The command's output until its end."""
        first, self._first = self._first, b""
        if first:
            yield first
        while (block := await self._read()) is not None:
            yield block

    async def close(self) -> None:
        """End the command's input and the connection."""
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._connection.send(bytes([_CLOSE, _STDIN]))
        except (TimeoutError, WebSocketException):
            pass
        await self._connection.close()

    async def _read(self) -> bytes | None:
        """The next output that is not empty, or None at the end."""
        while True:
            try:
                message = await self._connection.recv(decode=False)
            except ConnectionClosed:
                return None
            channel, block = message[0] if message else _STDOUT, message[1:]
            if channel == _STDOUT and block:
                return block
            if channel == _STDERR:
                self._errors = (self._errors + block)[-_KEPT_STDERR:]
            elif channel == _STATUS:
                self._status = _said(block)
                return None


def _said(status: bytes) -> str:
    """The text of the status with which the apiserver ends an exec."""
    try:
        found = json.loads(status)
        good = found.get("status") == "Success"
        return "Success" if good else str(found.get("message") or "it ended")
    except (ValueError, AttributeError):
        return status.decode("utf-8", "replace")
