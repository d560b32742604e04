"""The controller's turn, with a cluster in memory."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any, cast

import pytest
from identity_fakes import FakeApi, FakeDirectory, directory
from labcluster.adapters.kube import KubeApi
from labcluster.controller.caches import Caches
from labcluster.controller.loop import Controller
from labcluster.errors import UnreachableError
from labcluster.models.projects import Project, ProjectSpec
from labcluster.services.drift import Key, key_of

BINDING = "/apis/rbac.authorization.k8s.io/v1/namespaces/project-vision/rolebindings/labcluster-members"
MEMBERS = "/api/v1/namespaces/project-vision/configmaps/labcluster-members"


class Seen:
    """Caches that see what the fake apiserver holds, at once."""

    def __init__(self, api: FakeApi) -> None:
        self._api = api
        self.usable = True
        self.generation = 1
        self.specs: dict[str, ProjectSpec] = {}

    def wait_synced(self, seconds: float) -> bool:
        return True

    def projects(self) -> list[Project]:
        status = {
            path.split("/")[-2]: item["status"]
            for path, item in self._api.objects.items()
            if path.endswith("/status")
        }
        return [
            Project(
                name=name,
                spec=spec,
                uid=f"uid-{name}",
                generation=self.generation,
                status=status.get(name, {}),
            )
            for name, spec in self.specs.items()
        ]

    def nodes(self) -> list[dict[str, Any]]:
        return []

    def live(self) -> dict[Key, dict[str, Any]]:
        items = [item for path, item in self._api.objects.items() if not path.endswith("/status")]
        return {key_of(item): dict(item) for item in items}

    def settle(self, written: Iterable[dict[str, Any]]) -> None:
        """Nothing lags."""


class Site:
    def __init__(self) -> None:
        self.api = FakeApi()
        self.seen = Seen(self.api)
        self.seen.specs["vision"] = ProjectSpec(gid=30000, gpus=1, max_gpus=2)
        self.directory = FakeDirectory(directory({"ada": 20000, "bo": 20001}, vision=(30000, "ada")))
        self.controller = Controller(
            cast(KubeApi, self.api), self.directory, cast(Caches, self.seen), threading.Event()
        )

    def turn(self) -> None:
        self.api.applied.clear()
        self.controller.turn()

    def events(self) -> list[tuple[str, str]]:
        said = [(event["reason"], event["message"]) for event in self.api.events]
        self.api.events.clear()
        return said

    def condition(self) -> dict[str, Any]:
        return self.seen.projects()[0].condition()


@pytest.fixture
def site() -> Site:
    return Site()


def test_project_is_made_and_said_to_be_ready(site: Site) -> None:
    site.turn()
    assert site.api.objects[MEMBERS]["data"]["ada"] == "20000 30000 30000"
    assert site.condition()["status"] == "True"
    assert site.events() == [
        ("Created", "made namespace project-vision"),
        ("MembersAdded", "now members: ada"),
    ]
    assert site.controller.ready


def test_second_turn_writes_nothing(site: Site) -> None:
    site.turn()
    site.events()
    site.turn()
    assert not site.api.applied
    assert not site.events()


def test_leaving_member_loses_everything(site: Site) -> None:
    site.turn()
    site.events()
    site.directory.state = directory({"ada": 20000, "bo": 20001}, vision=(30000, "bo"))
    site.turn()
    data = site.api.objects[MEMBERS]["data"]
    assert "ada" not in data
    assert "bo" in data
    binding = site.api.objects[BINDING]
    assert [subject["name"] for subject in binding["subjects"]] == ["bo"]
    assert site.events() == [
        ("MembersAdded", "now members: bo"),
        ("MembersRemoved", "no members any more: ada"),
    ]


def test_drift_is_repaired_and_said(site: Site) -> None:
    site.turn()
    site.events()
    policy = "/apis/networking.k8s.io/v1/namespaces/project-vision/networkpolicies/labcluster"
    del site.api.objects[policy]
    site.api.objects[MEMBERS]["data"]["mallory"] = "0 0 0"
    site.turn()
    assert policy in site.api.objects
    assert "mallory" not in site.api.objects[MEMBERS]["data"]
    assert ("Repaired", "brought into line: NetworkPolicy") in site.events()


def test_changed_project_is_said_to_be_updated_and_not_repaired(site: Site) -> None:
    site.turn()
    site.events()
    site.seen.specs["vision"] = ProjectSpec(gid=30000, gpus=1, max_gpus=3)
    site.seen.generation = 2
    site.turn()
    assert site.events() == [("Updated", "brought into line: ClusterQueue")]


def test_write_that_changes_nothing_is_no_news(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.turn()
    site.events()
    there = site.seen.live()
    for item in there.values():
        item.pop("spec", None)  # as if the copy were incomplete
    monkeypatch.setattr(site.seen, "live", lambda: there)
    site.turn()
    assert site.api.applied
    assert not site.events()


def test_removed_binding_is_said_to_be_repaired(site: Site) -> None:
    site.turn()
    site.events()
    del site.api.objects[BINDING]
    site.turn()
    assert site.events() == [("Repaired", "brought into line: RoleBinding")]


def test_removed_project_takes_its_namespace_and_volume_along(site: Site) -> None:
    site.seen.specs["speech"] = ProjectSpec(gid=30001)
    site.turn()
    del site.seen.specs["speech"]
    site.turn()
    assert sorted(site.api.deleted) == [
        "/api/v1/namespaces/project-speech",
        "/api/v1/persistentvolumes/lab-speech",
        "/apis/kueue.x-k8s.io/v1beta2/clusterqueues/project-speech",
    ]


def test_nothing_is_removed_when_all_projects_are_gone_at_once(site: Site) -> None:
    site.seen.specs["speech"] = ProjectSpec(gid=30001)
    site.turn()
    site.seen.specs.clear()
    site.turn()
    assert not site.api.deleted


def test_drift_is_repaired_while_the_directory_is_away(site: Site) -> None:
    site.turn()
    site.directory.away = True
    del site.api.objects[MEMBERS]["data"]["ada"]
    site.turn()
    assert "ada" in site.api.objects[MEMBERS]["data"]


def test_nothing_happens_before_the_directory_was_read_once(site: Site) -> None:
    site.directory.away = True
    site.turn()
    assert not site.api.objects
    assert not site.controller.ready


def test_nothing_is_decided_by_stale_watches(site: Site) -> None:
    site.seen.usable = False
    site.turn()
    assert not site.api.objects


def test_refused_object_is_a_condition_and_one_event_and_the_rest_goes_on(site: Site) -> None:
    path = "/apis/kueue.x-k8s.io/v1beta2/clusterqueues/project-vision"
    site.api.refused[path] = UnreachableError("Kueue's webhook does not answer")
    site.turn()
    assert MEMBERS in site.api.objects
    assert site.condition()["reason"] == "ApplyFailed"
    assert "ClusterQueue project-vision: cannot apply: Kueue's webhook" in site.condition()["message"]
    site.events()
    site.turn()
    assert not [reason for reason, _ in site.events() if reason == "ApplyFailed"]
    site.api.refused.clear()
    site.turn()
    assert site.condition()["status"] == "True"


def test_missing_group_is_said_and_the_time_of_the_condition_is_kept(site: Site) -> None:
    site.directory.state = directory({"ada": 20000})
    site.turn()
    before = site.condition()
    assert before["reason"] == "GroupMissing"
    assert "GroupMissing" in dict(site.events())
    site.turn()
    assert site.condition() == before


def test_fault_in_one_turn_does_not_end_the_loop(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = threading.Event()
    turns: list[int] = []

    def turn() -> None:
        turns.append(1)
        if len(turns) == 2:
            stop.set()
        raise ValueError("nobody thought of this")

    monkeypatch.setattr(site.controller, "turn", turn)
    monkeypatch.setattr(site.seen, "start", lambda: None, raising=False)
    monkeypatch.setattr(site.controller, "_poll_seconds", 0.0)
    site.controller.run(stop)
    assert len(turns) == 2
    assert site.controller.alive
