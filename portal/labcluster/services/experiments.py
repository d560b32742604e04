"""The experiment record: who may enter whose, and what of a request MLflow gets to see."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from labcluster.errors import NotAllowedError, NotFoundError, UsageError
from labcluster.models.callers import Caller
from labcluster.services.ports import ClusterView

#: Below it each project has MLflow for itself, so that plain links say which one they mean.
PREFIX = "/mlflow/w/"
#: The cluster's own programs are to MLflow what no person can be called.
CONTROLLER = "labcluster:controller"
#: Names that mean something else to MLflow; besides, it wants two letters.
RESERVED = frozenset({"default", "workspaces", "api", "ajax-api", "static-files"})

#: A request's most bytes; MLflow keeps it in memory but for artifacts, which it writes while they arrive.
MAX_BODY = 32 * 1024 * 1024

_TARGET = re.compile(r"/mlflow/w/(?P<project>[a-z0-9-]+)(?P<rest>/[^?]*)?")
_UPLOAD = re.compile(r"/mlflow/w/[a-z0-9-]+/(ajax-)?api/2\.0/mlflow-artifacts/artifacts/.+")
# An artifact is somebody's file: shown by itself it must not be a page of the portal's.
_FILES = re.compile(
    r"/get-artifact|/model-versions/get-artifact|.*/get-trace-artifact|.*/artifacts/files|.*/mlflow-artifacts/.*"
)
# Nothing else of a request goes on: no proof, no name that a proxy or MLflow itself could take for one.
_REQUEST_HEADERS = frozenset(
    [
        *(
            "accept",
            "accept-encoding",
            "accept-language",
            "content-encoding",
            "content-length",
            "content-type",
        ),
        *("if-match", "if-modified-since", "if-none-match", "if-range", "if-unmodified-since", "range"),
        *("user-agent", "x-mlflow-experiment-id"),
    ]
)
# No cookie, no invitation to give a password, no permission for other sites.
_ANSWER_HEADERS = frozenset(
    [
        *("accept-ranges", "cache-control", "content-disposition", "content-encoding", "content-length"),
        *("content-range", "content-type", "etag", "expires", "last-modified"),
    ]
)

# Its pages make styles while they run, and show pictures and plots that they have fetched.
_PAGE_POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:;"
    " media-src 'self' data: blob:; connect-src 'self' data: blob:; worker-src 'self' blob:;"
    " frame-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_FILE_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"

Headers = Iterable[tuple[bytes, bytes]]


def has_experiments(project: str) -> bool:
    """Whether a project's name can be that of a workspace in MLflow."""
    return project not in RESERVED and len(project) > 1


class Signer(Protocol):
    """The key that MLflow believes."""

    def sign(self, user: str, project: str) -> str:
        """Our word, good for a minute, that a request is this user's for this project."""


@dataclass(frozen=True)
class Target:
    """What of one project's MLflow a request is for."""

    project: str
    #: As MLflow is asked for it, percent-encoded as it came; empty: the prefix without its slash.
    path: str

    @property
    def policy(self) -> str:
        """The content security policy of the answer."""
        return _FILE_POLICY if _FILES.fullmatch(self.path) else _PAGE_POLICY


class ExperimentService:
    """Opens the projects' records to their members."""

    def __init__(self, view: ClusterView, signer: Signer) -> None:
        self._view = view
        self._signer = signer

    def enter(self, caller: Caller, project: str) -> str:
        """Our word for a member of the project; NotAllowedError for everybody else."""
        mine = self._view.memberships(caller.user)
        if caller.admin or project not in mine or caller.project not in (None, project):
            raise NotAllowedError(
                f"{caller.user} is no member of project {project}, whose experiments these are"
            )
        if not has_experiments(project):
            raise UsageError(f"project {project} has no experiments: MLflow knows no workspace of that name")
        return self._signer.sign(caller.user, project)

    def projects(self, user: str) -> list[str]:
        """The projects whose experiments a user may see, by name."""
        return sorted(filter(has_experiments, self._view.memberships(user)))


def read_target(path: str) -> Target:
    """What a request is for, from its path as it was sent."""
    match = _TARGET.fullmatch(path)
    if match is None:
        raise NotFoundError(f"there is nothing at {path}")
    rest = match["rest"] or ""
    if any(part in (".", "..") for part in rest.lower().replace("%2e", ".").split("/")):
        raise UsageError("a path of this server has no . and .. in it")
    return Target(match["project"], rest)


def is_upload(method: str, path: str) -> bool:
    """Whether a request brings an artifact; `path` decoded once, as MLflow will decode it."""
    return method == "PUT" and _UPLOAD.fullmatch(path) is not None


def request_headers(headers: Headers, assertion: str) -> list[tuple[bytes, bytes]]:
    """The headers that go on to MLflow, with our word for the caller."""
    kept = [(name, value) for name, value in headers if name.decode("latin-1").lower() in _REQUEST_HEADERS]
    return [*kept, (b"x-lab-assertion", assertion.encode())]


def answer_headers(headers: Headers, target: Target) -> list[tuple[bytes, bytes]]:
    """The headers that go back to the caller."""
    kept = [(name.lower(), value) for name, value in headers]
    kept = [(name, value) for name, value in kept if name.decode("latin-1") in _ANSWER_HEADERS]
    return [*kept, (b"content-security-policy", target.policy.encode())]
