from __future__ import annotations

import pytest
from identity_fakes import FakeDirectory, directory
from labcluster.errors import UnreachableError, UsageError
from labcluster.models.members import EnrolmentItem, Group
from labcluster.services.enrolment import enrol


def item(name: str, *projects: str) -> EnrolmentItem:
    return EnrolmentItem(name=name, full_name=name.title(), projects=projects)


@pytest.fixture
def store() -> FakeDirectory:
    return FakeDirectory(directory({"ada": 20004}, vision=(30000, "ada"), shared=(30001, "")))


def test_each_gets_a_uid_and_his_projects(store: FakeDirectory) -> None:
    results = enrol(store, [item("bo", "vision", "shared"), item("ada", "vision"), item("cy")])
    assert [(result.name, result.actions) for result in results] == [
        ("bo", ("add member bo with uid 20005", "add bo to project vision", "add bo to project shared")),
        ("ada", ()),
        ("cy", ("add member cy with uid 20006",)),
    ]
    assert {name: member.uid for name, member in store.state.members.items()} == {
        "ada": 20004, "bo": 20005, "cy": 20006,
    }  # fmt: skip
    assert store.state.groups["vision"].members == ("ada", "bo")
    assert all(not result.actions for result in enrol(store, [item("bo", "vision", "shared"), item("cy")]))


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ([item("Root")], "member name 'Root'"),
        ([item("bo", "visio")], "no project 'visio'"),
        ([item("vision")], "is a project"),
        ([item("bo"), item("bo")], "the list has 'bo' 2 times"),
    ],
)
def test_one_fault_keeps_everybody_out(store: FakeDirectory, bad: list[EnrolmentItem], says: str) -> None:
    before = store.state
    (good, *faulty) = enrol(store, [item("cy", "vision"), *bad], dry_run=True)
    assert good.error is None
    assert all(says in (result.error or "") for result in faulty)
    with pytest.raises(UsageError, match="nobody was enrolled"):
        enrol(store, [item("cy", "vision"), *bad])
    assert store.state == before


def test_dry_run_writes_nothing(store: FakeDirectory) -> None:
    before = store.state
    assert enrol(store, [item("bo", "vision")], dry_run=True)[0].actions
    assert store.state == before


def test_interrupted_enrolment_is_finished_by_the_same_list(
    store: FakeDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = [item("bo", "vision"), item("cy", "vision")]

    def dies(old: Group, new: Group) -> None:
        raise UnreachableError("the directory does not answer")

    with monkeypatch.context() as broken:
        broken.setattr(store, "modify_group", dies)
        with pytest.raises(UnreachableError):
            enrol(store, people)
    assert [result.actions for result in enrol(store, people)] == [
        ("add bo to project vision",),
        ("add cy to project vision",),
    ]
    assert store.state.groups["vision"].members == ("ada", "bo", "cy")
