"""REST for usage, and for the file server's reports."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from labcluster.models.usage import StorageLimits, StorageReport, Usage
from labcluster.web.api import PROBLEMS
from labcluster.web.wiring import CallerOf, PortalOf

router = APIRouter(prefix="/api/v1", responses=PROBLEMS)

_TOKEN = HTTPBearer(
    scheme_name="FileServer", auto_error=False, description="The token that role file_server lays down."
)


@router.get("/usage")
def get_usage(
    caller: CallerOf,
    portal: PortalOf,
    since: datetime | None = None,
    until: datetime | None = None,
    project: str | None = None,
    user: str | None = None,
) -> Usage:
    """Who used how much within a time: a member sees his projects, an administrator all."""
    return portal.usage.usage(caller, since=since, until=until, project=project, user=user)


@router.put("/storage")
def report_storage(
    report: StorageReport,
    portal: PortalOf,
    token: Annotated[HTTPAuthorizationCredentials | None, Depends(_TOKEN)],
) -> StorageLimits:
    """What the file server counted; the answer is what it is to enforce."""
    portal.require_view()
    return portal.usage.take_storage(token.credentials if token else None, report)
