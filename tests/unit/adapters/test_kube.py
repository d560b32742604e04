"""What the apiserver's refusals become, and how Jobs are made twice without harm."""

from __future__ import annotations

import json
from typing import Any

import pytest
from kubernetes.client.exceptions import ApiException
from labcluster.adapters import kube
from labcluster.errors import (
    ConflictError,
    LabclusterError,
    NotAllowedError,
    NotFoundError,
    UnreachableError,
    UsageError,
)


def refusal(status: int, message: str, reason: str = "") -> ApiException:
    error = ApiException(status=status, reason="x")
    error.body = json.dumps({"kind": "Status", "message": message, "reason": reason})
    return error


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, UsageError),
        (401, NotAllowedError),
        (403, NotAllowedError),
        (404, NotFoundError),
        (409, ConflictError),
        (410, kube.GoneError),
        (422, UsageError),
        (429, UnreachableError),
        (500, UnreachableError),
        (503, UnreachableError),
    ],
)
def test_status_decides_the_kind_of_error(status: int, kind: type[LabclusterError]) -> None:
    error = kube.failure(refusal(status, "no such thing"))
    assert type(error) is kind
    assert "no such thing" in error.detail


def test_policy_refusal_is_reduced_to_its_sentence() -> None:
    message = (
        "jobs.batch \"run-vision-1\" is forbidden: ValidatingAdmissionPolicy 'labcluster-pods' with binding"
        " 'labcluster-pods' denied request: hostPath volumes are not allowed"
    )
    error = kube.failure(refusal(422, message, "Invalid"))
    assert isinstance(error, NotAllowedError)
    assert error.detail == "hostPath volumes are not allowed"


def test_answer_that_is_no_status_is_still_one_error() -> None:
    error = ApiException(status=502, reason="Bad Gateway")
    error.body = "<html>"
    assert isinstance(kube.failure(error), UnreachableError)


class Api:
    """Refuses to make a Job because there is one."""

    def __init__(self, annotations: dict[str, str]) -> None:
        self.annotations = annotations

    def create(self, path: str, body: Any, *, user: str, group: str, dry_run: bool = False) -> Any:
        assert group == "labcluster:portal"
        raise ConflictError("already exists")

    def get(self, path: str, *, user: str | None = None) -> Any:
        return {"metadata": {"uid": "u1", "annotations": self.annotations}}


JOB = {"metadata": {"namespace": "project-vision", "name": "run-vision-1", "annotations": {"at": "1"}}}


def test_own_job_from_before_a_crash_counts_as_made() -> None:
    assert kube.KubeJobs(Api({"at": "1"})).create(JOB, "ada") == "u1"  # type: ignore[arg-type]


def test_job_of_another_run_with_this_name_is_in_the_way() -> None:
    with pytest.raises(NotAllowedError, match="of another run is in the way"):
        kube.KubeJobs(Api({"at": "0"})).create(JOB, "ada")  # type: ignore[arg-type]
