"""Real git repositories, and captures of them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from labcluster.adapters.git import Repository
from labcluster.adapters.objects import Notes, Store
from labcluster.services.capturing import Capture, Code

_PERSON = ("-c", "user.name=ada", "-c", "user.email=ada@lab.internal", "-c", "protocol.file.allow=always")


def git(folder: Path, *words: str) -> str:
    """What git prints."""
    command = ["git", "-C", str(folder), *_PERSON, *words]
    env = os.environ | {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout.strip()


def write(root: Path, files: dict[str, str]) -> None:
    """Write files by path."""
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def commit(root: Path, files: dict[str, str]) -> None:
    """Write files and commit all that is there."""
    write(root, files)
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "work")


def repository(root: Path, files: dict[str, str]) -> Path:
    """A repository with one commit."""
    root.mkdir(parents=True)
    git(root, "init", "--quiet", "--initial-branch", "main")
    commit(root, files)
    return root


class Lab:
    """A project's store and a user's notes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.objects = folder / "projects" / "vision" / "capsules"
        self.objects.mkdir(parents=True)
        (folder / "projects" / "vision" / "runs").mkdir()
        self.notices: list[str] = []

    def capture(self, folder: Path, *, dry_run: bool = False, **options: Any) -> Code:
        """Capture what is around a folder."""
        found = Repository.around(str(folder))
        repository = found or Repository.without(str(folder), str(self.folder / "cache" / "empty.git"))
        store = None if dry_run else Store(str(self.objects))
        notes = Notes(self.folder / "cache")
        return Capture(notes, store, notice=self.notices.append, **options).take(repository, str(folder))

    def stored(self) -> set[str]:
        """Names of all objects."""
        return {path.name for path in self.objects.rglob("*") if path.is_file()}

    def read(self, sha256: str) -> bytes:
        """An object's bytes."""
        return Store(str(self.objects)).read(sha256)

    def capsule(self, code: Code) -> dict[str, Any]:
        """A capsule as it was stored."""
        assert code.digest is not None
        found: dict[str, Any] = json.loads(self.read(code.digest))
        return found


def files_of(lab: Lab, code: Code) -> dict[str, str]:
    """What a run will find: every layer over those before it, without what was deleted."""
    capsule = lab.capsule(code)
    found: dict[str, str] = {}
    for layer in capsule["layers"]:
        with tarfile.open(fileobj=io.BytesIO(lab.read(layer["sha256"]))) as archive:
            for entry in archive:
                path = layer["prefix"] + entry.name
                if path in capsule["deleted"]:
                    continue
                assert (entry.mtime, entry.uid, entry.gid, entry.uname) == (0, 0, 0, "")
                content = archive.extractfile(entry) if entry.isreg() else None
                found[path] = content.read().decode() if content else f"-> {entry.linkname}"
    assert capsule["files"] == len(found)
    return found
