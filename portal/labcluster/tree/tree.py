#!/usr/bin/python3
"""labcluster-tree: make the directories of people and projects on the shared tree.

Runs as root on the file server, which alone is root on the tree. Every few seconds it reads people and
projects from LDAP and makes what is missing:

    home/<user>      0700 user:user          scratch/<user>   0700 user:user
    projects/<p>     2750 root:<gid>         projects/<p>/{runs,data,models,code}  2770 root:<gid>
    projects/<p>/capsules  3770 root:<gid>: members add to it, and none removes what another put there

The folder of a removed project is moved to projects/.removed/<p>-<gid>, where root alone reaches it. When
somebody leaves a project, the file server's own memory of his groups is emptied, so that his access ends with
the next look here and not when caches expire.

It removes nothing, and changes the owner only of what it made itself and could not finish: a directory that
belongs to somebody else is reported and left alone, for his files are in it. Members can write below
projects/<p>/runs and may put symbolic links there; no path of theirs is ever followed.

One file, for Debian's Python with python3-ldap; settings come from the environment (LABCLUSTER_TREE_…).
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

log = logging.getLogger("labcluster-tree")

# The same bounds as labcluster.models.members, which this file cannot import.
MEMBER_NAME = re.compile(r"[a-z]([a-z0-9._-]{0,30}[a-z0-9])?")
PROJECT_NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
MEMBER_UIDS = range(20000, 30000)
PROJECT_GIDS = range(30000, 40000)

INTERVAL_SECONDS = 3.0
_LDAP_SECONDS = 5.0
_PROJECT_FOLDERS = ("code", "data", "models", "runs")
_OBJECTS = "capsules"
_REMOVED = ".removed"
_KERNEL_GROUPS = Path("/proc/net/rpc/auth.unix.gid/flush")
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Seen(NamedTuple):
    """What the directory says."""

    #: People's uids by name.
    people: Mapping[str, int]
    #: Projects' gids by name.
    projects: Mapping[str, int]
    #: Name and gid of projects that are no more.
    removed: Collection[tuple[str, int]] = ()
    #: Members by project.
    members: Mapping[str, frozenset[str]] = MappingProxyType({})


@dataclass(frozen=True)
class Folder:
    """A directory that there must be. `keep_mode`: its owner may set another mode later."""

    path: tuple[str, ...]
    uid: int
    gid: int
    mode: int
    keep_mode: bool = False

    def __str__(self) -> str:
        return "/".join(self.path)


def wanted(people: Mapping[str, int], projects: Mapping[str, int]) -> Iterator[Folder]:
    """What there must be for people (name → uid) and projects (name → gid), parents first."""
    for name, uid in _usable(people, MEMBER_NAME, MEMBER_UIDS):
        yield Folder(("home", name), uid, uid, 0o700, keep_mode=True)
        yield Folder(("scratch", name), uid, uid, 0o700, keep_mode=True)
    for name, gid in _usable(projects, PROJECT_NAME, PROJECT_GIDS):
        # Not writable for members: none of them can put something else in the place of `runs`.
        yield Folder(("projects", name), 0, gid, 0o2750)
        for folder in _PROJECT_FOLDERS:
            yield Folder(("projects", name, folder), 0, gid, 0o2770)
        yield Folder(("projects", name, _OBJECTS), 0, gid, 0o3770)


def _usable(entries: Mapping[str, int], names: re.Pattern[str], numbers: range) -> Iterator[tuple[str, int]]:
    """Entries whose name makes a path and whose number is theirs alone and in range."""
    owners = Counter(entries.values())
    for name, number in sorted(entries.items()):
        if names.fullmatch(name) and number in numbers and owners[number] == 1:
            yield name, number


def ensure(root: int, folder: Folder) -> str | None:
    """Make one folder below the open directory `root`; a sentence if there was something to do.

    Raises PermissionError when something that is not ours to change is in its place.
    """
    parent = _walk(root, folder.path[:-1])
    try:
        made = False
        try:
            os.mkdir(folder.path[-1], 0o700, dir_fd=parent)
            made = True
        except FileExistsError:
            pass
        try:
            here = os.open(folder.path[-1], _OPEN, dir_fd=parent)
        except (NotADirectoryError, OSError) as error:
            raise PermissionError(f"{folder}: something that is no directory is in its place") from error
    finally:
        os.close(parent)
    try:
        return _own(here, folder, made)
    finally:
        os.close(here)


def _own(here: int, folder: Folder, made: bool) -> str | None:
    state = os.fstat(here)
    if (state.st_uid, state.st_gid) != (folder.uid, folder.gid):
        # Ours, and interrupted between making it and giving it away: root's, and of no group yet.
        if (state.st_uid, state.st_gid) != (os.geteuid(), os.getegid()):
            raise PermissionError(
                f"{folder} belongs to {state.st_uid}:{state.st_gid} and not to {folder.uid}:{folder.gid}; "
                "it is left as it is"
            )
        os.fchown(here, folder.uid, folder.gid)
        os.fchmod(here, folder.mode)
        return f"made {folder} for {folder.uid}:{folder.gid}"
    if stat.S_IMODE(state.st_mode) != folder.mode and (made or not folder.keep_mode):
        os.fchmod(here, folder.mode)
        return f"made {folder}" if made else f"set the mode of {folder} back to {folder.mode:o}"
    return f"made {folder}" if made else None


def retire(root: int, seen: Seen) -> Iterator[str]:
    """Move the folders of removed projects out of everybody's reach; a sentence for each."""
    for name, gid in seen.removed:
        if not PROJECT_NAME.fullmatch(name) or seen.projects.get(name) == gid:
            continue
        projects = _walk(root, ("projects",))
        try:
            try:
                state = os.stat(name, dir_fd=projects, follow_symlinks=False)
            except FileNotFoundError:
                continue  # moved before
            if not stat.S_ISDIR(state.st_mode) or state.st_gid != gid:
                continue
            with suppress(FileExistsError):
                os.mkdir(_REMOVED, 0o700, dir_fd=projects)
            os.rename(name, f"{_REMOVED}/{name}-{gid}", src_dir_fd=projects, dst_dir_fd=projects)
            yield f"moved projects/{name} to projects/{_REMOVED}/{name}-{gid}: the project was removed"
        finally:
            os.close(projects)


def forget(before: Seen, after: Seen) -> None:
    """Empty the host's memory of the groups of those who joined or left a project."""
    nobody: frozenset[str] = frozenset()
    groups = {
        name: before.members.get(name, nobody) ^ after.members.get(name, nobody)
        for name in before.members.keys() | after.members.keys()
    }
    groups = {name: users for name, users in sorted(groups.items()) if users and PROJECT_NAME.fullmatch(name)}
    people = {user for users in groups.values() for user in users if MEMBER_NAME.fullmatch(user)}
    if not people:
        return
    log.info("groups changed of %s", ", ".join(sorted(people)))
    for option in (*(f"--group={name}" for name in groups), *(f"--user={name}" for name in sorted(people))):
        try:
            subprocess.run(["/usr/sbin/sss_cache", option], check=True, capture_output=True, timeout=10)
        except (OSError, subprocess.SubprocessError) as error:
            log.warning("sssd keeps old groups for a while: %s", error)
    # What mountd told the kernel of people's groups (nfs.conf: manage-gids).
    if _KERNEL_GROUPS.exists():
        _KERNEL_GROUPS.write_text(f"{int(time.time()) + 1}\n")


def _walk(root: int, parts: Iterable[str]) -> int:
    """Open a folder below `root` without following a link."""
    here = os.dup(root)
    for part in parts:
        try:
            there = os.open(part, _OPEN, dir_fd=here)
        finally:
            os.close(here)
        here = there
    return here


def apply(root: int, folders: Iterable[Folder], complaints: set[str]) -> None:
    """Make all folders; say each complaint once, for as long as it lasts."""
    now: set[str] = set()
    for folder in folders:
        try:
            if said := ensure(root, folder):
                log.info("%s", said)
        except OSError as error:
            text = str(error) if isinstance(error, PermissionError) else f"{folder}: {error}"
            now.add(text)
            if text not in complaints:
                log.error("%s", text)
    complaints.clear()
    complaints.update(now)


class Ldap:
    """People and projects over LDAPS."""

    def __init__(self, uri: str, base_dn: str, bind_dn: str, password_file: Path, ca_file: Path) -> None:
        self._uri, self._base_dn, self._bind_dn = uri, base_dn, bind_dn
        self._password_file, self._ca_file = password_file, ca_file
        self._connection: Any = None

    def read(self) -> Seen:
        """People and projects; OSError when the directory is away."""
        import ldap

        try:
            if self._connection is None:
                self._connection = self._connect(ldap)
            people = self._search(ldap, "people", "posixAccount", "uid", "uidNumber")
            projects = self._search(ldap, "projects", "posixGroup", "cn", "gidNumber")
            removed = self._search(ldap, "removed", "posixGroup", "cn", "gidNumber")
            return Seen(
                people={name: uid for name, uid, _ in people},
                projects={name: gid for name, gid, _ in projects},
                removed=[(name, gid) for name, gid, _ in removed],
                members={name: users for name, _, users in projects},
            )
        except ldap.LDAPError as error:
            self._connection = None
            details = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
            raise OSError(f"{self._uri}: {details.get('desc') or type(error).__name__}") from error
        except OSError as error:
            raise OSError(f"{self._uri}: {error}") from error

    def _greet(self) -> None:
        """libldap's TLS handshake knows no timeout: see whether the server talks before it is trusted to."""
        address = urlsplit(self._uri)
        if address.scheme == "ldaps" and address.hostname:
            context = ssl.create_default_context(cafile=self._ca_file)
            place = (address.hostname, address.port or 636)
            with socket.create_connection(place, _LDAP_SECONDS) as plain:
                context.wrap_socket(plain, server_hostname=address.hostname).close()

    def _connect(self, ldap: Any) -> Any:
        self._greet()
        connection = ldap.initialize(self._uri)
        for option, value in (
            (ldap.OPT_NETWORK_TIMEOUT, _LDAP_SECONDS),
            (ldap.OPT_TIMEOUT, _LDAP_SECONDS),
            (ldap.OPT_REFERRALS, 0),
            (ldap.OPT_X_TLS_CACERTFILE, str(self._ca_file)),
            (ldap.OPT_X_TLS_REQUIRE_CERT, ldap.OPT_X_TLS_DEMAND),
            (ldap.OPT_X_TLS_NEWCTX, 0),
        ):
            connection.set_option(option, value)
        connection.simple_bind_s(self._bind_dn, self._password_file.read_text().strip())
        return connection

    def _search(
        self, ldap: Any, unit: str, kind: str, name: str, number: str
    ) -> list[tuple[str, int, frozenset[str]]]:
        """Name, number and members of each entry."""
        found = self._connection.search_ext_s(
            f"ou={unit},{self._base_dn}",
            ldap.SCOPE_ONELEVEL,
            f"(objectClass={kind})",
            [name, number, "memberUid"],
        )
        entries = []
        for dn, entry in found:
            try:
                users = frozenset(user.decode() for user in entry.get("memberUid", ()))
                entries.append((entry[name][0].decode(), int(entry[number][0]), users))
            except (KeyError, IndexError, ValueError):
                log.debug("ignoring %s", dn)
        return entries


def run(
    root: int,
    read: Callable[[], Seen],
    *,
    once: bool = False,
    pause: Callable[[float], None] = time.sleep,
) -> int:
    """Read and apply for ever, or once; the answer is the exit status."""
    complaints: set[str] = set()
    trouble = ""
    before: Seen | None = None
    while True:
        try:
            seen = read()
            if before is not None:
                forget(before, seen)
            before = seen
            for said in retire(root, seen):
                log.info("%s", said)
            apply(root, wanted(seen.people, seen.projects), complaints)
            if trouble:
                log.info("the directory answers again")
            trouble = ""
        except OSError as error:
            if str(error) != trouble:
                log.warning("waiting for the directory: %s", error)
            trouble = str(error)
        if once:
            return 1 if trouble or complaints else 0
        pause(INTERVAL_SECONDS)


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description="make the directories of people and projects on the tree")
    parser.add_argument(
        "--once", action="store_true", help="look once and end; status 1 if something is wrong"
    )
    once = parser.parse_args().once
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        setting = {
            name: os.environ[f"LABCLUSTER_TREE_{name}"]
            for name in (
                "ROOT",
                "LDAP_URI",
                "LDAP_BASE_DN",
                "LDAP_BIND_DN",
                "LDAP_PASSWORD_FILE",
                "LDAP_CA_FILE",
            )
        }
    except KeyError as error:
        log.error("%s is not set; see /etc/labcluster/tree.env", error.args[0])
        return 2
    directory = Ldap(
        setting["LDAP_URI"],
        setting["LDAP_BASE_DN"],
        setting["LDAP_BIND_DN"],
        Path(setting["LDAP_PASSWORD_FILE"]),
        Path(setting["LDAP_CA_FILE"]),
    )
    return run(os.open(setting["ROOT"], _OPEN), directory.read, once=once)


if __name__ == "__main__":
    sys.exit(main())
