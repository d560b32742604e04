#!/usr/bin/python3
"""labcluster-storage: count what people and projects keep on the shared tree, and limit projects.

Runs as root on the file server, every few minutes from a timer. What belongs to whom is read from the tree
itself, whose directories labcluster-tree made and nobody else can:

    projects/<p>     root's, its group a project's gid        home/<u>, scratch/<u>    a member's uid
    mlflow/workspaces/<p>    the artifacts of a project's experiments, which MLflow keeps

Where the tree's file system (ext4 or XFS) is mounted with project quotas, each of these carries its gid or
uid as project id, inherited by what is made in it; the kernel counts, and a project's limit (`storageGiB`) is
enforced: who goes over it gets "Disk quota exceeded". Elsewhere everything is walked, in at most a fiftieth
of the time.

The portal is told what was counted, and answers with the limits. While it is away they stay as they are.

One file, for Debian's Python alone; settings come from the environment (LABCLUSTER_STORAGE_…).
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import fcntl
import json
import logging
import os
import re
import ssl
import stat
import struct
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

log = logging.getLogger("labcluster-storage")

# The same bounds as labcluster.models.members, which this file cannot import.
MEMBER_UIDS = range(20000, 30000)
PROJECT_GIDS = range(30000, 40000)
NAME = re.compile(r"[a-z][a-z0-9._-]{0,62}")

#: A walk may take this part of the time: a tree of millions of files is counted once or twice a day.
WALK_SHARE = 1 / 50
_PORTAL_SECONDS = 20.0
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK

Amount = tuple[int, int]  # bytes, files


@dataclass(frozen=True)
class Owned:
    """A directory and whose it is."""

    kind: str  # projects or people
    name: str
    number: int
    path: tuple[str, ...]


def owned(root: int) -> Iterator[Owned]:
    """All directories of projects and people, as labcluster-tree made them, and of projects in MLflow."""
    gids: dict[str, int] = {}
    for folder in ("projects", "home", "scratch"):
        try:
            parent = os.open(folder, _OPEN | os.O_DIRECTORY, dir_fd=root)
        except OSError:
            continue
        try:
            for name in sorted(os.listdir(parent)):  # noqa: PTH208 - of what is open
                try:
                    state = os.stat(name, dir_fd=parent, follow_symlinks=False)
                except FileNotFoundError:
                    continue  # removed since it was listed
                if not stat.S_ISDIR(state.st_mode) or not NAME.fullmatch(name):
                    continue
                if folder == "projects" and state.st_uid == 0 and state.st_gid in PROJECT_GIDS:
                    gids[name] = state.st_gid
                    yield Owned("projects", name, state.st_gid, (folder, name))
                elif folder != "projects" and state.st_uid in MEMBER_UIDS:
                    yield Owned("people", name, state.st_uid, (folder, name))
        finally:
            os.close(parent)
    for name, gid in gids.items():
        path = ("mlflow", "workspaces", name)
        try:
            os.close(enter(root, path))
        except OSError:
            continue  # nothing was recorded yet
        yield Owned("projects", name, gid, path)


def enter(root: int, path: tuple[str, ...]) -> int:
    """Open a directory; none of the parts is a link, which whoever owns a folder could put there."""
    folder = os.dup(root)
    for part in path:
        try:
            below = os.open(part, _OPEN | os.O_DIRECTORY, dir_fd=folder)
        finally:
            os.close(folder)
        folder = below
    return folder


class Quotas(Protocol):
    """Project quotas of one file system."""

    def project_of(self, file: int) -> tuple[int, bool]:
        """The project id of an open file or directory, and whether what is made in it inherits it."""

    def assign(self, file: int, project: int, *, inherit: bool) -> None:
        """Give an open file or directory to a project."""

    def used(self, project: int) -> Amount:
        """What a project takes."""

    def limit(self, project: int) -> int:
        """Its limit in bytes; 0: none."""

    def set_limit(self, project: int, limit: int) -> None:
        """Set its limit in bytes; 0: none."""


class KernelQuotas:
    """The kernel's own: quotactl_fd(2) and FS_IOC_FSSETXATTR, the same for ext4 and XFS."""

    _SYSCALL = 443  # quotactl_fd, the same number on every architecture since Linux 5.14
    _GET, _SET, _PROJECT = 0x800007, 0x800008, 2
    # struct if_dqblk: hard and soft limit (KiB), bytes used, the same of inodes, two times, what is valid.
    _BLOCK = struct.Struct("=QQQQQQQQI4x")
    _BLOCK_LIMITS = 1
    _GET_ATTRIBUTES, _SET_ATTRIBUTES = 0x801C581F, 0x401C5820
    _ATTRIBUTES = struct.Struct("=IIIII8x")  # flags, two of extents, project id, one of extents
    _INHERIT = 0x200

    def __init__(self, root: int) -> None:
        self._root = root
        self._libc = ctypes.CDLL(None, use_errno=True)

    @classmethod
    def of(cls, root: int) -> KernelQuotas | None:
        """Of the file system of an open directory; None if it has no project quotas."""
        found = cls(root)
        try:
            found.used(PROJECT_GIDS.start)
        except OSError as error:
            log.debug("no project quotas: %s", error)
            return None
        return found

    def _call(self, command: int, project: int, block: ctypes.Array[ctypes.c_char]) -> None:
        what = (command << 8) | self._PROJECT
        if self._libc.syscall(self._SYSCALL, self._root, what, project, block) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def _read(self, project: int) -> tuple[int, ...]:
        block = ctypes.create_string_buffer(self._BLOCK.size)
        try:
            self._call(self._GET, project, block)
        except OSError as error:
            if error.errno != errno.ENOENT:  # XFS knows nothing of a project that never had anything
                raise
        return self._BLOCK.unpack(block.raw)

    def used(self, project: int) -> Amount:
        """What a project takes."""
        fields = self._read(project)
        return fields[2], fields[5]

    def limit(self, project: int) -> int:
        """Its limit in bytes; 0: none."""
        return self._read(project)[0] * 1024

    def set_limit(self, project: int, limit: int) -> None:
        """Set its limit in bytes; 0: none."""
        blocks = -(-limit // 1024)
        packed = self._BLOCK.pack(blocks, blocks, 0, 0, 0, 0, 0, 0, self._BLOCK_LIMITS)
        self._call(self._SET, project, ctypes.create_string_buffer(packed, self._BLOCK.size))

    def project_of(self, file: int) -> tuple[int, bool]:
        """The project id of an open file or directory, and whether what is made in it inherits it."""
        fields = self._attributes(file)
        return fields[3], bool(fields[0] & self._INHERIT)

    def assign(self, file: int, project: int, *, inherit: bool) -> None:
        """Give an open file or directory to a project."""
        flags, size, extents, _, copied = self._attributes(file)
        if inherit:
            flags |= self._INHERIT
        fcntl.ioctl(file, self._SET_ATTRIBUTES, self._ATTRIBUTES.pack(flags, size, extents, project, copied))

    def _attributes(self, file: int) -> tuple[int, ...]:
        found = fcntl.ioctl(file, self._GET_ATTRIBUTES, bytes(self._ATTRIBUTES.size))
        return self._ATTRIBUTES.unpack(found)


def give_to_project(quotas: Quotas, root: int, place: Owned) -> bool:
    """Give a directory and all in it to its project; whether there was something to do.

    The directory itself comes last, so that an interrupted pass is begun again. Below it each folder comes
    before its files: what is made meanwhile inherits its id. No link is followed.
    """
    top = enter(root, place.path)
    try:
        if quotas.project_of(top) == (place.number, True):
            return False
        for _, _, files, folder in os.fwalk(".", dir_fd=top, follow_symlinks=False):
            if not os.path.samestat(os.fstat(folder), os.fstat(top)):
                quotas.assign(folder, place.number, inherit=True)
            for name in files:
                _give_file(quotas, folder, name, place.number)
        quotas.assign(top, place.number, inherit=True)
        return True
    finally:
        os.close(top)


def _give_file(quotas: Quotas, folder: int, name: str, project: int) -> None:
    try:
        if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            return  # links and sockets hold no data
        file = os.open(name, _OPEN, dir_fd=folder)
    except OSError:
        return  # gone meanwhile
    try:
        quotas.assign(file, project, inherit=False)
    finally:
        os.close(file)


def walk(root: int, place: Owned) -> Amount:
    """What a directory takes, counted file by file; a file with several names counts once."""
    size = files = 0
    several: set[int] = set()
    top = enter(root, place.path)
    try:
        device = os.fstat(top).st_dev
        for _, folders, names, folder in os.fwalk(".", dir_fd=top, follow_symlinks=False):
            for name in [*names, *folders]:
                try:
                    state = os.stat(name, dir_fd=folder, follow_symlinks=False)
                except OSError:
                    continue
                if state.st_dev != device or (state.st_nlink > 1 and state.st_ino in several):
                    continue
                if state.st_nlink > 1 and not stat.S_ISDIR(state.st_mode):
                    several.add(state.st_ino)
                size += state.st_blocks * 512
                files += 1
    finally:
        os.close(top)
    return size, files


Counted = dict[str, dict[str, dict[str, int]]]


def count(root: int, quotas: Quotas | None) -> Counted:
    """What everybody takes: {projects: {name: {bytes, files}}, people: …}."""
    amounts: dict[str, dict[str, Amount]] = {"projects": {}, "people": {}}
    for place in owned(root):
        found = amounts[place.kind]
        try:
            if quotas:
                if give_to_project(quotas, root, place):
                    log.info("%s is counted as project %d", "/".join(place.path), place.number)
                # Home and scratch of a member have one id, and so have a project's files and its artifacts.
                found[place.name] = quotas.used(place.number)
            else:
                size, files = walk(root, place)
                before = found.get(place.name, (0, 0))
                found[place.name] = (before[0] + size, before[1] + files)
        except FileNotFoundError:
            continue  # removed since it was listed
    return {
        kind: {name: {"bytes": size, "files": files} for name, (size, files) in found.items()}
        for kind, found in amounts.items()
    }


def enforce(root: int, quotas: Quotas, limits: Mapping[str, int]) -> None:
    """Set the projects' limits that are not set yet; a project without one may take what there is."""
    for place in owned(root):
        if place.kind == "projects":
            limit = max(0, int(limits.get(place.name, 0)))
            if quotas.limit(place.number) != -(-limit // 1024) * 1024:
                quotas.set_limit(place.number, limit)
                log.info("%s may take %s", place.name, f"{limit} bytes" if limit else "what there is")


def tell(url: str, token: str, ca_file: str, report: Mapping[str, object]) -> dict[str, int]:
    """Send the portal what was counted; the limits in bytes by project. OSError when it does not take it."""
    request = urllib.request.Request(  # noqa: S310 - the URL is the administrator's
        url,
        method="PUT",
        data=json.dumps(report).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    context = ssl.create_default_context(cafile=ca_file)
    # No proxy of the environment: the portal is on the management network.
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    with opener.open(request, timeout=_PORTAL_SECONDS) as answer:
        limits = json.load(answer)["projects"]
    return {str(name): int(limit) for name, limit in limits.items()}


def load(file: Path) -> dict[str, object]:
    """The last report with how long its walk took; empty if there is none."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def run(
    root: int, quotas: Quotas | None, last_file: Path, url: str, token: str, ca_file: str, *, now: bool
) -> int:
    """Count if it is time to, tell the portal, and enforce what it answers; the exit status."""
    last = load(last_file)
    began = time.time()
    due = quotas is not None or now or began >= float(str(last.get("next", 0)))
    if due:
        counted = count(root, quotas)
        took = time.time() - began
        report = {
            "measured_at": datetime.fromtimestamp(began, UTC).isoformat(),
            "quotas": quotas is not None,
            **counted,
        }
        last = {"report": report, "next": began + took / WALK_SHARE}
        new = last_file.with_suffix(".new")
        new.write_text(json.dumps(last))
        new.replace(last_file)
    known = last["report"]
    assert isinstance(known, dict)
    try:
        limits = tell(url, token, ca_file, known)
    except (OSError, ValueError, KeyError) as error:
        log.warning("the portal %s did not take the report: %s", url, error)
        return 0
    if quotas:
        enforce(root, quotas, limits)
    return 0


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description="count what is stored on the tree, and enforce its limits")
    parser.add_argument(
        "--now", action="store_true", help="count now, even if the last time was not long ago"
    )
    now = parser.parse_args().now
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        setting = {
            name: os.environ[f"LABCLUSTER_STORAGE_{name}"]
            for name in ("ROOT", "STATE_DIR", "URL", "TOKEN_FILE", "CA_FILE")
        }
    except KeyError as error:
        log.error("%s is not set; see /etc/labcluster/storage.env", error.args[0])
        return 2
    root = os.open(setting["ROOT"], _OPEN | os.O_DIRECTORY)
    token = Path(setting["TOKEN_FILE"]).read_text().strip()
    last_file = Path(setting["STATE_DIR"]) / "usage.json"
    return run(root, KernelQuotas.of(root), last_file, setting["URL"], token, setting["CA_FILE"], now=now)


if __name__ == "__main__":
    sys.exit(main())
