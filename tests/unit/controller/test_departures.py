"""What people made with kubectl, after they left."""

from __future__ import annotations

from typing import Any, cast

import pytest
from identity_fakes import directory
from labcluster.adapters.kube import KubeApi
from labcluster.controller.departures import Departures
from labcluster.errors import NotFoundError, UnreachableError

STAYS = directory({"ada": 20000}, vision=(30000, "ada"))
LEFT = directory({"ada": 20000}, vision=(30000, ""))


def item(name: str, user: str = "ada", **more: Any) -> dict[str, Any]:
    labels = {"labcluster.internal/user": user, "labcluster.internal/project": "vision"}
    metadata = {"name": name, "namespace": "project-vision", "labels": labels | more.pop("labels", {})}
    return {"metadata": metadata | more}


class Api:
    """Lists and deletes."""

    def __init__(self) -> None:
        self.items: dict[str, list[dict[str, Any]]] = {"/apis/batch/v1/jobs": [], "/api/v1/pods": []}
        self.deleted: list[str] = []
        self.looks = 0
        self.fails: Exception | None = None

    def list(self, path: str, *, query: dict[str, str]) -> list[dict[str, Any]]:
        assert query == {"labelSelector": "labcluster.internal/user"}
        self.looks += 1
        return self.items[path]

    def delete(self, path: str) -> None:
        if self.fails:
            raise self.fails
        self.deleted.append(path)


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def departures(api: Api, lab: Any) -> Departures:
    return Departures(cast(KubeApi, api), lab.store)


def test_jobs_and_bare_pods_of_one_who_left_are_removed(api: Api, departures: Departures) -> None:
    api.items["/apis/batch/v1/jobs"] = [
        item("mine"),
        item("eves", user="eve"),
        item("run-vision-1", labels={"labcluster.internal/run": "vision-1"}),
        item("going", deletionTimestamp="2026-11-21T08:00:00Z"),
    ]
    api.items["/api/v1/pods"] = [item("bare"), item("mine-x", ownerReferences=[{"kind": "Job"}])]
    departures.follow(STAYS)
    assert api.deleted == []
    departures.follow(LEFT)
    assert api.deleted == [
        "/apis/batch/v1/namespaces/project-vision/jobs/mine",
        "/api/v1/namespaces/project-vision/pods/bare",
    ]


def test_the_cluster_is_asked_only_when_the_directory_has_changed(api: Api, departures: Departures) -> None:
    for _ in range(3):
        departures.follow(STAYS)
    assert api.looks == 2
    departures.follow(LEFT)
    assert api.looks == 4


def test_what_fails_is_tried_again(api: Api, departures: Departures) -> None:
    api.items["/api/v1/pods"] = [item("bare")]
    api.fails = UnreachableError("the Kubernetes API does not answer")
    departures.follow(LEFT)
    api.fails = None
    departures.follow(LEFT)
    assert api.deleted == ["/api/v1/namespaces/project-vision/pods/bare"]
    api.fails = NotFoundError("gone already")
    departures.follow(STAYS)
    departures.follow(LEFT)
