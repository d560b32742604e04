"""The start page."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response
from fastapi.templating import Jinja2Templates

from labcluster.errors import LabclusterError
from labcluster.models.runs import Run, RunState
from labcluster.web.wiring import PortalOf

_HERE = Path(__file__).parent
_ROWS = 100

templates = Jinja2Templates(_HERE / "templates")
router = APIRouter(include_in_schema=False)


def _ago(moment: datetime) -> str:
    return f"{_span(datetime.now(UTC) - moment)} ago"


def _span(time: timedelta) -> str:
    seconds = max(0, int(time.total_seconds()))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _took(run: Run) -> str:
    if run.started_at is None:
        return ""
    return _span((run.finished_at or datetime.now(UTC)) - run.started_at)


def _word(state: RunState) -> str:
    return state.value.replace("_", " ")


templates.env.filters.update(ago=_ago, took=_took, word=_word)


@router.get("/", response_class=HTMLResponse)
def start_page(request: Request, portal: PortalOf) -> Response:
    """The list of runs and the state of the nodes; commands and environments are not shown."""
    context: dict[str, object] = {"cluster": portal.cluster, "public": portal.public_page}
    status = 200
    if portal.public_page:
        try:
            runs, nodes = portal.runs.recent(_ROWS), portal.runs.nodes()
            queue = portal.runs.queue()
        except LabclusterError as error:
            context["trouble"], status = error.detail, error.http_status
        else:
            waiting = sum(item.state is RunState.QUEUED for item in queue)
            context |= {
                "runs": runs,
                "nodes": nodes,
                "waiting": waiting,
                "active": len(queue) - waiting,
                "gpus": sum(node.gpus for node in nodes),
                "gpus_free": sum(node.gpus - node.gpus_used for node in nodes if node.ready),
            }
    return templates.TemplateResponse(request, "start.html", context, status_code=status)
