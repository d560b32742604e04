"""What the adapter makes of entries; the rest is tried on a real slapd in tests/integration."""

from __future__ import annotations

from pathlib import Path

import ldap
import pytest
from labcluster.adapters import ldap as adapter
from labcluster.adapters.ldap import LdapDirectory
from labcluster.errors import ConflictError, LabclusterError, NotFoundError, UnreachableError, UsageError

PERSON = {
    "uid": [b"ada"],
    "uidNumber": [b"20000"],
    "cn": ["Ada Løvelace".encode()],
    "sshPublicKey": [b"k1", b"k2"],
}


def test_person_is_read_with_what_is_left_out() -> None:
    ada = adapter._member(PERSON)
    assert ada
    assert (ada.name, ada.uid, ada.full_name, ada.mail) == ("ada", 20000, "Ada Løvelace", None)
    assert (ada.home, ada.ssh_keys) == ("/lab/home/ada", ("k1", "k2"))


@pytest.mark.parametrize("change", [{"uidNumber": []}, {"uidNumber": [b"x"]}, {"uid": []}])
def test_entry_that_is_no_person_is_left_out(change: dict[str, list[bytes]]) -> None:
    assert adapter._member(PERSON | change) is None


def test_members_of_a_group_are_counted_once() -> None:
    group = adapter._group({"cn": [b"vision"], "gidNumber": [b"30000"], "memberUid": [b"bo", b"ada", b"bo"]})
    assert group
    assert group.members == ("ada", "bo")
    assert adapter._group({"cn": [b"vision"]}) is None


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (ldap.ALREADY_EXISTS(), ConflictError),
        (ldap.NO_SUCH_OBJECT(), NotFoundError),
        (ldap.CONSTRAINT_VIOLATION({"desc": "Constraint violation", "info": "too short"}), UsageError),
        (ldap.INVALID_CREDENTIALS(), UnreachableError),
        (ldap.SERVER_DOWN({"desc": "Can't contact LDAP server"}), UnreachableError),
        (ldap.TIMEOUT(), UnreachableError),
        (ldap.INSUFFICIENT_ACCESS(), LabclusterError),
    ],
)
def test_errors_of_ldap_are_told_in_our_words(error: ldap.LDAPError, ours: type[LabclusterError]) -> None:
    with pytest.raises(ours) as told, adapter._as_our_errors("ldaps://ldap"):
        raise error
    assert type(told.value) is ours
    assert "{" not in told.value.detail


def test_server_that_is_not_there_is_said_to_be_away(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("")
    (tmp_path / "password").write_text("x")
    directory = LdapDirectory(
        "ldaps://127.0.0.1:1", "dc=x", "cn=x", tmp_path / "password", tmp_path / "ca.crt", timeout=1
    )
    with pytest.raises(UnreachableError, match="does not answer"):
        directory.read()
