"""Members of the cluster: their entries in the directory, made and changed idempotently."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Protocol

from labcluster.errors import ConflictError, NotFoundError, UnreachableError, UsageError
from labcluster.models.members import (
    MEMBER_NAME,
    MEMBER_UIDS,
    Change,
    Directory,
    Group,
    Member,
    MemberRequest,
)

# Names of the system on the nodes and in images: a member of that name would be somebody else there.
_SYSTEM_NAMES = """
    root daemon bin sys sync games man lp mail news uucp proxy www-data backup list irc gnats nobody sshd
    munge sssd chrony messagebus systemd-network systemd-resolve systemd-timesync postgres openldap etcd
    kube labadmin admin cluster node common labcluster
"""
_RESERVED = frozenset(_SYSTEM_NAMES.split())


class DirectoryStore(Protocol):
    """The directory, as `adapters.ldap` offers it. Every method raises UnreachableError when it is away."""

    def read(self) -> Directory: ...
    def add_member(self, member: Member) -> None: ...
    def modify_member(self, old: Member, new: Member) -> None: ...
    def set_password(self, name: str, password: str) -> None: ...
    def has_password(self, name: str, password: str) -> bool: ...
    def add_group(self, group: Group) -> None: ...
    def modify_group(self, old: Group, new: Group) -> None: ...


class Readable(Protocol):
    """Where a whole directory can be read."""

    def read(self) -> Directory: ...


class CachedDirectory:
    """The directory, read at most every few seconds and served stale while it is away.

    Lookups must not fail with the directory, and requests must not wait for it more than once: a failed
    read is remembered as long as a good one.
    """

    def __init__(self, store: Readable, seconds: float = 2.0, stale_seconds: float = 300.0) -> None:
        self._store = store
        self._seconds = seconds
        self._stale_seconds = stale_seconds
        self._lock = threading.Lock()
        self._directory: Directory | None = None
        self._good_at = 0.0
        self._tried_at: float | None = None
        self._error = ""

    def read(self) -> Directory:
        """The directory as it was at most `seconds` ago, or for `stale_seconds` when it cannot be read."""
        with self._lock:
            now = time.monotonic()
            if self._tried_at is None or now - self._tried_at >= self._seconds:
                try:
                    self._directory = self._store.read()
                    self._good_at = time.monotonic()
                except UnreachableError as error:
                    self._error = error.detail
                self._tried_at = time.monotonic()
            if self._directory is None or time.monotonic() - self._good_at > self._stale_seconds:
                raise UnreachableError(self._error or "the directory does not answer")
            return self._directory

    def invalidate(self) -> None:
        """Read anew at the next call: something has just been changed."""
        with self._lock:
            self._tried_at = None


def validate_member_name(name: str) -> None:
    """Refuse what cannot be a login, a label and a part of a path at the same time."""
    if not MEMBER_NAME.fullmatch(name):
        raise UsageError(
            f"member name {name!r}: use 1 to 32 of a-z, 0-9, '.', '_' and '-', beginning with a letter and "
            "ending with a letter or digit"
        )
    if name in _RESERVED:
        raise UsageError(f"member name {name!r} belongs to the system; choose another")


def lowest_free(taken: Iterable[int], allowed: range, what: str) -> int:
    """The number after the highest one in use, because files may carry those that were in use before."""
    inside = [number for number in taken if number in allowed]
    number = max(inside, default=allowed.start - 1) + 1
    if number not in allowed:
        raise ConflictError(f"no {what} is left between {allowed.start} and {allowed.stop - 1}")
    return number


def list_members(directory: Directory) -> list[Member]:
    """All members, by name."""
    return [directory.members[name] for name in sorted(directory.members)]


def require_member(directory: Directory, name: str) -> Member:
    """The member, or an error that names near ones."""
    if name in directory.members:
        return directory.members[name]
    near = [other for other in sorted(directory.members) if other[:1] == name[:1]][:5]
    hint = f"; there are {', '.join(near)}" if near else ""
    raise NotFoundError(f"there is no member {name!r}{hint}")


def ensure_member(
    store: DirectoryStore, name: str, request: MemberRequest, *, dry_run: bool = False
) -> Change:
    """Make or change a member so that he is as `request` says."""
    validate_member_name(name)
    directory = store.read()
    old = directory.members.get(name)
    new = Member(
        name=name,
        uid=old.uid if old else lowest_free(_uids(directory), MEMBER_UIDS, "uid"),
        full_name=request.full_name,
        mail=request.mail or None,
        ssh_keys=tuple(dict.fromkeys(request.ssh_keys)),
        home=old.home if old else f"/lab/home/{name}",
        shell=old.shell if old else "/bin/bash",
    )
    actions: list[str] = []
    if old is None:
        if name in directory.groups:
            raise ConflictError(f"{name!r} is a project; a member needs another name")
        actions.append(f"add member {name} with uid {new.uid}")
        if not dry_run:
            store.add_member(new)
    elif changes := [field for field in ("full_name", "mail", "ssh_keys") if _differ(old, new, field)]:
        actions.append(f"change {', '.join(changes)} of member {name}")
        if not dry_run:
            store.modify_member(old, new)
    if request.password is not None:
        password = request.password.get_secret_value()
        if old is None or not store.has_password(name, password):
            actions.append(f"set the password of member {name}")
            if not dry_run:
                store.set_password(name, password)
    return Change(actions=tuple(actions))


def _uids(directory: Directory) -> list[int]:
    return [member.uid for member in directory.members.values()]


def _differ(old: Member, new: Member, field: str) -> bool:
    return bool(getattr(old, field) != getattr(new, field))
