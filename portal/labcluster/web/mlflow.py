"""MLflow of each project at /mlflow/w/<project>/: its pages, its REST interface, its artifacts.

The portal proves who asks and passes on what members may; MLflow believes nobody else. Bodies are never kept:
what arrives goes on, in both directions.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from labcluster.errors import NotAuthenticatedError, NotFoundError, UnreachableError
from labcluster.models.callers import Caller
from labcluster.services.authentication import MUNGE
from labcluster.services.experiments import PREFIX, Target, answer_headers, read_target, request_headers
from labcluster.web.wiring import (
    NEXT,
    Experiments,
    Portal,
    portal_of,
    require_same_origin,
    session_user,
    target_of,
)

router = APIRouter(include_in_schema=False)

# How many bytes go to a client before it is asked whether it is still there.
_LOOK_BYTES = 4 << 20


@router.api_route(PREFIX + "{rest:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
async def pass_on(request: Request) -> Response:
    """Pass a member's request on to MLflow, and its answer back."""
    portal = portal_of(request)
    path, question, query = target_of(request).partition("?")
    target = read_target(path)
    if portal.experiments is None:
        raise NotFoundError("this portal has no MLflow")
    try:
        caller = await _caller(request, portal)
    except NotAuthenticatedError:
        if portal.login is None or not _is_page(request):
            raise
        request.session[NEXT] = f"{PREFIX}{target.project}/"
        return RedirectResponse("/login", 302)
    assertion = await run_in_threadpool(portal.experiments.service.enter, caller, target.project)
    if not target.path:
        # Its pages name everything else relative to where they are.
        return RedirectResponse(f"{PREFIX}{target.project}/", 308)
    return _Passed(request, portal.experiments, target, target.path + question + query, assertion)


async def _caller(request: Request, portal: Portal) -> Caller:
    portal.require_view()
    header = request.headers.get("authorization")
    if header is None and (user := session_user(request)) is not None:
        require_same_origin(request)
        return await run_in_threadpool(portal.authenticator.member, user)
    # A munge credential is bound to the body, which is small where labctl asks.
    body = await request.body() if (header or "").lower().startswith(MUNGE) else b""
    return await run_in_threadpool(
        portal.authenticator.authenticate, header, request.method, target_of(request), body, pods=True
    )


def _is_page(request: Request) -> bool:
    return request.method == "GET" and "text/html" in request.headers.get("accept", "")


class _Passed(Response):
    """MLflow's answer while it arrives. Until its head is there, a failure is answered as one of ours."""

    def __init__(
        self, request: Request, experiments: Experiments, target: Target, sent: str, assertion: str
    ) -> None:
        super().__init__()
        self._request = request
        self._experiments = experiments
        self._target = target
        self._sent = sent
        self._assertion = assertion

    async def __call__(self, _: Scope, __: Receive, send: Send) -> None:
        """Ask MLflow and answer."""
        request = self._request
        has_body = "content-length" in request.headers or "transfer-encoding" in request.headers
        asking = self._experiments.upstream.open(
            request.method,
            self._sent,
            request_headers(request.headers.raw, self._assertion),
            request.stream() if has_body else None,
        )
        try:
            async with asking as answer:
                if answer.status_code == 401:
                    raise UnreachableError("MLflow does not believe the portal: its key is another one")
                await self._give(answer, send)
        except ClientDisconnect:
            return  # nobody is there to be answered

    async def _give(self, answer: Any, send: Send) -> None:
        headers = answer_headers(answer.headers.raw, self._target)
        await send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
        unseen = 0
        async for block in answer.aiter_raw():
            await send({"type": "http.response.body", "body": block, "more_body": True})
            unseen += len(block)
            if unseen > _LOOK_BYTES:
                unseen = 0
                if await self._request.is_disconnected():
                    return
        await send({"type": "http.response.body", "body": b"", "more_body": False})
