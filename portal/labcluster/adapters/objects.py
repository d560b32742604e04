"""A project's objects: plain files named by their SHA-256, and the layers among them.

Several people write into one store at the same time, and none of them can change what another wrote.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import os
import stat
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

from labcluster.errors import ConflictError, LabclusterError, NotAllowedError, NotFoundError
from labcluster.models.files import Kept, Packed

_FOLDER_MODE = 0o3770
_FILE_MODE = 0o440
# Layers are written while somebody waits, and read once a run: fast counts for more than small.
_LEVEL = 3
_BLOCK = 1 << 20
_MOST_NOTES = 500
# Drafts, labrun's too.
_NEW = ".new-"
_FORGOTTEN_SECONDS = 24 * 3600


class Store:
    """The objects of one project."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def path(self, sha256: str) -> str:
        """Where an object is, or would be."""
        return os.path.join(self.folder, sha256[:2], sha256)

    def has(self, sha256: str, size: int | None = None) -> bool:
        """Whether it is there, by name and size; its bytes are checked by whoever unpacks them."""
        try:
            state = os.stat(self.path(sha256))
        except OSError:
            return False
        return stat.S_ISREG(state.st_mode) and size in (None, state.st_size)

    def read(self, sha256: str) -> bytes:
        """An object's bytes; NotFoundError if they are gone, LabclusterError if they are others."""
        try:
            data = Path(self.path(sha256)).read_bytes()
        except OSError as error:
            raise NotFoundError(f"{self.path(sha256)}: {error.strerror}") from None
        if hashlib.sha256(data).hexdigest() != sha256:
            raise LabclusterError(f"{self.path(sha256)} is damaged: its bytes are not what its name says")
        return data

    def keep(self, data: bytes) -> Kept:
        """Store some bytes."""
        kept = Kept(hashlib.sha256(data).hexdigest(), len(data))
        if not self.has(*kept):
            with self._draft() as draft:
                draft.write(data)
                self._name(draft)
        return kept

    def keep_file(self, path: str) -> Kept:
        """Store a file's bytes."""
        with open(path, "rb") as source, self._draft() as draft:
            while block := source.read(_BLOCK):
                draft.write(block)
            return self._name(draft)

    def pack(self, root: str, paths: Iterable[str], wanted: Callable[[str], bool]) -> Packed:
        """Store files and links below `root` as a layer that depends on nothing but their names and bytes.

        A path that is gone by now is left out. The hashes of those files that are `wanted` are given too.
        """
        hashes: dict[str, str] = {}
        with self._draft() as draft:
            with (
                gzip.GzipFile("", "wb", _LEVEL, cast(IO[bytes], draft), mtime=0) as packed,
                tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
            ):
                for path in sorted(paths):
                    found = _entry(os.path.join(root, path), path)
                    if found is None:
                        continue
                    info, data = found
                    archive.addfile(info, io.BytesIO(data))
                    if info.isreg() and wanted(path):
                        hashes[path] = hashlib.sha256(data).hexdigest()
            return Packed(self._name(draft), hashes)

    def tidy(self) -> None:
        """Remove what somebody of our uid was killed over while he wrote it."""
        with suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                state = entry.stat(follow_symlinks=False)
                old = state.st_mtime < time.time() - _FORGOTTEN_SECONDS
                if entry.name.startswith(_NEW) and old and state.st_uid == os.geteuid():
                    os.unlink(entry.path)

    @contextmanager
    def _draft(self) -> Iterator[_Draft]:
        """A file beside the others, which is gone again if it gets no name."""
        path = None
        try:
            handle, path = tempfile.mkstemp(prefix=_NEW, dir=self.folder)
            with os.fdopen(handle, "wb") as file:
                yield _Draft(file, path)
        except OSError as error:
            raise self._failed(error) from None
        finally:
            if path is not None:
                with suppress(FileNotFoundError):
                    os.unlink(path)

    def _name(self, draft: _Draft) -> Kept:
        """Make a draft an object, unless it is there already."""
        kept = draft.kept()
        if self.has(*kept):
            return kept
        draft.file.flush()
        os.fchmod(draft.file.fileno(), _FILE_MODE)
        os.fsync(draft.file.fileno())
        target = self.path(kept.sha256)
        try:
            os.mkdir(os.path.dirname(target), 0o700)
            os.chmod(os.path.dirname(target), _FOLDER_MODE)
        except FileExistsError:
            pass
        try:
            os.rename(draft.path, target)
        except PermissionError:
            if not os.path.exists(target):
                raise
            # Sticky: what somebody else left there, cut short or empty, is not ours to replace.
            raise ConflictError(
                f"{target} is damaged and belongs to uid {os.stat(target).st_uid}: ask them or your"
                " administrator to remove it, or submit with --no-code"
            ) from None
        return kept

    def _failed(self, error: OSError) -> LabclusterError:
        otherwise = "; --no-code submits without keeping the code"
        if isinstance(error, PermissionError):
            return NotAllowedError(
                f"you may not write to {self.folder}: log in again if you joined the project"
                f" lately{otherwise}"
            )
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return ConflictError(f"{self.folder} is full: remove what the project needs no more{otherwise}")
        return LabclusterError(f"cannot keep the code in {self.folder}: {error.strerror or error}{otherwise}")


class _Draft:
    """An object that is being written, and its name to be."""

    def __init__(self, file: IO[bytes], path: str) -> None:
        self.file = file
        self.path = path
        self._digest = hashlib.sha256()
        self._size = 0

    def write(self, data: bytes) -> int:
        """As a file's."""
        self._digest.update(data)
        self._size += len(data)
        return self.file.write(data)

    def flush(self) -> None:
        """As a file's."""

    def kept(self) -> Kept:
        """What it is called now."""
        return Kept(self._digest.hexdigest(), self._size)


def _entry(path: str, name: str) -> tuple[tarfile.TarInfo, bytes] | None:
    """A file or link without what differs between machines, people and times; None if it is gone."""
    info = tarfile.TarInfo(name)
    info.mode = 0o644
    try:
        state = os.lstat(path)
        if stat.S_ISLNK(state.st_mode):
            info.type, info.mode, info.linkname = tarfile.SYMTYPE, 0o777, os.readlink(path)
            return info, b""
        # It may have become something else since it was looked at: a pipe would never end.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:
        raise NotAllowedError(
            f"you may not read {path}: name it in .labignore, or submit with --no-code"
        ) from None
    with os.fdopen(handle, "rb") as file:
        state = os.fstat(handle)
        if not stat.S_ISREG(state.st_mode):
            return None
        data = file.read()
    info.size = len(data)
    if state.st_mode & stat.S_IXUSR:
        info.mode = 0o755
    return info, data


class Notes:
    """What this user's labctl found out before, by a key of any kind; losing it costs only time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: str) -> Any:
        """What was noted, or None."""
        try:
            return json.loads(self._path(key).read_bytes())
        except (OSError, ValueError):
            return None

    def put(self, key: str, value: Any) -> None:
        """Note it; a home that is full or read-only is no fault."""
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._forget_old()
            handle, path = tempfile.mkstemp(dir=self._folder)
            with os.fdopen(handle, "w") as file:
                json.dump(value, file)
            os.rename(path, self._path(key))

    def _path(self, key: str) -> Path:
        return self._folder / f"{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()}.json"

    def _forget_old(self) -> None:
        notes = [entry for entry in os.scandir(self._folder) if entry.is_file(follow_symlinks=False)]
        if len(notes) > _MOST_NOTES:
            for entry in sorted(notes, key=lambda one: one.stat().st_mtime)[: _MOST_NOTES // 2]:
                with suppress(FileNotFoundError):
                    os.unlink(entry.path)
