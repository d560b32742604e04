"""What the routes need, and where the adapters are wired into it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Protocol

from anyio import CapacityLimiter
from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import APIKeyHeader
from starlette.requests import HTTPConnection

from labcluster.adapters.exec import KubeExec
from labcluster.adapters.kube import KubeApi, KubeJobs, KubeLogs
from labcluster.adapters.ldap import LdapDirectory
from labcluster.adapters.munge import MungeDecoder
from labcluster.adapters.postgres import PostgresRuns, connect
from labcluster.adapters.projects import KubeProjects
from labcluster.adapters.registry import HttpRegistry
from labcluster.adapters.view import KubeView
from labcluster.errors import NotAllowedError, UnreachableError
from labcluster.models.callers import Caller
from labcluster.models.settings import PortalSettings
from labcluster.services.access import AccessService, ExecApi, Sessions
from labcluster.services.authentication import Authenticator
from labcluster.services.jobs import CONTAINER
from labcluster.services.manifests import SHELL_GROUP
from labcluster.services.members import CachedDirectory, DirectoryStore
from labcluster.services.projects import ProjectStore
from labcluster.services.runs import RunService

# Readers of logs wait in threads of their own, so that they can never use up those of the requests.
_MAX_LOG_READERS = 256


class Lifecycle(Protocol):
    """What runs beside the requests."""

    def start(self) -> None: ...
    def stop(self) -> None: ...


@dataclass(frozen=True)
class Administration:
    """What the administrators' endpoints change."""

    directory: DirectoryStore
    cached: CachedDirectory
    projects: ProjectStore


@dataclass(frozen=True)
class Entrance:
    """What lets people into their runs."""

    access: AccessService
    exec: ExecApi
    sessions: Sessions


@dataclass(frozen=True)
class Portal:
    """All that the routes use."""

    cluster: str
    runs: RunService
    authenticator: Authenticator
    administration: Administration | None
    background: Lifecycle
    require_view: Callable[[], None]
    check: Callable[[], None]
    public_page: bool
    log_readers: CapacityLimiter
    entrance: Entrance


def build(settings: PortalSettings) -> Portal:
    """The portal over the real database, cluster, registry, directory and munged."""
    api = KubeApi.load(settings.kubeconfig)
    view = KubeView(api, follow_jobs=False)
    store = PostgresRuns(connect(settings.database))
    administration = None
    if settings.ldap is not None:
        directory = LdapDirectory(
            settings.ldap.uri,
            settings.ldap.base_dn,
            settings.ldap.bind_dn,
            settings.ldap.password_file,
            settings.ldap.ca_file,
        )
        administration = Administration(directory, CachedDirectory(directory), KubeProjects(api))
    runs = RunService(
        store=store,
        view=view,
        jobs=KubeJobs(api),
        logs=KubeLogs(api, CONTAINER),
        registry=HttpRegistry(settings.registry),
        settings=settings.jobs,
        limits=settings.limits,
        default_image=settings.default_image,
    )

    def user_by_uid(uid: int) -> str | None:
        """People who are in no project yet are known to the directory only."""
        member = administration.cached.read().by_uid(uid) if administration else None
        return member.name if member else None

    def require_view() -> None:
        """Before its first look at the cluster the portal would deny everybody what is his."""
        late = view.wait_synced(0)
        if late:
            raise UnreachableError(
                f"the portal has just started and has not seen these of the cluster yet: {', '.join(late)}"
            )

    def check() -> None:
        store.ping()
        require_view()

    return Portal(
        cluster=settings.cluster_name,
        runs=runs,
        authenticator=Authenticator(
            MungeDecoder(settings.munge_socket),
            view,
            user_by_uid,
            cluster=settings.cluster_name,
            admins=settings.admins,
        ),
        administration=administration,
        background=view,
        require_view=require_view,
        check=check,
        public_page=settings.public_page,
        log_readers=CapacityLimiter(_MAX_LOG_READERS),
        entrance=Entrance(AccessService(runs, view), KubeExec(api, SHELL_GROUP), Sessions()),
    )


def portal_of(request: Request) -> Portal:
    """The application's portal."""
    portal: Portal = request.app.state.portal
    return portal


_HEADER = APIKeyHeader(
    name="Authorization",
    scheme_name="Munge",
    auto_error=False,
    description=(
        "`Munge <credential>`; the credential's payload is `labcluster:<cluster>`, a newline,"
        " `<METHOD> <path?query>`, a newline, and the SHA-256 of the body in hex."
    ),
)


def target_of(connection: HTTPConnection) -> str:
    """Path and query as they were sent."""
    scope = connection.scope
    target: str = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
    if scope["query_string"]:
        target += "?" + scope["query_string"].decode("latin-1")
    return target


async def caller_of(request: Request, authorization: Annotated[str | None, Depends(_HEADER)]) -> Caller:
    """The proven caller of a request."""
    portal_of(request).require_view()
    target, body = target_of(request), await request.body()
    authenticate = portal_of(request).authenticator.authenticate
    return await run_in_threadpool(authenticate, authorization, request.method, target, body)


CallerOf = Annotated[Caller, Depends(caller_of)]
PortalOf = Annotated[Portal, Depends(portal_of)]


def admin_of(caller: CallerOf) -> Caller:
    """The caller, if he is a site administrator."""
    if not caller.admin:
        raise NotAllowedError(f"{caller.user} is no administrator of this cluster")
    return caller


def administration_of(portal: PortalOf, _: Annotated[Caller, Depends(admin_of)]) -> Administration:
    """What an administrator may change."""
    if portal.administration is None:
        raise UnreachableError("this portal has no directory configured")
    return portal.administration


AdministrationOf = Annotated[Administration, Depends(administration_of)]
