"""Pages for people: the start page, and that of a sweep."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.templating import Jinja2Templates

from labcluster.errors import LabclusterError, NotAllowedError, NotAuthenticatedError
from labcluster.models.runs import RunRecord, RunState
from labcluster.services.parallel import plot
from labcluster.web.wiring import NEXT, Portal, PortalOf, session_user

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


def _took(run: RunRecord) -> str:
    if run.started_at is None:
        return ""
    return _span((run.finished_at or datetime.now(UTC)) - run.started_at)


def _word(state: RunState) -> str:
    return state.value.replace("_", " ")


def _short(value: object) -> str:
    """A number with the digits that tell arms apart, anything else as it is."""
    try:
        return f"{float(str(value)):.4g}"
    except ValueError:
        return str(value)


templates.env.filters.update(ago=_ago, took=_took, word=_word, short=_short)


@router.get("/", response_class=HTMLResponse)
def start_page(request: Request, portal: PortalOf) -> Response:
    """The list of runs and the state of the nodes; commands and environments are not shown."""
    context = _frame(request, portal) | {"live": True}
    if not (portal.public_page or context["user"]):
        return templates.TemplateResponse(request, "welcome.html", context)
    try:
        runs, nodes = portal.runs.recent(_ROWS), portal.runs.nodes()
        queue = portal.runs.queue()
    except LabclusterError as error:
        return trouble_page(request, portal, error, live=True)
    waiting = sum(item.state is RunState.QUEUED for item in queue)
    context |= {
        "runs": runs,
        "nodes": nodes,
        "waiting": waiting,
        "active": len(queue) - waiting,
        "experiments": _experiments(portal, context["user"]),
        "gpus": sum(node.gpus for node in nodes),
        "gpus_free": sum(node.gpus - node.gpus_used for node in nodes if node.ready),
    }
    return templates.TemplateResponse(request, "start.html", context)


@router.get("/sweeps/{run_id}", response_class=HTMLResponse)
def sweep_page(run_id: str, request: Request, portal: PortalOf) -> Response:
    """A sweep of one of the user's projects: its arms, and how their parameters go with the metric."""
    user = session_user(request)
    if user is None and portal.login is not None:
        request.session[NEXT] = f"/sweeps/{quote(run_id, safe='')}"
        return RedirectResponse("/login", 302)
    try:
        if user is None:
            raise NotAuthenticatedError("this portal has no login for browsers: labctl show has the same")
        portal.require_view()
        view = portal.runs.sweep(portal.authenticator.member(user), run_id)
    except LabclusterError as error:
        return trouble_page(request, portal, error)
    arms = sorted(view.arms, key=lambda arm: arm.id != view.best)
    context = _frame(request, portal) | {
        "view": view,
        "arms": arms,
        "plot": plot(view.arms, view.sweep, view.best),
        "live": not view.run.state.final,
    }
    return templates.TemplateResponse(request, "sweep.html", context)


def trouble_page(request: Request, portal: Portal, error: LabclusterError, *, live: bool = False) -> Response:
    """A page that says what went wrong; a live one keeps trying."""
    context = _frame(request, portal) | {"trouble": error.detail, "live": live}
    return templates.TemplateResponse(request, "trouble.html", context, status_code=error.http_status)


def _frame(request: Request, portal: Portal) -> dict[str, object]:
    """What every page shows around its content."""
    return {"cluster": portal.cluster, "user": _user(request, portal), "login": portal.login is not None}


def _experiments(portal: Portal, user: object) -> list[str]:
    """The projects whose experiment record the user may open."""
    return portal.experiments.service.projects(user) if portal.experiments and isinstance(user, str) else []


def _user(request: Request, portal: Portal) -> str | None:
    """Whose session this is, if he still is a member."""
    user = session_user(request)
    if user is None:
        return None
    try:
        portal.require_view()
        return portal.authenticator.member(user).user
    except NotAllowedError:
        return None
    except LabclusterError:
        return user  # whether he still is one cannot be seen now; nor can anything else
