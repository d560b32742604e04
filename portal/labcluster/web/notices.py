"""REST for notices: who is told what becomes of runs."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query

from labcluster.errors import UnreachableError
from labcluster.models.notices import NoticeList, ReceiverList, ReceiverRequest, ReceiverView, Scope
from labcluster.services.notices import NoticeService
from labcluster.web.api import PROBLEMS
from labcluster.web.wiring import CallerOf, PortalOf

router = APIRouter(prefix="/api/v1", responses=PROBLEMS)

_ONE = "/receivers/{scope}/{owner}/{name}"


def _service(portal: PortalOf) -> NoticeService:
    if portal.notices is None:
        raise UnreachableError("this portal has no notices configured")
    return portal.notices


_Service = Annotated[NoticeService, Depends(_service)]


@router.get("/receivers")
def list_receivers(caller: CallerOf, notices: _Service) -> ReceiverList:
    """The caller's receivers, and those of his projects."""
    return ReceiverList(items=notices.all(caller))


@router.put(_ONE)
def set_receiver(
    scope: Scope, owner: str, name: str, request: ReceiverRequest, caller: CallerOf, notices: _Service
) -> ReceiverView:
    """Make a receiver be so. Its target is never given back."""
    return notices.set(caller, scope, owner, name, request)


@router.delete(_ONE, status_code=204)
def remove_receiver(scope: Scope, owner: str, name: str, caller: CallerOf, notices: _Service) -> None:
    """Forget a receiver, and what waits for it."""
    notices.remove(caller, scope, owner, name)


@router.post(_ONE + "/test")
def test_receiver(scope: Scope, owner: str, name: str, caller: CallerOf, notices: _Service) -> ReceiverView:
    """Send it a notice now; the list tells what became of it."""
    return notices.test(caller, scope, owner, name)


@router.get(_ONE + "/notices")
def read_notices(
    scope: Scope,
    owner: str,
    name: str,
    caller: CallerOf,
    notices: _Service,
    since: datetime | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> NoticeList:
    """Notices of a receiver, newest last; kept for 30 days."""
    return NoticeList(items=notices.read(caller, scope, owner, name, since, limit))
