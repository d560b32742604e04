"""The token service over HTTPS. Its errors are the registry's own shape, which docker and podman show."""

from __future__ import annotations

import base64
import binascii
import logging
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field

from labcluster.errors import (
    LabclusterError,
    NotAllowedError,
    NotAuthenticatedError,
    UnreachableError,
    UsageError,
)
from labcluster.models.members import MEMBER_NAME
from labcluster.models.registry import Account
from labcluster.registry_tokens.wiring import Parts
from labcluster.services.registry_tokens import TokenService, parse_scopes

log = logging.getLogger("labcluster.registry_tokens")

_CODES: dict[type[LabclusterError], str] = {
    NotAuthenticatedError: "UNAUTHORIZED",
    NotAllowedError: "DENIED",
    UsageError: "UNSUPPORTED",
    UnreachableError: "UNAVAILABLE",
}


class LoginRequest(BaseModel):
    """For whom the portal wants a login."""

    model_config = ConfigDict(extra="forbid")

    user: str = Field(pattern=f"^{MEMBER_NAME.pattern}$")
    admin: bool = False


def account_of(request: Request) -> Account:
    """Who asks, by HTTP's basic authentication."""
    where = request.client.host if request.client else "?"
    service: TokenService = request.app.state.service
    username, password = _basic(request.headers.get("authorization", ""))
    try:
        return service.authenticate(username, password)
    except NotAuthenticatedError as error:
        log.warning("refused %r from %s: %s", username[:64], where, error)
        raise


Asker = Annotated[Account, Depends(account_of)]


def create_app(parts: Parts) -> FastAPI:
    """The application over its wired parts."""
    app = FastAPI(title="labcluster registry tokens", openapi_url=None, docs_url=None, redoc_url=None)
    app.state.service = service = parts.service

    @app.get("/token")
    def token(asker: Asker, scope: Annotated[list[str] | None, Query()] = None) -> dict[str, Any]:
        """A token for the registry (docker token authentication); other parameters do not matter."""
        scopes = parse_scopes(scope or [])
        try:
            answer = service.token(asker, scopes)
        except NotAllowedError as error:
            log.warning("refused %s: %s", asker.name, error)
            raise
        if asker.kind not in ("cluster", "node"):
            wanted = " ".join(f"{scope.name}:{','.join(scope.actions)}" for scope in scopes)
            log.info("%s %s asked for %s", asker.kind, asker.name, wanted or "nothing")
        return answer

    @app.post("/login")
    def login(asker: Asker, request: LoginRequest) -> dict[str, Any]:
        """A short-lived password for somebody whom the portal has authenticated."""
        password, seconds = service.login(asker, request.user, admin=request.admin)
        return {"username": request.user, "password": password, "expires_in": seconds}

    @app.get("/usage")
    def usage(asker: Asker) -> dict[str, int]:
        """Bytes by project, `common` and `labcluster`."""
        if asker.kind != "cluster":
            raise NotAllowedError("only the cluster itself may ask what all projects use")
        return {project: parts.storage.used(project) for project in parts.storage.projects()}

    @app.get("/healthz")
    async def healthz() -> PlainTextResponse:
        """Whether this process answers; the directory may be away."""
        return PlainTextResponse("ok\n")

    @app.exception_handler(LabclusterError)
    def known(_: Request, error: LabclusterError) -> JSONResponse:
        if isinstance(error, UnreachableError):
            log.warning("could not answer: %s", error)
            error = UnreachableError(f"nobody can be recognised now, try again soon: {error}")
        return _answer(error)

    @app.exception_handler(RequestValidationError)
    def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return _answer(UsageError(str(error.errors()[0].get("msg", "the request is not valid"))))

    return app


def _basic(header: str) -> tuple[str, str]:
    scheme, _, text = header.partition(" ")
    if scheme.lower() != "basic" or not text:
        raise NotAuthenticatedError("log in first, with your name and password of the cluster")
    try:
        username, separator, password = base64.b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        separator = username = password = ""
    if not separator:
        raise NotAuthenticatedError("the Authorization header is no name and password")
    return username, password


def _answer(error: LabclusterError) -> JSONResponse:
    code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), "UNKNOWN")
    headers = {"Cache-Control": "no-store"}
    if isinstance(error, NotAuthenticatedError):
        headers["WWW-Authenticate"] = 'Basic realm="labcluster"'
    if isinstance(error, UnreachableError):
        headers["Retry-After"] = "5"
    body = {"errors": [{"code": code, "message": error.detail}]}
    return JSONResponse(body, error.http_status, headers)
