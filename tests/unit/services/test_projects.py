from __future__ import annotations

from typing import Any

import pytest
from identity_fakes import FakeDirectory, FakeProjects, directory
from labcluster.errors import ConflictError, NotFoundError, UnreachableError, UsageError
from labcluster.models.projects import Project, ProjectChange, ProjectRequest, ProjectSpec
from labcluster.models.runs import RunState
from labcluster.services.projects import (
    add_member,
    change_project,
    ensure_project,
    list_projects,
    remove_member,
    remove_project,
)
from pydantic import ValidationError
from store_fakes import FakeStore


@pytest.fixture
def store() -> FakeDirectory:
    return FakeDirectory(directory({"ada": 20000, "bo": 20001}))


@pytest.fixture
def runs(lab: Any) -> FakeStore:
    return lab.store  # type: ignore[no-any-return]


def test_project_is_a_group_and_an_object_with_one_gid(store: FakeDirectory) -> None:
    projects = FakeProjects()
    change = ensure_project(store, projects, "vision", ProjectRequest(gpus=2, max_gpus=8, owner="ada"))
    assert len(change.actions) == 2
    assert store.state.groups["vision"].gid == projects.specs["vision"].gid == 30000
    assert not ensure_project(
        store, projects, "vision", ProjectRequest(gpus=2, max_gpus=8, owner="ada")
    ).changed


def test_maximum_is_the_own_share_when_left_out(store: FakeDirectory) -> None:
    projects = FakeProjects()
    ensure_project(store, projects, "vision", ProjectRequest(gpus=2))
    assert projects.specs["vision"].max_gpus == 2


def test_change_says_what_was_and_what_is(store: FakeDirectory) -> None:
    projects = FakeProjects()
    ensure_project(store, projects, "vision", ProjectRequest(gpus=2))
    change = ensure_project(store, projects, "vision", ProjectRequest(gpus=3))
    assert change.actions == ("change project vision: gpus 2 → 3, maxGpus 2 → 3",)


def test_interrupted_creation_is_finished_with_the_same_gid(store: FakeDirectory) -> None:
    projects = FakeProjects(fails=True)
    with pytest.raises(UnreachableError):
        ensure_project(store, projects, "vision", ProjectRequest())
    projects.fails = False
    ensure_project(store, projects, "speech", ProjectRequest())
    ensure_project(store, projects, "vision", ProjectRequest())
    assert projects.specs["vision"].gid == store.state.groups["vision"].gid == 30000
    assert projects.specs["speech"].gid == 30001


def test_gid_of_an_object_whose_group_is_gone_is_kept_and_not_given_to_others(store: FakeDirectory) -> None:
    projects = FakeProjects({"old": ProjectSpec(gid=30004)})
    ensure_project(store, projects, "new", ProjectRequest())
    ensure_project(store, projects, "old", ProjectRequest())
    assert (store.state.groups["new"].gid, store.state.groups["old"].gid) == (30005, 30004)


def test_disagreeing_gids_are_a_conflict(store: FakeDirectory) -> None:
    projects = FakeProjects({"vision": ProjectSpec(gid=30004)})
    store.state = directory({}, vision=(30009, ""))
    with pytest.raises(ConflictError, match="30004 in the cluster but 30009 in LDAP"):
        ensure_project(store, projects, "vision", ProjectRequest())


def test_dry_run_changes_nothing(store: FakeDirectory) -> None:
    projects = FakeProjects()
    assert ensure_project(store, projects, "vision", ProjectRequest(), dry_run=True).changed
    assert not store.state.groups
    assert not projects.specs


@pytest.mark.parametrize("name", ["common", "labcluster", "Vision", "a_b", "x" * 41, "", "9", "a.b"])
def test_name_that_cannot_be_everywhere_is_refused(store: FakeDirectory, name: str) -> None:
    with pytest.raises(UsageError):
        ensure_project(store, FakeProjects(), name, ProjectRequest())


def test_unknown_owner_and_name_of_a_member_are_refused(store: FakeDirectory) -> None:
    with pytest.raises(NotFoundError, match="no member 'nobody'"):
        ensure_project(store, FakeProjects(), "vision", ProjectRequest(owner="nobody"))
    with pytest.raises(ConflictError, match="is a member"):
        ensure_project(store, FakeProjects(), "ada", ProjectRequest())


def test_maximum_below_the_own_share_is_refused() -> None:
    with pytest.raises(ValidationError, match="must not be less"):
        ProjectRequest(gpus=4, max_gpus=2)


def test_members_come_and_go_idempotently(store: FakeDirectory) -> None:
    store.state = directory({"ada": 20000}, vision=(30000, "gone"))
    assert add_member(store, "vision", "ada", dry_run=True).changed
    assert add_member(store, "vision", "ada").actions == ("add ada to project vision",)
    assert not add_member(store, "vision", "ada").changed
    assert remove_member(store, "vision", "gone").changed
    assert not remove_member(store, "vision", "gone").changed
    assert store.state.groups["vision"].members == ("ada",)


def test_unknown_names_are_said_to_be(store: FakeDirectory) -> None:
    store.state = directory({"ada": 20000}, vision=(30000, ""))
    with pytest.raises(NotFoundError, match="no project 'visio'; projects: vision"):
        add_member(store, "visio", "ada")
    with pytest.raises(NotFoundError, match="no member 'eve'"):
        add_member(store, "vision", "eve")


def test_list_shows_members_and_why_a_project_is_not_ready() -> None:
    condition = {"type": "Ready", "status": "False", "message": "LDAP has no group"}
    projects = [
        Project(name="b", spec=ProjectSpec(gid=30001), status={"conditions": [condition]}),
        Project(
            name="a", spec=ProjectSpec(gid=30000), status={"conditions": [{**condition, "status": "True"}]}
        ),
    ]
    views = list_projects(directory({"ada": 20000}, a=(30000, "ada")), projects)
    assert [(view.name, view.members, view.ready, view.reason) for view in views] == [
        ("a", ["ada"], True, None),
        ("b", [], False, "LDAP has no group"),
    ]


def test_spec_is_camel_case_in_the_cluster() -> None:
    spec = ProjectSpec.model_validate({"gid": 30000, "maxGpus": 4, "storageGiB": 7, "later": "field"})
    assert (spec.max_gpus, spec.storage_gib) == (4, 7)
    assert spec.to_json() == {
        "description": "", "gid": 30000, "gpus": 0, "maxGpus": 4, "weight": 1, "storageGiB": 7,
        "registryGiB": 0, "images": [],
    }  # fmt: skip


@pytest.fixture
def vision(store: FakeDirectory) -> FakeProjects:
    projects = FakeProjects()
    request = ProjectRequest(gpus=2, max_gpus=4, storage_gib=7, description="cameras")
    ensure_project(store, projects, "vision", request)
    return projects


def test_what_is_not_said_stays_as_it_is(store: FakeDirectory, vision: FakeProjects) -> None:
    change = change_project(store, vision, "vision", ProjectChange(max_gpus=8))
    assert change.actions == ("change project vision: maxGpus 4 → 8",)
    assert vision.specs["vision"].storage_gib == 7
    assert not change_project(store, vision, "vision", ProjectChange(max_gpus=8)).changed
    with pytest.raises(UsageError, match="must not be less"):
        change_project(store, vision, "vision", ProjectChange(gpus=9))
    with pytest.raises(NotFoundError, match="no project 'visio'; projects: vision"):
        change_project(store, vision, "visio", ProjectChange(gpus=1))


def test_removed_project_keeps_its_name_and_gid_for_ever(
    store: FakeDirectory, vision: FakeProjects, runs: FakeStore
) -> None:
    change = remove_project(store, vision, runs, "vision", confirm="vision")
    assert "/lab/projects/.removed/vision-30000" in change.actions[-1]
    assert not vision.specs
    assert not store.state.groups
    assert not remove_project(store, vision, runs, "vision", confirm=None).changed
    with pytest.raises(ConflictError, match="choose another name"):
        ensure_project(store, vision, "vision", ProjectRequest())
    ensure_project(store, vision, "speech", ProjectRequest())
    assert vision.specs["speech"].gid == 30001


@pytest.mark.parametrize("confirm", [None, "", "speech"])
def test_project_is_not_removed_without_its_name_said_again(
    store: FakeDirectory, vision: FakeProjects, runs: FakeStore, confirm: str | None
) -> None:
    with pytest.raises(UsageError, match="--confirm vision"):
        remove_project(store, vision, runs, "vision", confirm=confirm)
    assert remove_project(store, vision, runs, "vision", confirm=None, dry_run=True).changed
    assert "vision" in vision.specs
    with pytest.raises(NotFoundError):
        remove_project(store, vision, runs, "visio", confirm="visio")


def test_interrupted_removal_goes_on(store: FakeDirectory, vision: FakeProjects, runs: FakeStore) -> None:
    vision.fails = True
    with pytest.raises(UnreachableError):
        remove_project(store, vision, runs, "vision", confirm="vision")
    assert not store.state.groups
    vision.fails = False
    assert remove_project(store, vision, runs, "vision", confirm="vision").changed
    assert not vision.specs
    assert {group.gid for group in store.state.removed} == {30000}


def test_runs_of_a_removed_project_are_cancelled(
    store: FakeDirectory, vision: FakeProjects, lab: Any
) -> None:
    run = lab.submit()
    remove_project(store, vision, lab.store, "vision", confirm="vision")
    row = lab.store.get(run.project, run.number, run.trial)
    assert (row.state, row.reason) == (RunState.CANCELLED, "project vision was removed")
