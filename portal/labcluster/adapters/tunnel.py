"""The client's end of a connection into a run: standard input and output over a WebSocket to the portal."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from collections.abc import Mapping

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from labcluster.adapters.portal import Portal
from labcluster.errors import LabclusterError, UnreachableError, from_problem

_OPEN_SECONDS = 40.0
_CLOSE_SECONDS = 3.0
_PING_SECONDS = 20.0
# ssh may be suspended (Ctrl-Z) and take nothing for a while.
_PONG_SECONDS = 120.0
_BLOCK = 128 * 1024


def run(portal: Portal, path: str, query: Mapping[str, object], *, stdin: int = 0, stdout: int = 1) -> None:
    """Copy both ways until either side ends; whatever else ends it is raised."""
    asyncio.run(_run(portal, path, query, stdin, stdout))


async def _run(portal: Portal, path: str, query: Mapping[str, object], stdin: int, stdout: int) -> None:
    request = portal.socket(path, query)
    try:
        socket = await connect(
            request.url,
            additional_headers=request.headers,
            ssl=request.tls,
            compression=None,
            proxy=None,
            open_timeout=_OPEN_SECONDS,
            close_timeout=_CLOSE_SECONDS,
            ping_interval=_PING_SECONDS,
            ping_timeout=_PONG_SECONDS,
        )
    except InvalidStatus as error:
        answer = error.response
        kind = answer.headers.get("Content-Type", "")
        raise portal.refusal(
            "GET", request.target, answer.status_code, answer.reason_phrase, kind, bytes(answer.body)
        ) from None
    except ssl.SSLCertVerificationError as error:
        raise UnreachableError(
            f"{portal.url} is not the portal of this site ({error.verify_message}): tell your administrator"
        ) from None
    except (OSError, TimeoutError, InvalidHandshake) as error:
        raise UnreachableError(
            f"the portal does not answer at {portal.url} ({_reason(error)}): try again in a minute"
        ) from None
    for descriptor in (stdin, stdout):
        os.set_blocking(descriptor, False)
    tasks = [asyncio.create_task(_send(socket, stdin)), asyncio.create_task(_receive(socket, stdout))]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await socket.close()


async def _send(socket: ClientConnection, stdin: int) -> None:
    """Standard input to the portal, until its end."""
    while block := await _read(stdin):
        try:
            await socket.send(block)
        except ConnectionClosed:
            # Why it closed is what the other direction says.
            await asyncio.Event().wait()


async def _receive(socket: ClientConnection, stdout: int) -> None:
    """What the portal sends to standard output, until it closes the connection."""
    async for message in socket:
        if isinstance(message, str):
            raise _told(message)
        try:
            await _write(stdout, message)
        except OSError:  # ssh has gone
            return
    code = socket.close_code
    if code not in (1000, 1001):
        raise UnreachableError("the connection to the portal broke: connect again")


# Descriptors are watched and not wrapped in asyncio's pipe transports: those take it for the end when
# standard input and output are one socket, which is what sshd gives to a command.


async def _read(descriptor: int) -> bytes:
    while True:
        try:
            return os.read(descriptor, _BLOCK)
        except BlockingIOError:
            await _ready(descriptor, writing=False)
        except OSError:
            return b""


async def _write(descriptor: int, block: bytes) -> None:
    view = memoryview(block)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            await _ready(descriptor, writing=True)


async def _ready(descriptor: int, *, writing: bool) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    if writing:
        loop.add_writer(descriptor, wake)
    else:
        loop.add_reader(descriptor, wake)
    try:
        await ready
    finally:
        if writing:
            loop.remove_writer(descriptor)
        else:
            loop.remove_reader(descriptor)


def _told(message: str) -> LabclusterError:
    try:
        return from_problem(json.loads(message))
    except (ValueError, AttributeError):
        return LabclusterError(f"the portal said {message[:200]!r}: tell your administrator")


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()  # asyncio's own text names the address
    return str(error) or type(error).__name__
