"""Every failure that labcluster reports on purpose.

    LabclusterError            1  500  ours: a bug or something nobody planned for
    ├── UncertainError         1  504  a part died over it: not known whether it was done, to be asked again
    ├── UsageError             2  400  the request itself is wrong
    ├── NotAllowedError        3  403  the caller may not do this
    │   └── NotAuthenticatedError  3  401  the caller did not prove who he is
    ├── NotFoundError          4  404  a named thing does not exist
    ├── ConflictError          5  409  it clashes with what exists, or with a quota
    └── UnreachableError       6  503  a part of the cluster does not answer; nothing was accepted

The first number is labctl's exit status and the `code` of the problem document, the second the HTTP
status. 7 and 8 are no failures but verdicts of labctl reproduce.

Standard library only: labctl imports this module and must start fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

PROBLEM_TYPE_PREFIX = "urn:labcluster:error:"


class LabclusterError(Exception):
    """A failure told to the user in one line: what, where, and what to do."""

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    kind: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail

    def problem(self) -> dict[str, Any]:
        """This failure as an RFC 9457 problem document."""
        return {
            "type": PROBLEM_TYPE_PREFIX + self.kind,
            "title": self.title,
            "status": self.http_status,
            "detail": self.detail,
            "code": self.exit_code,
        }


class UncertainError(LabclusterError):
    """What must decide died before it answered: the request is to be sent again until there is an answer."""

    http_status = 504
    kind = "uncertain"
    title = "Outcome not known"


class UsageError(LabclusterError):
    """The request is wrong in itself; asking again the same way cannot help."""

    exit_code = 2
    http_status = 400
    kind = "usage"
    title = "Bad request"


class NotAllowedError(LabclusterError):
    """The caller is known, but may not do this."""

    exit_code = 3
    http_status = 403
    kind = "not-allowed"
    title = "Not allowed"


class NotAuthenticatedError(NotAllowedError):
    """The caller did not prove who he is."""

    http_status = 401
    kind = "not-authenticated"
    title = "Not authenticated"


class NotFoundError(LabclusterError):
    """A thing that the request names does not exist."""

    exit_code = 4
    http_status = 404
    kind = "not-found"
    title = "Not found"


class ConflictError(LabclusterError):
    """The request clashes with what exists, or with a quota."""

    exit_code = 5
    http_status = 409
    kind = "conflict"
    title = "Conflict"


class UnreachableError(LabclusterError):
    """A part of the cluster does not answer; the request was not accepted."""

    exit_code = 6
    http_status = 503
    kind = "unreachable"
    title = "Cluster not reachable"


_BY_CODE: dict[int, type[LabclusterError]] = {
    kind.exit_code: kind
    for kind in (LabclusterError, UsageError, NotAllowedError, NotFoundError, ConflictError, UnreachableError)
}

_BY_TYPE = {PROBLEM_TYPE_PREFIX + kind.kind: kind for kind in (NotAuthenticatedError, UncertainError)}


def from_problem(problem: Mapping[str, Any]) -> LabclusterError:
    """The error that a problem document tells of (the client's side of `LabclusterError.problem`)."""
    kind = _BY_TYPE.get(str(problem.get("type"))) or _BY_CODE.get(problem.get("code", 1), LabclusterError)
    return kind(str(problem.get("detail") or problem.get("title") or "the portal answered with an error"))
