"""What members and controllers send to the apiserver, and how it is sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from labcluster.adapters.kube import KubeApi

from tests import attacks
from tests.attacks import put

REGISTRY = "registry.lab.internal:5000"
JOB_CONTROLLER = "system:serviceaccount:kube-system:job-controller"
# May do everything as far as roles go, but is no administrator to the policies.
CARELESS = "test:careless"
Change = Callable[[dict[str, Any]], Any]


def job(change: Change | None = None, **metadata: Any) -> dict[str, Any]:
    """What a member with a plain manifest submits."""
    item = attacks.job(REGISTRY, "train")
    item["metadata"] |= metadata
    runner = f"{REGISTRY}/labcluster/runner@sha256:{'0' * 64}"
    item["spec"]["template"]["spec"]["initContainers"][0]["image"] = runner
    if change:
        change(item)
    return item


def pod(changes: dict[str, Any], user: str = "ada") -> dict[str, Any]:
    """A pod as the Job controller makes it from an admitted Job of `user`, with changes by path."""
    item = attacks.pod(REGISTRY, "p")
    item["metadata"]["labels"] = {"labcluster.internal/user": user}
    item["metadata"]["ownerReferences"] = [
        {"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "1", "controller": True}
    ]
    for path, value in changes.items():
        put(item, path, value)
    return item


def create(api: KubeApi, item: dict[str, Any], user: str | None, group: str | None = None) -> dict[str, Any]:
    """Server-side dry run as `user`, or as an administrator."""
    path = attacks.collection(item)
    return api.request("POST", path, query={"dryRun": "All"}, body=item, user=user, group=group)
