"""REST for what everybody may change of himself: /api/v1/password."""

from __future__ import annotations

from fastapi import APIRouter

from labcluster.errors import NotAllowedError, UnreachableError
from labcluster.models.members import Change, OwnPasswordRequest
from labcluster.services import members
from labcluster.web.api import PROBLEMS
from labcluster.web.wiring import CallerOf, PortalOf

router = APIRouter(prefix="/api/v1", responses=PROBLEMS)


@router.put("/password")
def put_own_password(request: OwnPasswordRequest, caller: CallerOf, portal: PortalOf) -> Change:
    """Change the caller's own password."""
    if caller.admin:
        raise NotAllowedError(f"{caller.user} is a local account: its password is not the cluster's")
    if portal.administration is None:
        raise UnreachableError("this portal has no directory configured")
    return members.change_own_password(
        portal.administration.directory,
        caller.user,
        request.old.get_secret_value(),
        request.new.get_secret_value(),
    )
