"""The trees of files that runs ran, read from their layers without unpacking them; what git says of two."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any

from labcluster.adapters.records import Objects, RunFolder
from labcluster.errors import LabclusterError

MAX_UNPACKED = 2**30
MAX_ENTRIES = 200_000
#: What is larger is named as changed, its lines are not shown.
MAX_SHOWN_FILE = 2**20
MAX_SHOWN = 32 * 2**20
#: A checkout that the run has filled with its own files is not read to its end.
MAX_HASHED = 256 * 2**20
_BLOCK = 2**20
_GIT_SECONDS = 60


class _Limited(io.RawIOBase):
    """A reader of what a compressed file unpacks to, which may not be more than a limit."""

    def __init__(self, source: gzip.GzipFile, limit: int) -> None:
        self._source, self._left = source, limit

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer."""
        block = self._source.read(len(buffer))
        self._left -= len(block)
        if self._left < 0:
            raise ValueError(f"it unpacks to more than {MAX_UNPACKED // 2**20} MiB")
        buffer[: len(block)] = block
        return len(block)


#: Path, size and content of a file; the content is to be read before the next one is asked for.
Content = tuple[str, int, IO[bytes]]


#: How the digest of a link begins; its content is its target.
LINK = "link:"


class CodeTree:
    """Paths and digests of one tree; contents on request."""

    def __init__(self, digests: Mapping[str, str], read: Callable[[Collection[str]], Iterator[Content]]):
        self.digests = digests
        self._read = read

    def contents(self, paths: Collection[str]) -> Iterator[Content]:
        """The files with these paths, in the order in which they are found."""
        return self._read(paths)


def of_capsule(capsule: Mapping[str, Any], objects: Objects) -> CodeTree:
    """The tree of a capsule's layers; OSError, ValueError or TarError where it cannot be had."""
    try:
        layers = [(str(layer["sha256"]), str(layer.get("prefix") or "")) for layer in capsule["layers"]]
        deleted = {str(path) for path in capsule.get("deleted") or ()}
    except (AttributeError, KeyError, TypeError):
        raise ValueError("its code.json is no capsule") from None
    digests: dict[str, str] = {}
    source: dict[str, int] = {}
    for number, (sha, prefix) in enumerate(layers):
        for path, digest in _digests(objects, sha).items():
            at = str(PurePosixPath(prefix) / path)
            digests[at], source[at] = digest, number
    for path in deleted:
        digests.pop(path, None)

    def read(paths: Collection[str]) -> Iterator[Content]:
        for number, (sha, prefix) in enumerate(layers):
            wanted = {path for path in paths if path in digests and source[path] == number}
            if not wanted:
                continue
            for name, size, file in _members(objects, sha):
                at = str(PurePosixPath(prefix) / name)
                if at in wanted:
                    yield at, size or 0, file

    return CodeTree(digests, read)


# Runs of one project share most of their layers.
_seen: dict[str, dict[str, str]] = {}


def _digests(objects: Objects, sha: str) -> dict[str, str]:
    if sha not in _seen:
        _seen[sha] = {
            name: _sha256(file) if size is not None else LINK + _sha256(file)
            for name, size, file in _members(objects, sha)
        }
    return _seen[sha]


def _members(objects: Objects, sha: str) -> Iterator[tuple[str, int | None, IO[bytes]]]:
    """Files and links (of no size) of a layer, with names that lead nowhere else."""
    with objects.open(sha) as packed, gzip.GzipFile(fileobj=packed) as unpacked:
        limited = io.BufferedReader(_Limited(unpacked, MAX_UNPACKED), _BLOCK)
        with tarfile.open(fileobj=limited, mode="r|") as archive:
            for number, member in enumerate(archive):
                if number >= MAX_ENTRIES:
                    raise ValueError(f"it has more than {MAX_ENTRIES} entries")
                path = PurePosixPath(member.name)
                if path.is_absolute() or ".." in path.parts:
                    raise ValueError("it has names that lead out of it")
                if member.issym():
                    target = member.linkname.encode("utf-8", "surrogateescape")
                    yield str(path), None, io.BytesIO(target)
                elif member.isfile() and (file := archive.extractfile(member)) is not None:
                    yield str(path), member.size, file


def _sha256(file: IO[bytes]) -> str:
    sha = hashlib.sha256()
    while block := file.read(_BLOCK):
        sha.update(block)
    return sha.hexdigest()


def of_folder(run: RunFolder) -> CodeTree:
    """The checkout as the run left it; ValueError where it is too large or there is none."""
    files, _ = run.walk("code")
    if not files:
        raise ValueError("its code was not captured")
    if sum(file.size for file in files) > MAX_HASHED:
        raise ValueError(f"its folder code/ holds more than {MAX_HASHED // 2**20} MiB")
    digests = {}
    for entry in files:
        if (file := run.open(f"code/{entry.path}")) is not None:
            with file:
                digests[entry.path] = _sha256(file)

    def read(paths: Collection[str]) -> Iterator[Content]:
        for path in sorted(paths):
            file = run.open(f"code/{path}") if path in digests else None
            if file is not None:
                with file:
                    yield path, os.fstat(file.fileno()).st_size, file

    return CodeTree(digests, read)


def diff(before: CodeTree, after: CodeTree, paths: Collection[str]) -> tuple[str, dict[str, tuple[int, int]]]:
    """What git says of these files: the unified diff, and lines added and removed by path.

    Nobody's git configuration and attributes count. A file too large to be shown is not in it.
    """
    with tempfile.TemporaryDirectory(prefix="labctl-") as folder:
        left = MAX_SHOWN
        for side, tree in (("a", before), ("b", after)):
            (Path(folder) / side).mkdir()
            for path, size, file in tree.contents([path for path in paths if path in tree.digests]):
                content = file.read(MAX_SHOWN_FILE) if size <= MAX_SHOWN_FILE else None
                if content is not None and len(content) <= left:
                    left -= len(content)
                    _write(Path(folder) / side / path, content)
        return _git(folder, "--unified=3"), _counts(_git(folder, "--numstat", "-z"))


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except (OSError, ValueError):
        # A name that this file system cannot have: it is named as changed, its lines are not shown.
        return


def _counts(numstat: str) -> dict[str, tuple[int, int]]:
    """Of entries `added TAB removed TAB NUL before NUL after NUL`; git writes - for what is no text."""
    found = {}
    words = iter(numstat.split("\0"))
    for numbers in words:
        before, after = next(words, ""), next(words, "")
        added, _, removed = numbers.rstrip("\t").partition("\t")
        if added.isdigit() and removed.isdigit():
            found[(before if before != os.devnull else after)[2:]] = (int(added), int(removed))
    return found


def _git(folder: str, *options: str) -> str:
    command = ["git", "-c", "core.quotePath=false", "diff", "--no-index", "--no-ext-diff", "--no-textconv"]
    command += ["--no-color", "--no-renames", "--src-prefix=", "--dst-prefix=", *options, "--", "a", "b"]
    ours = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_ATTR_NOSYSTEM": "1"}
    ours |= {"PATH": os.environ.get("PATH", os.defpath), "HOME": folder, "GIT_CEILING_DIRECTORIES": folder}
    ours |= {"LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=ours, capture_output=True, timeout=_GIT_SECONDS, check=False
        )
    except FileNotFoundError:
        raise LabclusterError("git is not on this machine: only the names of files are compared") from None
    except subprocess.TimeoutExpired:
        raise LabclusterError(f"git did not compare the files within {_GIT_SECONDS} s") from None
    if done.returncode > 1:
        raise LabclusterError(
            f"git cannot compare the files: {done.stderr.decode(errors='replace').strip()[:200]}"
        )
    return done.stdout.decode(errors="replace")
