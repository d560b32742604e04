"""Members of the cluster: their entries in the directory, made and changed idempotently."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Protocol

from labcluster.errors import ConflictError, NotAllowedError, NotFoundError, UnreachableError, UsageError
from labcluster.models.members import (
    MEMBER_NAME,
    MEMBER_UIDS,
    Change,
    Directory,
    EnrolmentItem,
    Group,
    Member,
    MemberRequest,
    MemberView,
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
    def remove_group(self, group: Group) -> None: ...


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


def list_members(directory: Directory) -> list[MemberView]:
    """All members with their projects, by name."""
    projects: dict[str, list[str]] = {}
    for name, group in sorted(directory.groups.items()):
        for user in group.members:
            projects.setdefault(user, []).append(name)
    return [
        MemberView(**directory.members[name].model_dump(), projects=tuple(projects.get(name, ())))
        for name in sorted(directory.members)
    ]


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
    directory = store.read()
    old, new = directory.members.get(name), wanted_member(directory, name, request)
    actions: list[str] = []
    if told := entry_change(old, new):
        actions.append(told)
        if not dry_run:
            write_member(store, old, new)
    if request.password is not None:
        password = request.password.get_secret_value()
        if old is None or not store.has_password(name, password):
            actions.append(f"set the password of member {name}")
            if not dry_run:
                store.set_password(name, password)
    return Change(actions=tuple(actions))


def wanted_member(directory: Directory, name: str, request: MemberRequest | EnrolmentItem) -> Member:
    """The entry that a request asks for, or an error that says why there cannot be one."""
    validate_member_name(name)
    if name in directory.groups:
        raise ConflictError(f"{name!r} is a project; a member needs another name")
    old = directory.members.get(name)
    if old is None:
        uid = lowest_free(_uids(directory), MEMBER_UIDS, "uid")
        old = Member(name=name, uid=uid, full_name=name, home=f"/lab/home/{name}")
    asked = {
        "full_name": request.full_name,
        "mail": request.mail or None,
        "ssh_keys": tuple(dict.fromkeys(request.ssh_keys)),
    }
    return old.model_copy(update=asked)


def entry_change(old: Member | None, new: Member) -> str | None:
    """What there is to do to an entry, in a sentence; None for nothing."""
    if old is None:
        return f"add member {new.name} with uid {new.uid}"
    changes = [field for field in ("full_name", "mail", "ssh_keys") if _differ(old, new, field)]
    return f"change {', '.join(changes)} of member {new.name}" if changes else None


def write_member(store: DirectoryStore, old: Member | None, new: Member) -> None:
    """Make an entry equal to `new`."""
    if old is None:
        store.add_member(new)
    else:
        store.modify_member(old, new)


def set_password(store: DirectoryStore, name: str, password: str, *, dry_run: bool = False) -> Change:
    """Give a member another password. That of a disabled member still opens nothing."""
    require_member(store.read(), name)
    if not dry_run:
        store.set_password(name, password)
    return Change(actions=(f"set the password of member {name}",))


def change_own_password(store: DirectoryStore, name: str, old: str, new: str) -> Change:
    """Let a member change his password, who proves by the old one that it is really he at the keyboard."""
    require_member(store.read(), name)
    if not store.has_password(name, old):
        raise NotAllowedError(
            "the old password is wrong; if you have none yet, ask an administrator to set one"
        )
    if old == new:
        raise UsageError("the new password is the old one: choose another")
    store.set_password(name, new)
    return Change(actions=(f"set the password of member {name}",))


def set_disabled(store: DirectoryStore, name: str, disabled: bool, *, dry_run: bool = False) -> Change:
    """Shut a member out everywhere, or let him in again. Uid, files and the list of his projects are kept."""
    old = require_member(store.read(), name)
    if old.disabled == disabled:
        return Change()
    if not dry_run:
        store.modify_member(old, old.model_copy(update={"disabled": disabled}))
    if disabled:
        return Change(actions=(f"disable member {name}: no login, no submit; what he runs is cancelled",))
    return Change(actions=(f"enable member {name}",))


def view_member(directory: Directory, name: str) -> MemberView:
    """A member with his projects."""
    member = require_member(directory, name)
    projects = tuple(group.name for group in directory.groups_of(name))
    return MemberView(**member.model_dump(), projects=projects)


def _uids(directory: Directory) -> list[int]:
    return [member.uid for member in directory.members.values()]


def _differ(old: Member, new: Member, field: str) -> bool:
    return bool(getattr(old, field) != getattr(new, field))
