"""Every failure leaves as an RFC 9457 problem document."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from labcluster.errors import (
    LabclusterError,
    NotAuthenticatedError,
    NotFoundError,
    UnreachableError,
    UsageError,
)

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"


def respond(error: LabclusterError) -> JSONResponse:
    """The problem document of an error."""
    headers = {}
    if isinstance(error, NotAuthenticatedError):
        headers["WWW-Authenticate"] = "Munge, Bearer"
    if isinstance(error, UnreachableError):
        headers["Retry-After"] = "2"
    return JSONResponse(error.problem(), error.http_status, headers, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Turn all failures of the application into problem documents."""

    @app.exception_handler(LabclusterError)
    def known(_: Request, error: LabclusterError) -> JSONResponse:
        if isinstance(error, UnreachableError):
            log.warning("refused a request: %s", error)
        return respond(error)

    @app.exception_handler(RequestValidationError)
    def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return respond(UsageError("; ".join(_say(entry) for entry in error.errors()[:3])))

    @app.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 404:
            return respond(NotFoundError(f"there is nothing at {request.url.path}"))
        problem = UsageError(str(error.detail)).problem() | {"status": error.status_code}
        return JSONResponse(problem, error.status_code, error.headers, media_type=MEDIA_TYPE)

    @app.exception_handler(Exception)
    def unknown(_: Request, error: Exception) -> JSONResponse:
        # Starlette logs the traceback after this answer.
        return respond(LabclusterError(f"the portal failed ({type(error).__name__}); its log says more"))


def _say(entry: dict[str, object]) -> str:
    location = entry.get("loc")
    parts = [str(part) for part in location if part not in ("body", "query", "path")] if location else []  # type: ignore[attr-defined]
    where = ".".join(parts)
    message = str(entry.get("msg", "is not valid"))
    return f"{where}: {message[:1].lower()}{message[1:]}" if where else message
