"""Connections into runs: a WebSocket whose binary messages are the ssh connection to the run's pod.

Everything here waits in the event loop, so that a session that lasts for days costs no thread. A refusal is
answered instead of the WebSocket, as a problem document; what is to be said after that is a text message
with one.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, WebSocket
from fastapi.concurrency import run_in_threadpool
from starlette.websockets import WebSocketDisconnect, WebSocketState

from labcluster.errors import ConflictError, LabclusterError, UnreachableError
from labcluster.services.access import SERVER, Door, ExecStream
from labcluster.web import problems
from labcluster.web.wiring import Entrance, Portal, target_of

#: One JSON object a line: who went into which run, from where, for how long. Never what was typed.
audit = logging.getLogger("labcluster.audit")
log = logging.getLogger(__name__)

router = APIRouter(prefix="/api/v1")

# How long the news of a container's end may take to reach the watches, in seconds.
_END_SECONDS = 5.0
_END_POLL = 0.1


@dataclass
class _Passed:
    """Bytes that went through."""

    to_run: int = 0
    from_run: int = 0


@router.websocket("/runs/{run_id}/ssh")
async def ssh(websocket: WebSocket, run_id: str, rank: Annotated[int, Query(ge=0)] = 0) -> None:
    """An ssh connection into one of the caller's own running pods."""
    portal: Portal = websocket.app.state.portal
    entrance = portal.entrance
    try:
        door = await _door(websocket, portal, run_id, rank)
        with entrance.sessions.enter(door.user):
            await _serve(websocket, entrance, door)
    except LabclusterError as error:
        if websocket.client_state is WebSocketState.DISCONNECTED:
            return
        if isinstance(error, UnreachableError):
            log.warning("refused a connection into %s: %s", run_id, error)
        await websocket.send_denial_response(problems.respond(error))


async def _door(websocket: WebSocket, portal: Portal, run_id: str, rank: int) -> Door:
    """The door, if the caller may pass it now.

    The header alone proves him and never a cookie: a browser sends cookies with WebSockets that a foreign
    page opens.
    """
    portal.require_view()
    header = websocket.headers.get("authorization")
    caller = await run_in_threadpool(
        portal.authenticator.authenticate, header, "GET", target_of(websocket), b""
    )
    return await run_in_threadpool(portal.entrance.access.door, caller, run_id, rank)


async def _serve(websocket: WebSocket, entrance: Entrance, door: Door) -> None:
    stream = await entrance.exec.open(door.namespace, door.pod, door.container, SERVER, user=door.user)
    about = {
        "session": uuid.uuid4().hex[:12],
        "user": door.user,
        "run": door.run.id,
        "pod": f"{door.namespace}/{door.pod}",
        "from": websocket.client.host if websocket.client else None,
    }
    begun = time.monotonic()
    passed = _Passed()
    end = "the portal stopped"
    try:
        await websocket.accept()
        _say(event="session-start", **about)
        end = await _pass(websocket, stream, passed)
        if end == "the connection to the pod ended":
            end = await _explain(websocket, entrance, door, stream)
    finally:
        _say(
            event="session-end",
            **about,
            seconds=round(time.monotonic() - begun, 1),
            bytes_to_run=passed.to_run,
            bytes_from_run=passed.from_run,
            end=end,
        )
        await stream.close()


async def _pass(websocket: WebSocket, stream: ExecStream, passed: _Passed) -> str:
    """Copy both ways until one side ends; the answer says which."""

    async def to_run() -> str:
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                return "left"
            block = message.get("bytes") or b""
            await stream.send(block)
            passed.to_run += len(block)

    async def from_run() -> str:
        try:
            async for block in stream:
                await websocket.send_bytes(block)
                passed.from_run += len(block)
        except WebSocketDisconnect:
            return "left"
        return "the connection to the pod ended"

    tasks = [asyncio.create_task(to_run()), asyncio.create_task(from_run())]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return done.pop().result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _explain(websocket: WebSocket, entrance: Entrance, door: Door, stream: ExecStream) -> str:
    """Tell the client why his connection ended, and close it."""
    error: LabclusterError | None = None
    if not stream.succeeded:
        error = UnreachableError(f"the connection to run {door.run.id} broke: connect again")
        for _ in range(int(_END_SECONDS / _END_POLL)):
            if entrance.access.ended(door):
                error = ConflictError(f"run {door.run.id} has ended, and this connection with it")
                break
            await asyncio.sleep(_END_POLL)
        else:
            log.warning("the connection to %s broke: %s", door.run.id, stream.complaint or "no reason given")
    try:
        if error is not None:
            await websocket.send_text(json.dumps(error.problem()))
        await websocket.close()
    except (WebSocketDisconnect, RuntimeError):
        return "left"
    return error.detail if error else "left"


def _say(**what: Any) -> None:
    audit.info(json.dumps(what))
