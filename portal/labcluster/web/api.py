"""REST for users: /api/v1."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Annotated

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import APIRouter, BackgroundTasks, Depends, Query, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from labcluster.errors import ConflictError
from labcluster.models.arms import SweepView
from labcluster.models.cancelling import CancelAnswer, CancelRequest
from labcluster.models.nodes import NodeList
from labcluster.models.problems import Problem
from labcluster.models.runs import (
    BulkAnswer,
    BulkRequest,
    NewRun,
    NewRunList,
    Queue,
    Run,
    RunList,
    RunRequest,
    RunState,
    RunView,
    WhoAmI,
)
from labcluster.services.logs import LogTail
from labcluster.web.problems import MEDIA_TYPE
from labcluster.web.wiring import CallerOf, Portal, PortalOf, caller_of

PROBLEMS: dict[int | str, dict[str, object]] = {
    status: {"description": meaning, "content": {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}}
    for status, meaning in (
        (400, "The request itself is wrong (code 2)"),
        (401, "The caller is not proven (code 3)"),
        (403, "The caller may not do this (code 3)"),
        (404, "There is no such thing (code 4)"),
        (409, "It clashes with what exists, or with a quota (code 5)"),
        (503, "A part of the cluster does not answer; nothing was accepted (code 6)"),
    )
}

# About what is made until the reconciler looks.
_MAX_WAITING_FOR_JOBS = 100

router = APIRouter(prefix="/api/v1", responses=PROBLEMS)


@router.post("/runs", status_code=201, responses={200: {"model": RunView, "description": "Accepted before"}})
def submit_run(
    request: RunRequest, response: Response, caller: CallerOf, portal: PortalOf, after: BackgroundTasks
) -> RunView:
    """Submit a run or an array. The same idempotency key again gives the same one with status 200."""
    run, created = portal.runs.submit(caller, request)
    if created:
        after.add_task(_make_jobs, portal, [run])
    response.status_code = 201 if created else 200
    response.headers["Location"] = f"/api/v1/runs/{run.array_id or run.id}"
    return RunView.of(portal.runs.look(caller, run.array_id) if run.array_id else run)


@router.post(
    "/runs/bulk", status_code=201, responses={200: {"model": BulkAnswer, "description": "Accepted before"}}
)
def submit_runs(
    request: BulkRequest, response: Response, caller: CallerOf, portal: PortalOf, after: BackgroundTasks
) -> BulkAnswer:
    """Submit several runs, of which all or none are accepted; an error names the first bad one as a line."""
    runs, created = portal.runs.submit_all(caller, request)
    if created:
        after.add_task(_make_jobs, portal, runs)
    response.status_code = 201 if created else 200
    return BulkAnswer(ids=[run.array_id or run.id for run in runs])


async def _make_jobs(portal: Portal, runs: list[Run]) -> None:
    """Make the Jobs of accepted runs, unless there is such a crowd that the reconciler is there first."""
    makers = portal.job_makers
    if makers.statistics().tasks_waiting < _MAX_WAITING_FOR_JOBS:
        await anyio.to_thread.run_sync(portal.runs.make_jobs, runs, limiter=makers)


@router.post("/runs/check")
def check_run(request: RunRequest, caller: CallerOf, portal: PortalOf) -> NewRun:
    """What a submit would accept, with every name resolved; nothing is written or made."""
    return portal.runs.check(caller, request)


@router.post("/runs/bulk/check")
def check_runs(request: BulkRequest, caller: CallerOf, portal: PortalOf) -> NewRunList:
    """What a submit of several would accept; nothing is written or made."""
    return NewRunList(items=portal.runs.check_all(caller, request))


@router.get("/runs")
def list_runs(
    caller: CallerOf,
    portal: PortalOf,
    project: str | None = None,
    user: str | None = None,
    state: Annotated[list[RunState] | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
) -> RunList:
    """Runs and arrays of the caller's projects, newest first; an array is one item."""
    states = frozenset(state) if state else None
    runs = portal.runs.find(caller, project=project, user=user, states=states, limit=limit)
    return RunList(items=_told(portal, [RunView.of(run) for run in runs]))


@router.post("/runs/cancel")
def cancel_runs(request: CancelRequest, caller: CallerOf, portal: PortalOf) -> CancelAnswer:
    """End several runs or arrays. One that is unknown or another's ends none; what ended already stays."""
    return CancelAnswer(items=portal.runs.cancel_all(caller, request.ids, dry_run=request.dry_run))


@router.get("/runs/{run_id}")
def get_run(run_id: str, caller: CallerOf, portal: PortalOf) -> RunView:
    """One run, one member of an array (`vision-12.3`), or an array as a whole."""
    return _told(portal, [RunView.of(portal.runs.look(caller, run_id))])[0]


def _told(portal: Portal, views: list[RunView]) -> list[RunView]:
    return portal.reproductions.told(views) if portal.reproductions else views


@router.get("/runs/{run_id}/members")
def get_members(
    run_id: str,
    caller: CallerOf,
    portal: PortalOf,
    state: Annotated[list[RunState] | None, Query()] = None,
) -> RunList:
    """The members of an array by index."""
    members = portal.runs.members(caller, run_id, frozenset(state) if state else None)
    return RunList(items=_told(portal, [RunView.of(run) for run in members]))


@router.get("/runs/{run_id}/sweep")
def get_sweep(run_id: str, caller: CallerOf, portal: PortalOf) -> SweepView:
    """A sweep with its arms, and which of them is best."""
    return portal.runs.sweep(caller, run_id)


IndexOf = Annotated[
    str | None, Query(max_length=2000, description="of an array: only these members, as in 3,7-9")
]


@router.post("/runs/{run_id}/cancel")
def cancel_run(run_id: str, caller: CallerOf, portal: PortalOf, index: IndexOf = None) -> RunView:
    """End a run, an array or some of its members; what ended already stays as it is."""
    return RunView.of(portal.runs.cancel(caller, run_id, index))


@router.post("/runs/{run_id}/requeue")
def requeue_run(run_id: str, caller: CallerOf, portal: PortalOf, index: IndexOf = None) -> RunView:
    """End the present attempt of a run, if it has one, and queue the next.

    Of an array, unless members are named, those that run or that ended without success.
    """
    return RunView.of(portal.runs.requeue(caller, run_id, index))


@router.get("/runs/{run_id}/logs", response_class=StreamingResponse)
async def get_logs(
    run_id: str,
    caller: CallerOf,
    portal: PortalOf,
    follow: bool = False,
    rank: Annotated[int, Query(ge=0)] = 0,
) -> StreamingResponse:
    """The output of a run, or of its pod `rank`. With `follow` it stays from the start until the end."""
    if portal.log_readers.available_tokens < 1:
        raise ConflictError(
            "too many people follow logs now: read the file stdout.log in the run's directory"
        )
    tail = await run_in_threadpool(portal.runs.logs, caller, run_id, follow=follow, rank=rank)
    return StreamingResponse(
        _read(tail, portal.log_readers),
        media_type="text/plain; charset=utf-8",
        headers={"X-Accel-Buffering": "no", "Cache-Control": "no-store"},
    )


async def _read(tail: LogTail, readers: CapacityLimiter) -> AsyncIterator[bytes]:
    """The lines of a blocking reader; when the client goes away the reader is woken and ended."""
    lines: Iterator[bytes] = iter(tail)
    try:
        while True:
            line = await anyio.to_thread.run_sync(next, lines, None, limiter=readers, abandon_on_cancel=True)
            if line is None:
                return
            yield line
    finally:
        tail.close()


@router.get("/queue", dependencies=[Depends(caller_of)])
def get_queue(portal: PortalOf) -> Queue:
    """All that waits or runs."""
    return Queue(items=portal.runs.queue())


@router.get("/nodes", dependencies=[Depends(caller_of)])
def get_nodes(portal: PortalOf) -> NodeList:
    """The nodes for runs, and what is taken of them."""
    return NodeList(items=portal.runs.nodes())


@router.get("/whoami")
def whoami(caller: CallerOf, portal: PortalOf) -> WhoAmI:
    """Who the caller is and where he may submit."""
    return portal.runs.whoami(caller)
