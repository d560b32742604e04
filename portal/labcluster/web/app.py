"""The portal as a web application."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI, Response
from fastapi.responses import PlainTextResponse
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import Headers
from starlette.middleware.sessions import SessionMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from labcluster.errors import LabclusterError, UsageError
from labcluster.services.authentication import MUNGE
from labcluster.services.experiments import MAX_BODY as MAX_EXPERIMENT_BODY
from labcluster.services.experiments import PREFIX, is_upload
from labcluster.web import (
    access,
    account,
    admin,
    api,
    login,
    mlflow,
    notices,
    pages,
    problems,
    registry,
    reproductions,
    usage,
)
from labcluster.web.wiring import Portal, PortalOf

MAX_BODY = 1024 * 1024
# Several submits in one: each of them stays below the other limit by what its fields allow.
MAX_BULK_BODY = 16 * 1024 * 1024
_BULK = "/api/v1/runs/bulk"

_HEADERS = (
    (b"content-security-policy", b"default-src 'self'; frame-ancestors 'none'; base-uri 'none'"),
    (b"referrer-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
)


def create_app(portal: Portal) -> FastAPI:
    """The application over a wired portal."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        portal.background.start()
        yield
        portal.background.stop()
        if portal.experiments is not None:
            await portal.experiments.upstream.close()

    app = FastAPI(
        title="labcluster",
        version=version("labcluster"),
        description="Submit and follow runs. Errors are RFC 9457 problem documents whose `code` is labctl's.",
        openapi_url="/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.portal = portal
    app.include_router(api.router)
    app.include_router(access.router)
    app.include_router(admin.router)
    app.include_router(usage.router)
    app.include_router(account.router)
    app.include_router(notices.router)
    app.include_router(reproductions.router)
    app.include_router(registry.router)
    app.include_router(pages.router)
    app.include_router(login.router)
    app.include_router(mlflow.router)
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"))
    problems.install(app)
    if portal.login is not None:
        app.add_middleware(
            SessionMiddleware,
            secret_key=portal.login.session_key,
            session_cookie="__Host-labcluster",
            max_age=portal.login.settings.session_hours * 3600,
            same_site="lax",
            https_only=True,
        )
    app.add_middleware(Guard)

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> Response:
        """Whether this process answers."""
        return PlainTextResponse("ok\n")

    @app.get("/readyz", include_in_schema=False)
    def readyz(portal: PortalOf) -> Response:
        """Whether database and watches are there."""
        try:
            portal.check()
        except LabclusterError as error:
            return problems.respond(error)
        return PlainTextResponse("ok\n")

    return app


class Guard:
    """Bounds every request's body and sets what browsers are to obey, without buffering answers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count what arrives and complete the headers of what leaves."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = _most(scope)
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > most:
            await problems.respond(_too_large(most))(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > most:
                raise _too_large(most)
            return message

        async def completed(message: Message) -> None:
            if message["type"] == "http.response.start":
                said = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(item for item in _HEADERS if item[0] not in said),
                ]
            await send(message)

        await self._app(scope, counted, completed)


def _most(scope: Scope) -> int:
    """How many bytes a request may have."""
    path = scope["path"]
    if not path.startswith(PREFIX):
        return MAX_BULK_BODY if path.startswith(_BULK) else MAX_BODY
    if Headers(scope=scope).get("authorization", "").lower().startswith(MUNGE):
        return MAX_BODY  # read as a whole, before anything is proven
    # Artifacts are as large as the storage lets them be.
    return sys.maxsize if is_upload(scope["method"], path) else MAX_EXPERIMENT_BODY


def _too_large(most: int) -> UsageError:
    return UsageError(f"a request has at most {most // 1024} KiB")
