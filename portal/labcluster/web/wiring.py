"""What the routes need, and where the adapters are wired into it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Protocol
from urllib.parse import urlsplit

from anyio import CapacityLimiter
from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.datastructures import Secret
from starlette.requests import HTTPConnection

from labcluster.adapters.exec import KubeExec
from labcluster.adapters.kube import KubeApi, KubeJobs, KubeLogs
from labcluster.adapters.ldap import LdapDirectory
from labcluster.adapters.mlflow import AssertionSigner, MlflowUpstream
from labcluster.adapters.munge import MungeDecoder
from labcluster.adapters.notices import PostgresNotices
from labcluster.adapters.oidc import DexLogins, DexTokens
from labcluster.adapters.pods import KubePodTokens
from labcluster.adapters.postgres import PostgresRuns, connect
from labcluster.adapters.projects import KubeProjects
from labcluster.adapters.registry import HttpRegistry
from labcluster.adapters.reproductions import PostgresReproductions
from labcluster.adapters.usage import PostgresUsage
from labcluster.adapters.view import KubeView
from labcluster.errors import NotAllowedError, UnreachableError
from labcluster.models.callers import Caller
from labcluster.models.members import Member
from labcluster.models.settings import LoginSettings, MlflowSettings, PortalSettings
from labcluster.services.access import AccessService, ExecApi, Sessions
from labcluster.services.authentication import Authenticator, BrowserLogins
from labcluster.services.experiments import ExperimentService
from labcluster.services.jobs import CONTAINER
from labcluster.services.leaving import RunTable
from labcluster.services.manifests import SHELL_GROUP
from labcluster.services.members import CachedDirectory, DirectoryStore
from labcluster.services.notices import NoticeService
from labcluster.services.ports import ClusterView
from labcluster.services.projects import ProjectStore
from labcluster.services.registry import RegistryService
from labcluster.services.reproductions import ReproductionService
from labcluster.services.runs import RunService
from labcluster.services.usage import UsageService

#: Where a session keeps what its browser wanted to see before the login.
NEXT = "next"

# Readers of logs wait in threads of their own, so that they can never use up those of the requests.
_MAX_LOG_READERS = 256
# Jobs are made after the answers and one by one: the machine is for the submits that still wait for theirs.
_MAX_JOB_MAKERS = 1


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
    runs: RunTable


@dataclass(frozen=True)
class Entrance:
    """What lets people into their runs."""

    access: AccessService
    exec: ExecApi
    sessions: Sessions


@dataclass(frozen=True)
class Login:
    """How people who are not on the login node prove who they are."""

    settings: LoginSettings
    browser: BrowserLogins
    session_key: Secret
    #: The portal's host as Dex sends browsers back to it; a session is good under this name alone.
    host: str


@dataclass(frozen=True)
class Experiments:
    """What opens the experiment record."""

    service: ExperimentService
    upstream: MlflowUpstream


@dataclass(frozen=True)
class Portal:
    """All that the routes use."""

    cluster: str
    runs: RunService
    usage: UsageService
    registry: RegistryService
    authenticator: Authenticator
    administration: Administration | None
    background: Lifecycle
    require_view: Callable[[], None]
    check: Callable[[], None]
    public_page: bool
    log_readers: CapacityLimiter
    entrance: Entrance
    login: Login | None = None
    experiments: Experiments | None = None
    notices: NoticeService | None = None
    reproductions: ReproductionService | None = None
    job_makers: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(_MAX_JOB_MAKERS))


def build(settings: PortalSettings) -> Portal:
    """The portal over the real database, cluster, registry, directory and munged."""
    api = KubeApi.load(settings.kubeconfig)
    view = KubeView(api, follow_jobs=False)
    pool = connect(settings.database)
    store = PostgresRuns(pool)
    administration = None
    if settings.ldap is not None:
        directory = LdapDirectory(
            settings.ldap.uri,
            settings.ldap.base_dn,
            settings.ldap.bind_dn,
            settings.ldap.password_file,
            settings.ldap.ca_file,
        )
        administration = Administration(directory, CachedDirectory(directory), KubeProjects(api), store)
    registry = HttpRegistry(settings.registry)
    runs = RunService(
        store=store,
        view=view,
        jobs=KubeJobs(api),
        logs=KubeLogs(api, CONTAINER),
        registry=registry,
        settings=settings.jobs,
        limits=settings.limits,
        default_image=settings.default_image,
    )

    # People who are in no project yet are known to the directory only.
    def user_by_uid(uid: int) -> str | None:
        member = _enabled(administration.cached.read().by_uid(uid)) if administration else None
        return member.name if member else None

    def uid_by_user(user: str) -> int | None:
        member = _enabled(administration.cached.read().members.get(user)) if administration else None
        return member.uid if member else None

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

    tokens, login = _login(settings.login, settings.domain) if settings.login else (None, None)
    return Portal(
        cluster=settings.cluster_name,
        runs=runs,
        usage=UsageService(PostgresUsage(pool), view, registry.usage, settings.storage_token_sha256),
        registry=RegistryService(registry, view, store.active),
        authenticator=Authenticator(
            MungeDecoder(settings.munge_socket),
            view,
            user_by_uid,
            uid_by_user,
            cluster=settings.cluster_name,
            admins=settings.admins,
            tokens=tokens,
            audiences=(login.settings.clients.login_node, login.settings.clients.elsewhere) if login else (),
            pods=KubePodTokens(api),
        ),
        administration=administration,
        background=view,
        require_view=require_view,
        check=check,
        public_page=settings.public_page,
        log_readers=CapacityLimiter(_MAX_LOG_READERS),
        entrance=Entrance(AccessService(runs, view), KubeExec(api, SHELL_GROUP), Sessions()),
        login=login,
        experiments=_experiments(settings.mlflow, view) if settings.mlflow else None,
        notices=NoticeService(PostgresNotices(pool), view, settings.notices),
        reproductions=ReproductionService(PostgresReproductions(pool), runs, registry),
    )


def _experiments(settings: MlflowSettings, view: ClusterView) -> Experiments:
    service = ExperimentService(view, AssertionSigner(settings.key_file))
    return Experiments(service, MlflowUpstream(settings))


def _enabled(member: Member | None) -> Member | None:
    if member is not None and member.disabled:
        raise NotAllowedError(f"the account of {member.name} is disabled: ask your administrator")
    return member


def _login(settings: LoginSettings, domain: str) -> tuple[DexTokens, Login]:
    dex = settings.issuer, settings.url, settings.ca_file
    tokens = DexTokens(*dex)
    host = f"portal.{domain}"
    browser = DexLogins(
        tokens,
        *dex,
        client_id=settings.clients.portal,
        secret_file=settings.secret_file,
        redirect_uri=f"https://{host}/login/callback",
    )
    return tokens, Login(settings, browser, Secret(settings.session_key_file.read_text().strip()), host)


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


_BEARER = HTTPBearer(
    scheme_name="Bearer",
    auto_error=False,
    description="An id token of Dex for labctl (`labctl login`). Browsers have a session instead.",
)


async def caller_of(
    request: Request,
    authorization: Annotated[str | None, Depends(_HEADER)],
    _: Annotated[object, Depends(_BEARER)],
) -> Caller:
    """The proven caller of a request."""
    portal = portal_of(request)
    portal.require_view()
    if authorization is None and (user := session_user(request)) is not None:
        require_same_origin(request)
        return await run_in_threadpool(portal.authenticator.member, user)
    target, body = target_of(request), await request.body()
    return await run_in_threadpool(
        portal.authenticator.authenticate, authorization, request.method, target, body
    )


def session_user(request: Request) -> str | None:
    """Who has logged in with this browser; the session is signed, and as old as it may be at most."""
    user = request.session.get("user") if "session" in request.scope else None
    return user if isinstance(user, str) else None


def require_same_origin(request: Request) -> None:
    """Refuse what another site's page makes a browser with a session send."""
    if request.method not in ("GET", "HEAD"):
        origin = urlsplit(request.headers.get("origin", ""))
        own = (origin.scheme, origin.netloc) == ("https", request.headers.get("host"))
        # Browsers say by themselves where a request comes from; old ones send the origin alone.
        if request.headers.get("sec-fetch-site", "same-origin" if own else "") != "same-origin":
            raise NotAllowedError("this request does not come from a page of the portal")


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
