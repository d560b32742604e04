"""The browser's login and logout, and what labctl must know to log in from elsewhere."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import BaseModel, Field

from labcluster.errors import LabclusterError, NotFoundError
from labcluster.models.callers import BrowserLogin
from labcluster.web.pages import trouble_page
from labcluster.web.wiring import NEXT, Login, PortalOf, portal_of, require_same_origin

router = APIRouter()


class LoginPlace(BaseModel):
    """Dex, and the names labctl has there."""

    issuer: str
    client_id: str = Field(description="of labctl on the login node")
    client_id_elsewhere: str = Field(description="of labctl on any other machine")


class KubernetesPlace(BaseModel):
    """The Kubernetes API."""

    server: str
    ca: str = Field(description="its certificate authority, PEM")


class Site(BaseModel):
    """What may be known about the site without a login."""

    cluster: str
    login: LoginPlace
    kubernetes: KubernetesPlace


def login_of(request: Request) -> Login:
    """The portal's login, where there is one."""
    login = portal_of(request).login
    if login is None:
        raise NotFoundError("this portal has no login service: use labctl on the login node")
    return login


LoginOf = Annotated[Login, Depends(login_of)]


@router.get("/api/v1/site")
def get_site(portal: PortalOf, login: LoginOf) -> Site:
    """Where to log in, and where the Kubernetes API is; needs no credential."""
    clients = login.settings.clients
    place = LoginPlace(
        issuer=login.settings.issuer,
        client_id=clients.login_node,
        client_id_elsewhere=clients.elsewhere,
    )
    kubernetes = KubernetesPlace(server=login.settings.api_server, ca=login.settings.api_ca_file.read_text())
    return Site(cluster=portal.cluster, login=place, kubernetes=kubernetes)


@router.get("/login", include_in_schema=False)
def begin(request: Request, login: LoginOf) -> Response:
    """Send the browser to Dex; one that knows the portal by another name or address to its own name first."""
    if request.headers.get("host") != login.host:
        return RedirectResponse(f"https://{login.host}/login", 302)
    url, begun = login.browser.begin()
    request.session["login"] = asdict(begun)
    return RedirectResponse(url, 302)


@router.get("/login/callback", include_in_schema=False)
def finish(request: Request, portal: PortalOf, login: LoginOf, state: str = "", code: str = "") -> Response:
    """Take the browser back, now with a session. What it brought is good for this one time."""
    begun = request.session.pop("login", None)
    try:
        expected = BrowserLogin(**begun) if isinstance(begun, dict) else BrowserLogin("", "", "")
        caller = portal.authenticator.member(login.browser.finish(expected, state, code).user)
    except LabclusterError as error:
        return trouble_page(request, portal, error)
    wanted = request.session.get(NEXT, "/")
    request.session.clear()
    request.session["user"] = caller.user
    return RedirectResponse(wanted, 303)


@router.post("/logout", include_in_schema=False, dependencies=[Depends(login_of)])
def logout(request: Request) -> Response:
    """Forget the session."""
    require_same_origin(request)
    request.session.clear()
    return RedirectResponse("/", 303)
