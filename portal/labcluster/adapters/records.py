"""A run's directory and its project's object store, as their reader opens them.

A run directory is writable for its whole project, and the reader may be an administrator: no link is followed
below the folder of all projects, nothing but regular files is opened, and everything read has a limit.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from labcluster.models.records import FileEntry

MAX_JSON = 64 * 2**20
MAX_LINE = 64 * 2**10
MAX_LINES_FILE = 2**30
MAX_FILES = 100_000
_BLOCK = 2**20

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A named pipe must not stop the reader.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Folder:
    """A folder below another one, which nothing leads out of; `below` is relative, without `..`.

    Nothing is held open, so that a thousand of them can be read.
    """

    def __init__(self, base: Path, below: str) -> None:
        self._base, self._below = base, below

    def enter(self, inner: str = ".") -> int:
        """A handle of it or of a folder in it; OSError as the system says, NotADirectoryError for a link."""
        handle = os.open(self._base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for part in PurePosixPath(self._below, inner).parts:
            try:
                if part in ("..", "/"):
                    raise NotADirectoryError(f"{inner} leads elsewhere")
                following = os.open(part, _FOLDER, dir_fd=handle)
            finally:
                os.close(handle)
            handle = following
        return handle

    def open(self, name: str) -> BinaryIO:
        """A regular file; OSError for anything else, with the reason."""
        path = PurePosixPath(name)
        handle = self.enter(str(path.parent))
        try:
            file = os.open(path.name, _FILE, dir_fd=handle)
        finally:
            os.close(handle)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise OSError("it is no regular file")
        return os.fdopen(file, "rb")

    def walk(self, folder: str) -> tuple[list[FileEntry], list[str]]:
        """Regular files below a folder, sorted; links and special files are named among what was left out."""
        files: list[FileEntry] = []
        left: list[str] = []
        try:
            top = self.enter(folder)
        except OSError:
            return files, left
        try:
            for where, folders, names, handle in os.fwalk(".", dir_fd=top, follow_symlinks=False):
                folders.sort()
                for name in sorted(names):
                    path = str(PurePosixPath(where) / name)
                    found = os.stat(name, dir_fd=handle, follow_symlinks=False)
                    if stat.S_ISREG(found.st_mode):
                        files.append(FileEntry(path, found.st_size))
                    else:
                        left.append(f"{folder}/{path} is no regular file: it was left out")
                if len(files) >= MAX_FILES:
                    left.append(f"{folder} has more than {MAX_FILES} files: the others were left out")
                    break
        finally:
            os.close(top)
        return sorted(files[:MAX_FILES]), left


class RunFolder:
    """One run's directory (models.records.RunFiles)."""

    def __init__(self, directory: Path) -> None:
        """`directory` is …/<project>/runs/<run>; OSError says why it cannot be entered."""
        base = directory.parents[2]
        self._folder = Folder(base, str(directory.relative_to(base)))
        self._complaints: list[str] = []
        os.close(self._folder.enter())

    def complaints(self) -> tuple[str, ...]:
        """What could not be read, and why."""
        return tuple(self._complaints)

    def open(self, name: str) -> BinaryIO | None:
        """A regular file, or None: then it is among the complaints unless there simply is none."""
        try:
            return self._folder.open(name)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            self._complaints.append(f"{name} cannot be read: {_why(error)}")
            return None

    def json(self, name: str) -> Any:
        """The value of a JSON file, or None."""
        file = self.open(name)
        if file is None:
            return None
        with file:
            try:
                text = file.read(MAX_JSON + 1)
                if len(text) > MAX_JSON:
                    raise ValueError(f"larger than {MAX_JSON // 2**20} MiB")
                return json.loads(text)
            except RecursionError:
                self._complaints.append(f"{name} cannot be read: nested too deeply")
            except (OSError, ValueError) as error:
                why = (
                    "it is no JSON"
                    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError)
                    else _why(error)
                )
                self._complaints.append(f"{name} cannot be read: {why}")
        return None

    def lines(self, name: str) -> Iterator[bytes]:
        """The lines of a file up to its limits."""
        file = self.open(name)
        if file is None:
            return
        with file:
            too_long, left, whole = 0, MAX_LINES_FILE, True
            while left > 0 and (line := file.readline(MAX_LINE)):
                left -= len(line)
                if not whole or not line.endswith(b"\n"):
                    # The last line of a run that goes on may be half written.
                    too_long += whole and len(line) == MAX_LINE
                    whole = line.endswith(b"\n")
                    continue
                if line.strip():
                    yield line
        if too_long:
            self._complaints.append(
                f"{name}: {too_long} lines longer than {MAX_LINE // 2**10} KiB were left out"
            )
        if left <= 0:
            self._complaints.append(f"{name}: only the first {MAX_LINES_FILE // 2**30} GiB were read")

    def walk(self, folder: str) -> tuple[list[FileEntry], list[str]]:
        """Regular files below a folder."""
        return self._folder.walk(folder)


class Objects:
    """A project's object store: what it gives is what its name says, or nothing."""

    def __init__(self, project_folder: Path) -> None:
        self._folder = Folder(project_folder.parent, f"{project_folder.name}/capsules")

    def read(self, digest: str, limit: int) -> bytes:
        """A whole object; OSError or ValueError where it is missing, too large, or not what it should be."""
        with self.open(digest) as file:
            text = file.read(limit + 1)
        if len(text) > limit:
            raise ValueError(f"object {digest[:12]} is larger than {limit // 2**20} MiB")
        return text

    def open(self, digest: str) -> BinaryIO:
        """A verified object, to be read from its start."""
        file = self._folder.open(f"{digest[:2]}/{digest}")
        sha = hashlib.sha256()
        while block := file.read(_BLOCK):
            sha.update(block)
        if sha.hexdigest() != digest:
            file.close()
            raise ValueError(f"object {digest[:12]} is damaged: its content has another SHA-256")
        file.seek(0)
        return file


def _why(error: Exception) -> str:
    import errno

    if isinstance(error, OSError) and error.errno in (errno.ELOOP, errno.ENOTDIR):
        return "a link leads out of the directory"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__
