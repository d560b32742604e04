"""REST for verdicts on runs that were run again."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from labcluster.errors import UnreachableError
from labcluster.models.reproductions import Reproduction, ReproductionList, VerdictRequest
from labcluster.services.reproductions import ReproductionService
from labcluster.web.api import PROBLEMS
from labcluster.web.wiring import CallerOf, PortalOf

router = APIRouter(prefix="/api/v1", responses=PROBLEMS)

_OF_RUN = "/runs/{run_id}/reproductions"


def _service(portal: PortalOf) -> ReproductionService:
    if portal.reproductions is None:
        raise UnreachableError("this portal keeps no verdicts")
    return portal.reproductions


_Service = Annotated[ReproductionService, Depends(_service)]


@router.get(_OF_RUN)
def get_reproductions(run_id: str, caller: CallerOf, reproductions: _Service) -> ReproductionList:
    """Verdicts on a run, and whether its image is still there."""
    return reproductions.known(caller, run_id)


@router.put(_OF_RUN)
def keep_reproduction(
    run_id: str, request: VerdictRequest, caller: CallerOf, reproductions: _Service
) -> Reproduction:
    """Keep a verdict on a run; a later one about the same two runs takes its place."""
    return reproductions.keep(caller, run_id, request)
