"""The controller against a bare apiserver: from nothing to many projects, and back after somebody meddled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from labcluster.adapters.kube import KubeApi
from labcluster.controller.caches import Caches
from labcluster.controller.loop import Controller
from labcluster.errors import NotFoundError
from labcluster.models.members import Directory, Group, Member
from labcluster.models.projects import COLLECTION, Project, ProjectSpec
from objects import apply

PROJECTS, MEMBERS = 50, 20
LIMIT_SECONDS = 60


def kueue_kind(plural: str, kind: str, scope: str) -> dict[str, Any]:
    """A definition of Kueue's kind without its schema: its own controller and webhooks are not here."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{plural}.kueue.x-k8s.io",
            "annotations": {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/kueue"},
        },
        "spec": {
            "group": "kueue.x-k8s.io",
            "scope": scope,
            "names": {"plural": plural, "kind": kind, "singular": kind.lower(), "listKind": f"{kind}List"},
            "versions": [
                {
                    "name": "v1beta2",
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


def directory() -> Directory:
    """PROJECTS projects with MEMBERS members each; everybody is in two."""
    people = [f"m{number}" for number in range(PROJECTS * MEMBERS // 2)]
    return Directory(
        members={
            name: Member(name=name, uid=20000 + number, full_name=name, home=f"/lab/home/{name}")
            for number, name in enumerate(people)
        },
        groups={
            f"p{number}": Group(
                name=f"p{number}",
                gid=30000 + number,
                members=tuple(
                    sorted(people[(number * MEMBERS // 2 + i) % len(people)] for i in range(MEMBERS))
                ),
            )
            for number in range(PROJECTS)
        },
    )


class Store:
    """A directory that changes in an instant."""

    def __init__(self) -> None:
        self.state = directory()

    def read(self) -> Directory:
        return self.state


class Running:
    """A controller in a thread, and what it knows."""

    def __init__(self, api: KubeApi) -> None:
        self.api = api
        self.store = Store()
        self._wake, self._stop = threading.Event(), threading.Event()
        self._caches = Caches(api, self._wake)
        self.controller = Controller(api, self.store, self._caches, self._wake, poll_seconds=1.0)
        self._thread = threading.Thread(target=self.controller.run, args=(self._stop,), daemon=True)
        self._thread.start()

    def until(self, done: Callable[[], bool], seconds: float) -> float:
        """How long it took until it was so."""
        started = time.monotonic()
        while not done():
            took = time.monotonic() - started
            assert took < seconds, f"not within {seconds} s"
            time.sleep(0.2)
        return time.monotonic() - started

    def stop(self) -> None:
        self._stop.set()
        self._wake.set()
        self._thread.join(20)
        self._caches.stop()


@pytest.fixture(scope="module")
def running(own_identity: KubeApi) -> Iterator[Running]:
    """The controller over PROJECTS Projects, all new."""
    apply(own_identity, kueue_kind("cohorts", "Cohort", "Cluster"))
    apply(own_identity, kueue_kind("clusterqueues", "ClusterQueue", "Cluster"))
    apply(own_identity, kueue_kind("localqueues", "LocalQueue", "Namespaced"))
    _served(own_identity, "/apis/kueue.x-k8s.io/v1beta2/localqueues")
    _served(own_identity, COLLECTION)
    for number in range(PROJECTS):
        spec = ProjectSpec(gid=30000 + number, gpus=1, max_gpus=4)
        own_identity.create(COLLECTION, Project(name=f"p{number}", spec=spec).to_object())
    found = Running(own_identity)
    yield found
    found.stop()


def _served(api: KubeApi, path: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            api.list(path)
            return
        except NotFoundError:
            assert time.monotonic() < deadline, f"{path} is not served"
            time.sleep(0.1)


def _ready(api: KubeApi) -> int:
    projects = [Project.from_object(item) for item in api.list(COLLECTION)]
    return sum(1 for project in projects if project.condition().get("status") == "True")


def test_fifty_projects_of_twenty_are_made_within_a_minute(
    running: Running, record_property: Callable[[str, object], None]
) -> None:
    took = running.until(lambda: _ready(running.api) == PROJECTS, LIMIT_SECONDS)
    record_property("seconds", round(took, 1))
    print(f"{PROJECTS} projects of {MEMBERS} members: {took:.1f} s")
    data = running.api.get("/api/v1/namespaces/project-p7/configmaps/labcluster-members")["data"]
    assert len([name for name in data if not name.startswith(".")]) == MEMBERS


def test_what_somebody_changed_or_removed_is_repaired(running: Running) -> None:
    path = "/apis/rbac.authorization.k8s.io/v1/namespaces/project-p3/rolebindings/labcluster-members"
    before = running.api.get(path)["subjects"]
    foreign = {**running.api.get(path), "subjects": [{"kind": "User", "name": "mallory"}]}
    running.api.request("PUT", path, body=foreign)
    policy = "/apis/networking.k8s.io/v1/namespaces/project-p4/networkpolicies/labcluster"
    running.api.delete(policy)

    def repaired() -> bool:
        try:
            running.api.get(policy)
        except NotFoundError:
            return False
        return bool(running.api.get(path)["subjects"] == before)

    assert running.until(repaired, 30) < 30


def test_a_member_who_leaves_loses_everything_in_all_his_projects(running: Running) -> None:
    state = running.store.state
    gone = state.members["m0"].model_copy(update={"disabled": True})
    running.store.state = state.model_copy(update={"members": {**state.members, "m0": gone}})
    mine = [group.name for group in state.groups_of("m0")]
    assert len(mine) == 2

    def out() -> bool:
        for name in mine:
            place = f"/namespaces/project-{name}"
            data = running.api.get(f"/api/v1{place}/configmaps/labcluster-members")["data"]
            bound = running.api.get(
                f"/apis/rbac.authorization.k8s.io/v1{place}/rolebindings/labcluster-members"
            )["subjects"]
            if "m0" in data or any(subject["name"] == "m0" for subject in bound):
                return False
        return True

    assert running.until(out, 30) < 30
