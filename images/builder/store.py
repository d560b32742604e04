"""The store: finished artifacts by key in a cache of the machine, by name in build/store with a manifest."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from builder.errors import BuildError

# Finished files carry this time. A file that was written to later has another one: so damage is seen without
# reading gigabytes at every call, and archives do not depend on when they were made.
EPOCH = 0


@dataclass(frozen=True)
class Artifact:
    """One entry of the manifest. `file` is relative to the store."""

    name: str
    kind: str  # binary | image | archive
    version: str
    file: str
    sha256: str
    size: int
    licence: str
    source: str
    key: str
    build: dict[str, Any] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    digest: str | None = None
    reference: str | None = None
    bootstrap: bool = False

    def as_json(self) -> dict[str, Any]:
        """The manifest's form: what does not apply is left out."""
        return {name: value for name, value in asdict(self).items() if value not in (None, [])}


def sha256_of(path: Path) -> str:
    """The sha256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def seal(path: Path) -> None:
    """Give a finished file its fixed time and take the right to write away."""
    path.chmod(0o555 if path.stat().st_mode & 0o100 else 0o444)
    os.utime(path, (EPOCH, EPOCH))


def fault(path: Path, artifact: Artifact, *, thorough: bool) -> str | None:
    """What is wrong with a file, in words; None if nothing is. A changed time leads to a full comparison."""
    try:
        status = path.stat()
    except OSError:
        return "is missing"
    if status.st_size != artifact.size:
        return f"has {status.st_size} bytes instead of {artifact.size}"
    if (thorough or status.st_mtime_ns != EPOCH) and sha256_of(path) != artifact.sha256:
        return "is damaged: its sha256 is not the one of the manifest"
    return None


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a lock file; it is freed by the kernel whatever happens to this process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


class Cache:
    """Finished artifacts of this machine, one folder a key, shared by every clone of the project."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._artifacts = root / "store"

    def folder(self, key: str) -> Path:
        """Where the files of a key lie."""
        return self._artifacts / key

    def find(self, key: str) -> list[Artifact] | None:
        """The artifacts of a key, if all their files are sound."""
        try:
            described = json.loads((self.folder(key) / "artifacts.json").read_text())
            artifacts = [Artifact(**item) for item in described]
        except (OSError, ValueError, TypeError):
            return None
        if any(fault(self.folder(key) / item.file, item, thorough=False) for item in artifacts):
            return None
        return artifacts

    @contextlib.contextmanager
    def workspace(self, name: str) -> Iterator[Path]:
        """A folder to build in that is gone afterwards, whatever happens; so are those of killed builds."""
        parent = self.root / "work"
        parent.mkdir(parents=True, exist_ok=True)
        for old in parent.iterdir():
            if not Path(f"/proc/{old.name.split('.')[0]}").exists():
                shutil.rmtree(old, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}.{name}.", dir=parent))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def add(self, key: str, folder: Path, artifacts: list[Artifact]) -> None:
        """Take a folder with finished files over, at once or not at all."""
        for item in artifacts:
            seal(folder / item.file)
        text = json.dumps([asdict(item) for item in artifacts], indent=1)
        (folder / "artifacts.json").write_text(text)
        target = self.folder(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():  # damaged, else it would have been used
            shutil.rmtree(target)
        folder.rename(target)

    def prune(self, keep: set[str]) -> list[str]:
        """Remove all keys but these."""
        if not self._artifacts.is_dir():
            return []
        old = [entry for entry in self._artifacts.iterdir() if entry.name not in keep]
        for entry in old:
            shutil.rmtree(entry)
        return [entry.name for entry in old]


class Store:
    """build/store: what nodes install from. Every partial build leaves a manifest that can be used."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._manifest = root / "manifest.json"

    def artifacts(self) -> list[Artifact]:
        """What the manifest lists; an empty store has none."""
        try:
            manifest = json.loads(self._manifest.read_text())
        except FileNotFoundError:
            return []
        except ValueError as error:
            raise BuildError(f"store: {self._manifest} is damaged; run `make artifacts`") from error
        try:
            return [Artifact(**item) for item in manifest["artifacts"]]
        except (KeyError, TypeError) as error:
            raise BuildError(f"store: {self._manifest} is not of schema 1; run `make artifacts`") from error

    def mend(self) -> str | None:
        """Remove a manifest that cannot be read, for the build to write anew; returns what was wrong."""
        try:
            self.artifacts()
        except BuildError as error:
            self._manifest.unlink()
            return f"{str(error).split(';')[0]}; it is written anew"
        return None

    def faults(self, *, thorough: bool) -> list[tuple[Artifact, str]]:
        """The artifacts whose file is not what the manifest says, each with what is wrong."""
        found = ((item, fault(self.root / item.file, item, thorough=thorough)) for item in self.artifacts())
        return [(item, words) for item, words in found if words]

    def has(self, artifacts: list[Artifact]) -> bool:
        """Whether all of these are listed and their files are sound."""
        listed = {(item.kind, item.name): item for item in self.artifacts()}
        return all(
            listed.get((item.kind, item.name)) == item
            and not fault(self.root / item.file, item, thorough=False)
            for item in artifacts
        )

    def publish(self, artifacts: list[Artifact], folder: Path) -> None:
        """Put the files in place (hard links where the file system can), then list them."""
        for item in artifacts:
            target = self.root / item.file
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f".{target.name}.{os.getpid()}")
            temporary.unlink(missing_ok=True)
            try:
                temporary.hardlink_to(folder / item.file)
            except OSError:
                shutil.copy2(folder / item.file, temporary)
            temporary.replace(target)
        self._rewrite(add=artifacts, keep=None)

    def retain(self, wanted: set[tuple[str, str]]) -> list[Artifact]:
        """Forget what the catalog no longer builds; the files go too."""
        return self._rewrite(add=[], keep=wanted)

    def _rewrite(self, *, add: list[Artifact], keep: set[tuple[str, str]] | None) -> list[Artifact]:
        with locked(self.root / ".lock"):
            before = {(item.kind, item.name): item for item in self.artifacts()}
            after = before | {(item.kind, item.name): item for item in add}
            if keep is not None:
                after = {name: item for name, item in after.items() if name in keep}
            if after != before or not self._manifest.exists():
                entries = [after[name].as_json() for name in sorted(after)]
                text = json.dumps({"schema": 1, "artifacts": entries}, indent=1) + "\n"
                temporary = self._manifest.with_name(f".manifest.{os.getpid()}")
                temporary.write_text(text)
                temporary.replace(self._manifest)
            used = {item.file for item in after.values()}
            gone = [item for name, item in before.items() if name not in after or item.file not in used]
            for item in gone:
                (self.root / item.file).unlink(missing_ok=True)
            return gone
