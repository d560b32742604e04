"""The directory over LDAPS: people and projects, read whole and written entry by entry.

One connection is kept and made anew when it breaks. Every call ends within a few seconds: a directory that
hangs must not hang the portal. Passwords go to slapd as they are, by the password-modify operation of
RFC 3062 inside TLS; slapd's own policy decides how they are hashed.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import ldap
import ldap.dn
from ldap.controls import SimplePagedResultsControl

from labcluster.errors import ConflictError, LabclusterError, NotFoundError, UnreachableError, UsageError
from labcluster.models.members import Directory, Group, Member

log = logging.getLogger(__name__)

T = TypeVar("T")
Attributes = dict[str, list[bytes]]

_PERSON = ["uid", "uidNumber", "cn", "mail", "sshPublicKey", "homeDirectory", "loginShell", "shadowExpire"]
_GROUP = ["cn", "gidNumber", "memberUid", "description"]
_PAGE = 500
# Days since 1970 after which an account has expired. slapd, sssd and Dex refuse members with this one value.
_DISABLED = "1"

# The connection is of no use any more, or never was.
_BROKEN = (ldap.SERVER_DOWN, ldap.CONNECT_ERROR, ldap.TIMEOUT, ldap.TIMELIMIT_EXCEEDED, ldap.UNAVAILABLE)


class LdapDirectory:
    """Implements `services.members.DirectoryStore`."""

    def __init__(
        self,
        uri: str,
        base_dn: str,
        bind_dn: str,
        password_file: Path,
        ca_file: Path,
        *,
        timeout: float = 5.0,
    ) -> None:
        self._uri = uri
        self._people = f"ou=people,{base_dn}"
        self._projects = f"ou=projects,{base_dn}"
        self._removed = f"ou=removed,{base_dn}"
        self._bind_dn = bind_dn
        self._password_file = password_file
        self._ca_file = ca_file
        self._timeout = timeout
        self._connection: Any = None
        self._lock = threading.Lock()

    def read(self) -> Directory:
        """All people and projects."""

        def search(connection: Any) -> Directory:
            people = self._search(connection, self._people, "(objectClass=posixAccount)", _PERSON)
            projects = self._search(connection, self._projects, "(objectClass=posixGroup)", _GROUP)
            removed = self._search(connection, self._removed, "(objectClass=posixGroup)", _GROUP)
            members = [member for entry in people if (member := _member(entry))]
            groups = [group for entry in projects if (group := _group(entry))]
            return Directory(
                members={member.name: member for member in members},
                groups={group.name: group for group in groups},
                removed=tuple(group for entry in removed if (group := _group(entry))),
            )

        return self._call(search)

    def add_member(self, member: Member) -> None:
        """Make a person's entry, without a password."""
        self._call(lambda connection: connection.add_s(self._person_dn(member.name), list(_person(member))))

    def modify_member(self, old: Member, new: Member) -> None:
        """Change what differs."""
        before, after = dict(_person(old)), dict(_person(new))
        changes = [
            (ldap.MOD_REPLACE, name, after.get(name) or None)
            for name in sorted(before.keys() | after.keys())
            if before.get(name) != after.get(name)
        ]

        def modify(connection: Any) -> None:
            if new.disabled and not old.disabled:
                # Entries that were made by hand, or long ago, lack the class that shadowExpire belongs to.
                with suppress(ldap.TYPE_OR_VALUE_EXISTS):
                    added = [(ldap.MOD_ADD, "objectClass", [b"shadowAccount"])]
                    connection.modify_s(self._person_dn(new.name), added)
            connection.modify_s(self._person_dn(new.name), changes)

        if changes:
            self._call(modify)

    def set_password(self, name: str, password: str) -> None:
        """Set a person's password."""
        self._call(lambda connection: connection.passwd_s(self._person_dn(name), None, password))

    def has_password(self, name: str, password: str) -> bool:
        """Whether the person could log in with this password now."""
        if not password:  # to LDAP, a bind without a password is none at all
            return False
        with _as_our_errors(self._uri):
            connection = self._connect()
            try:
                connection.simple_bind_s(self._person_dn(name), password)
            except (ldap.INVALID_CREDENTIALS, ldap.NO_SUCH_OBJECT, ldap.INAPPROPRIATE_AUTH):
                return False
            finally:
                _close(connection)
            return True

    def add_group(self, group: Group) -> None:
        """Make a project's entry."""
        self._call(lambda connection: connection.add_s(self._group_dn(group.name), list(_group_entry(group))))

    def modify_group(self, old: Group, new: Group) -> None:
        """Add and remove members by name, so that two changes at a time both count."""
        changes: list[tuple[int, str, list[bytes] | None]] = []
        if added := set(new.members) - set(old.members):
            changes.append((ldap.MOD_ADD, "memberUid", _encoded(sorted(added))))
        if removed := set(old.members) - set(new.members):
            changes.append((ldap.MOD_DELETE, "memberUid", _encoded(sorted(removed))))
        if old.description != new.description:
            changes.append((ldap.MOD_REPLACE, "description", _encoded([new.description]) or None))

        def modify(connection: Any) -> None:
            try:
                connection.modify_s(self._group_dn(new.name), changes)
            except (ldap.TYPE_OR_VALUE_EXISTS, ldap.NO_SUCH_ATTRIBUTE) as error:
                raise ConflictError(f"project {new.name} was changed by somebody else; try again") from error

        if changes:
            self._call(modify)

    def remove_group(self, group: Group) -> None:
        """Take a project's entry away; name and gid stay among the removed ones, which is written first."""

        def remove(connection: Any) -> None:
            tombstone = f"gidNumber={group.gid},{self._removed}"
            with suppress(ldap.ALREADY_EXISTS):  # interrupted between the two
                connection.add_s(tombstone, list(_group_entry(group.model_copy(update={"members": ()}))))
            with suppress(ldap.NO_SUCH_OBJECT):
                connection.delete_s(self._group_dn(group.name))

        self._call(remove)

    def close(self) -> None:
        """Give the connection back."""
        with self._lock:
            self._drop()

    def _person_dn(self, name: str) -> str:
        return f"uid={ldap.dn.escape_dn_chars(name)},{self._people}"

    def _group_dn(self, name: str) -> str:
        return f"cn={ldap.dn.escape_dn_chars(name)},{self._projects}"

    def _search(
        self, connection: Any, base: str, filters: str, attributes: list[str]
    ) -> Iterator[Attributes]:
        control = SimplePagedResultsControl(True, size=_PAGE, cookie="")
        while True:
            number = connection.search_ext(
                base, ldap.SCOPE_ONELEVEL, filters, attributes, serverctrls=[control]
            )
            _, data, _, answers = connection.result3(number, timeout=self._timeout)
            for dn, entry in data:
                if dn is not None:
                    yield entry
            control.cookie = next(
                (c.cookie for c in answers if c.controlType == SimplePagedResultsControl.controlType), b""
            )
            if not control.cookie:
                return

    def _call(self, work: Callable[[Any], T]) -> T:
        """Do `work` on the connection; when it turns out to be broken, once more on a new one."""
        with self._lock, _as_our_errors(self._uri):
            fresh = self._connection is None
            if fresh:
                self._connection = self._bound()
            try:
                return work(self._connection)
            except _BROKEN as error:
                self._drop()
                # A server that took the question and did not answer in time is not asked twice.
                if fresh or isinstance(error, ldap.TIMEOUT | ldap.TIMELIMIT_EXCEEDED):
                    raise
            self._connection = self._bound()
            try:
                return work(self._connection)
            except _BROKEN:
                self._drop()
                raise

    def _bound(self) -> Any:
        connection = self._connect()
        try:
            connection.simple_bind_s(self._bind_dn, self._password_file.read_text().strip())
        except ldap.LDAPError:
            _close(connection)
            raise
        return connection

    def _connect(self) -> Any:
        self._greet()
        connection = ldap.initialize(self._uri, bytes_strictness="error")
        for option, value in (
            (ldap.OPT_PROTOCOL_VERSION, 3),
            (ldap.OPT_NETWORK_TIMEOUT, self._timeout),
            (ldap.OPT_TIMEOUT, self._timeout),
            (ldap.OPT_REFERRALS, 0),
            (ldap.OPT_X_TLS_CACERTFILE, str(self._ca_file)),
            (ldap.OPT_X_TLS_REQUIRE_CERT, ldap.OPT_X_TLS_DEMAND),
            (ldap.OPT_X_TLS_PROTOCOL_MIN, 0x303),
            # Only now the TLS options count.
            (ldap.OPT_X_TLS_NEWCTX, 0),
        ):
            connection.set_option(option, value)
        return connection

    def _greet(self) -> None:
        """Shake hands over TLS once by ourselves: libldap's own handshake has no timeout, and waits for ever
        for a server that accepts connections and then says nothing. It also says clearly what is wrong."""
        address = urlsplit(self._uri)
        if address.scheme != "ldaps" or not address.hostname:
            return
        try:
            context = ssl.create_default_context(cafile=self._ca_file)
            with (
                socket.create_connection((address.hostname, address.port or 636), self._timeout) as plain,
                context.wrap_socket(plain, server_hostname=address.hostname),
            ):
                pass
        except OSError as error:
            raise UnreachableError(f"the directory {self._uri} does not answer: {error}") from error

    def _drop(self) -> None:
        if self._connection is not None:
            _close(self._connection)
            self._connection = None


@contextmanager
def _as_our_errors(uri: str) -> Iterator[None]:
    """LDAP's errors as ours; none of them may carry a password or a stack of nested tuples to a user."""
    try:
        yield
    except LabclusterError:
        raise
    except ldap.ALREADY_EXISTS as error:
        raise ConflictError("the directory has this entry already; try again") from error
    except ldap.NO_SUCH_OBJECT as error:
        raise NotFoundError("the directory has no such entry") from error
    except ldap.CONSTRAINT_VIOLATION as error:
        raise UsageError(f"the directory refuses it: {_info(error)}") from error
    except ldap.INVALID_CREDENTIALS as error:
        raise UnreachableError(f"the directory {uri} does not accept our own password") from error
    except ldap.INSUFFICIENT_ACCESS as error:
        raise LabclusterError(f"the directory {uri} does not let us do this: {_info(error)}") from error
    except ldap.LDAPError as error:
        raise UnreachableError(f"the directory {uri} does not answer: {_info(error)}") from error


def _info(error: ldap.LDAPError) -> str:
    details = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
    parts = [str(details[key]) for key in ("desc", "info") if details.get(key)]
    return ": ".join(parts) or type(error).__name__


def _close(connection: Any) -> None:
    try:
        connection.unbind_s()
    except ldap.LDAPError as error:
        log.debug("closing an LDAP connection: %s", error)


def _encoded(values: Iterable[str]) -> list[bytes]:
    return [value.encode() for value in values if value]


def _texts(entry: Attributes, name: str) -> list[str]:
    return [value.decode("utf-8", "replace") for value in entry.get(name, [])]


def _member(entry: Attributes) -> Member | None:
    """One entry of ou=people; None, and a line in the log, for one that is none of a person."""
    try:
        name = _texts(entry, "uid")[0]
        return Member(
            name=name,
            uid=int(entry["uidNumber"][0]),
            full_name=next(iter(_texts(entry, "cn")), name),
            mail=next(iter(_texts(entry, "mail")), None),
            ssh_keys=tuple(_texts(entry, "sshPublicKey")),
            home=next(iter(_texts(entry, "homeDirectory")), f"/lab/home/{name}"),
            shell=next(iter(_texts(entry, "loginShell")), "/bin/bash"),
            disabled=_texts(entry, "shadowExpire") == [_DISABLED],
        )
    except (KeyError, IndexError, ValueError) as error:
        log.warning("ignoring an entry under ou=people without a proper %s", error)
        return None


def _group(entry: Attributes) -> Group | None:
    """One entry of ou=projects, likewise."""
    try:
        return Group(
            name=_texts(entry, "cn")[0],
            gid=int(entry["gidNumber"][0]),
            members=tuple(sorted(set(_texts(entry, "memberUid")))),
            description=next(iter(_texts(entry, "description")), ""),
        )
    except (KeyError, IndexError, ValueError) as error:
        log.warning("ignoring an entry under ou=projects without a proper %s", error)
        return None


def _person(member: Member) -> Iterator[tuple[str, list[bytes]]]:
    number = str(member.uid)
    yield "objectClass", _encoded(["inetOrgPerson", "posixAccount", "shadowAccount", "ldapPublicKey"])
    yield "uid", _encoded([member.name])
    yield "cn", _encoded([member.full_name])
    yield "sn", _encoded([member.full_name.split()[-1]])
    yield "uidNumber", _encoded([number])
    # A group of one's own: what lies in a home belongs to nobody else's group.
    yield "gidNumber", _encoded([number])
    yield "homeDirectory", _encoded([member.home])
    yield "loginShell", _encoded([member.shell])
    if member.disabled:
        yield "shadowExpire", _encoded([_DISABLED])
    if member.mail:
        yield "mail", _encoded([member.mail])
    if member.ssh_keys:
        yield "sshPublicKey", _encoded(member.ssh_keys)


def _group_entry(group: Group) -> Iterator[tuple[str, list[bytes]]]:
    yield "objectClass", _encoded(["posixGroup"])
    yield "cn", _encoded([group.name])
    yield "gidNumber", _encoded([str(group.gid)])
    if group.description:
        yield "description", _encoded([group.description])
    if group.members:
        yield "memberUid", _encoded(group.members)
