from __future__ import annotations

import pytest
from identity_fakes import FakeDirectory, directory
from labcluster.errors import ConflictError, NotAllowedError, NotFoundError, UnreachableError, UsageError
from labcluster.models.members import MemberRequest
from labcluster.services import members
from labcluster.services.members import (
    CachedDirectory,
    change_own_password,
    ensure_member,
    require_member,
    set_disabled,
    set_password,
    view_member,
)
from pydantic import ValidationError

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ5J7Z9dkeykeykey ada@desk"


def test_new_member_gets_the_first_uid_and_a_home() -> None:
    store = FakeDirectory()
    change = ensure_member(store, "ada", MemberRequest(full_name="Ada Lovelace", ssh_keys=(KEY, KEY)))
    ada = store.state.members["ada"]
    assert change.changed
    assert (ada.uid, ada.home, ada.ssh_keys) == (20000, "/lab/home/ada", (KEY,))


def test_same_request_again_changes_nothing() -> None:
    store = FakeDirectory()
    request = MemberRequest.model_validate({"full_name": "Ada", "password": "long enough"})
    assert ensure_member(store, "ada", request).actions == (
        "add member ada with uid 20000",
        "set the password of member ada",
    )
    assert not ensure_member(store, "ada", request).changed


def test_change_is_told_as_json_with_its_flag() -> None:
    change = ensure_member(FakeDirectory(), "ada", MemberRequest(full_name="Ada"))
    assert change.model_dump() == {"actions": ("add member ada with uid 20000",), "changed": True}


def test_dry_run_says_what_it_would_do_and_does_nothing() -> None:
    store = FakeDirectory()
    request = MemberRequest.model_validate({"full_name": "Ada", "password": "long enough"})
    assert len(ensure_member(store, "ada", request, dry_run=True).actions) == 2
    assert not store.state.members
    assert not store.passwords


def test_changed_fields_are_named_and_the_uid_stays() -> None:
    store = FakeDirectory(directory({"ada": 20007}))
    change = ensure_member(store, "ada", MemberRequest(full_name="Ada", mail="ada@lab.internal"))
    assert change.actions == ("change mail of member ada",)
    assert store.state.members["ada"].uid == 20007


def test_uid_is_never_one_that_was_passed_already() -> None:
    store = FakeDirectory(directory({"ada": 20000, "eve": 20005, "outsider": 70000}))
    ensure_member(store, "bo", MemberRequest(full_name="Bo"))
    assert store.state.members["bo"].uid == 20006


def test_uids_that_are_used_up_are_said_to_be() -> None:
    with pytest.raises(ConflictError, match="no uid is left"):
        ensure_member(FakeDirectory(directory({"ada": 29999})), "bo", MemberRequest(full_name="Bo"))


@pytest.mark.parametrize(
    "name", ["root", "Ada", "9lives", "ada/../bo", "a" * 33, "", "-x", "x-", "labadmin", ".images"]
)
def test_name_that_cannot_be_everywhere_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        ensure_member(FakeDirectory(), name, MemberRequest(full_name="X"))


def test_name_of_a_project_is_refused() -> None:
    with pytest.raises(ConflictError, match="is a project"):
        ensure_member(
            FakeDirectory(directory({}, vision=(30000, ""))), "vision", MemberRequest(full_name="X")
        )


@pytest.mark.parametrize(
    "fields",
    [
        {"full_name": ""},
        {"full_name": "two\nlines"},
        {"full_name": "Ada", "ssh_keys": ["not a key"]},
        {"full_name": "Ada", "ssh_keys": ['command="x" ' + KEY]},
        {"full_name": "Ada", "ssh_keys": [KEY + "\n" + KEY]},
        {"full_name": "Ada", "password": "short"},
        {"full_name": "Ada", "uid": 0},
    ],
)
def test_request_that_smuggles_something_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        MemberRequest.model_validate(fields)


def test_missing_member_is_named_with_near_ones() -> None:
    with pytest.raises(NotFoundError, match=r"no member 'adda'; there are ada"):
        require_member(directory({"ada": 20000, "bo": 20001}), "adda")


def test_disabled_member_keeps_all_but_the_way_in() -> None:
    store = FakeDirectory(directory({"ada": 20000}, vision=(30000, "ada")))
    assert set_disabled(store, "ada", True, dry_run=True).changed
    assert not store.state.members["ada"].disabled
    assert set_disabled(store, "ada", True).changed
    assert not set_disabled(store, "ada", True).changed
    ensure_member(store, "ada", MemberRequest(full_name="Ada King"))
    seen = view_member(store.state, "ada")
    assert (seen.disabled, seen.uid, seen.projects) == (True, 20000, ("vision",))
    assert set_disabled(store, "ada", False).changed
    assert not store.state.members["ada"].disabled


def test_passwords_are_set_by_administrators_and_changed_by_their_owners() -> None:
    store = FakeDirectory(directory({"ada": 20000}))
    assert set_password(store, "ada", "correct horse", dry_run=True).changed
    assert not store.passwords
    set_password(store, "ada", "correct horse")
    with pytest.raises(NotAllowedError, match="old password is wrong"):
        change_own_password(store, "ada", "wrong horse", "better horse")
    with pytest.raises(UsageError, match="is the old one"):
        change_own_password(store, "ada", "correct horse", "correct horse")
    change_own_password(store, "ada", "correct horse", "better horse")
    assert store.passwords == {"ada": "better horse"}
    with pytest.raises(NotFoundError):
        set_password(store, "eve", "correct horse")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(members, "time", clock)
    return clock


def test_cached_directory_reads_once_in_a_while(clock: Clock) -> None:
    store = FakeDirectory(directory({"ada": 20000}))
    cached = CachedDirectory(store, seconds=2)
    for _ in range(5):
        assert "ada" in cached.read().members
    assert store.reads == 1
    cached.invalidate()
    cached.read()
    clock.now += 3
    cached.read()
    assert store.reads == 3


def test_cached_directory_serves_the_last_state_while_ldap_is_away(clock: Clock) -> None:
    store = FakeDirectory(directory({"ada": 20000}))
    cached = CachedDirectory(store, seconds=2, stale_seconds=60)
    cached.read()
    store.away = True
    clock.now += 30
    assert "ada" in cached.read().members
    cached.read()
    assert store.reads == 2
    clock.now += 60
    with pytest.raises(UnreachableError):
        cached.read()
