"""The outermost layer of the server: nothing of MLflow sees a request that has not passed here."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from typing import Any, Protocol
from urllib.parse import parse_qsl

from anyio import to_thread

from labcluster_mlflow.assertions import HEADER, Assertions, Passage
from labcluster_mlflow.routes import Routes, honest

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: Whose request is being served, as MLflow's account; set here alone, read by `accounts.authorize`.
ACCOUNT: ContextVar[str] = ContextVar("account")

_WORKSPACE = b"x-mlflow-workspace"
# What MLflow could take for a proof of its own.
_DROPPED = {HEADER, _WORKSPACE, b"authorization", b"x-mlflow-authorization", b"cookie"}
# Of queries: where they say a place among the artifacts.
_PLACES = {"path", "artifact_path", "artifact_file_path"}

# What the pages are told, and not the clients: here the address says which workspace it is. They would offer
# to choose and to make one, and ask for consent to telemetry that nobody collects.
_FOR_PAGES: dict[tuple[str, str], dict[str, Any]] = {
    ("GET", "/ajax-api/3.0/mlflow/server-info"): {
        "store_type": "SqlStore",
        "workspaces_enabled": False,
        "trace_archival_enabled": False,
        "multipart_uploads_enabled": False,
        "multipart_downloads_enabled": False,
        "features_enabled": {"gateway": False},
    },
    ("GET", "/ajax-api/3.0/mlflow/ui-telemetry"): {
        "disable_ui_telemetry": True,
        "disable_ui_events": [],
        "ui_rollout_percentage": 0,
    },
}


class Accounts(Protocol):
    """What must be there before MLflow lets anybody in."""

    def ensure(self, passage: Passage) -> None:
        """Make the project's workspace and the account with its rights, unless they are there."""


class Door:
    """Lets in what the portal vouches for, into the workspace that it names."""

    def __init__(self, app: App, assertions: Assertions, accounts: Accounts, routes: Routes) -> None:
        self._app = app
        self._assertions = assertions
        self._accounts = accounts
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif (scope["method"], scope["path"]) == ("GET", "/health"):
            # The kubelet's: MLflow answers it without looking at anything.
            await self._app({**scope, "headers": []}, receive, send)
        else:
            await self._pass(scope, receive, send)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = [value for name, value in scope["headers"] if name.lower() == HEADER]
        passage = self._assertions.read(found[0].decode("latin-1")) if len(found) == 1 else None
        if passage is None:
            await _refuse(send, 401, "UNAUTHENTICATED", "this server is reached through the portal only")
            return
        told = _FOR_PAGES.get((scope["method"], scope["path"]))
        if told is not None:
            await _answer(send, 200, told)
            return
        if not self._routes.opens(scope["method"], scope["path"]) or not _honest_query(scope["query_string"]):
            what = f"{scope['method']} {scope['path']}"[:200]
            await _refuse(send, 403, "PERMISSION_DENIED", f"{what} is not open on this cluster")
            return
        await to_thread.run_sync(self._accounts.ensure, passage)
        headers = [(name, value) for name, value in scope["headers"] if name.lower() not in _DROPPED]
        headers.append((_WORKSPACE, passage.project.encode()))
        token = ACCOUNT.set(passage.account)
        try:
            await self._app({**scope, "headers": headers}, receive, send)
        finally:
            ACCOUNT.reset(token)


def _honest_query(query: bytes) -> bool:
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    return all(honest(value) for name, value in pairs if name in _PLACES)


async def _refuse(send: Send, status: int, code: str, message: str) -> None:
    """Answer in the form that MLflow's own clients understand."""
    await _answer(send, status, {"error_code": code, "message": message})


async def _answer(send: Send, status: int, content: dict[str, Any]) -> None:
    body = json.dumps(content).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
