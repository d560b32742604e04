"""Run directories as the contract has them, and the object store of their project, in a test's own folder."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RUN: dict[str, Any] = {
    "project": "vision",
    "name": "train",
    "user": "ada",
    "uid": 20000,
    "gid": 30000,
    "state": "succeeded",
    "reason": None,
    "attempt": 1,
    "image": "registry.test:5000/common/python-ml:1.0",
    "image_digest": "sha256:" + "0" * 64,
    "command": ["python3", "train.py", "--lr", "{lr}"],
    "workdir": "/lab/home/ada/digits",
    "gpus": 1,
    "cpus": 2.0,
    "memory": "4Gi",
    "nodes": 1,
    "time_seconds": None,
    "priority": "normal",
    "env": {},
    "params": {"lr": "0.1"},
    "seed": 7,
    "parent": None,
    "code": None,
    "data": [],
    "submitted_at": "2026-11-20T08:00:00Z",
    "started_at": "2026-11-20T08:00:02Z",
    "finished_at": "2026-11-20T08:00:44Z",
    "exit_code": 0,
    "node": "gpu1",
    "array": None,
}


def sha256(content: bytes) -> str:
    """The name of an object."""
    return hashlib.sha256(content).hexdigest()


class Project:
    """One project's folder; runs are made in it as prepare and the recorder would."""

    def __init__(self, lab: Path, name: str = "vision") -> None:
        self.name = name
        self.folder = lab / "projects" / name
        (self.folder / "runs").mkdir(parents=True)

    def put(self, content: bytes) -> str:
        """An object in the store."""
        digest = sha256(content)
        path = self.folder / "capsules" / digest[:2] / digest
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return digest

    def layer(self, files: Mapping[str, str | bytes], links: Mapping[str, str] | None = None) -> str:
        """A layer with these files, as labctl makes it."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for path, content in sorted(files.items()):
                data = content.encode() if isinstance(content, str) else content
                entry = tarfile.TarInfo(path)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
            for path, target in (links or {}).items():
                entry = tarfile.TarInfo(path)
                entry.type, entry.linkname = tarfile.SYMTYPE, target
                archive.addfile(entry)
        return self.put(gzip.compress(packed.getvalue(), mtime=0))

    def capsule(self, *layers: str, deleted: Sequence[str] = (), **git: Any) -> dict[str, Any]:
        """A capsule of layers, which is an object too."""
        known = {"commit": "c0ffee" * 6 + "c0ff", "branch": "main", "remote": None, "dirty": False}
        capsule = {
            "version": 1,
            "layers": [{"sha256": sha, "size": 1, "prefix": ""} for sha in layers],
            "deleted": list(deleted),
            "git": {**known, **git},
            "patch": None,
            "untracked": [],
        }
        self.put(json.dumps(capsule, sort_keys=True, separators=(",", ":")).encode())
        return capsule

    def manifest(self, path: str, files: Mapping[str, str]) -> dict[str, Any]:
        """An entry of data.json, with its manifest in the store."""
        rows = [
            {"path": name, "size": len(text), "mtime_ns": 1, "sha256": sha256(text.encode())}
            for name, text in sorted(files.items())
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
        size = sum(len(content) for content in files.values())
        entry = {"manifest": self.put(text), "digest": sha256(text), "files": len(files), "bytes": size}
        return {"path": path, "seconds": 0.1, **entry}

    def run(self, number: int, files: Mapping[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        """A run as the portal tells it; `files` of its directory are JSON unless they are text or bytes."""
        run = {
            **RUN,
            "number": number,
            "trial": 0,
            "id": f"{self.name}-{number}",
            "project": self.name,
            **changes,
        }
        directory = self.folder / "runs" / f"{number}_{run['trial']}_{run['name']}"
        run["directory"] = str(directory)
        if files is None:
            return run
        directory.mkdir()
        own = {
            "run.json": {key: value for key, value in run.items() if key != "array"},
            "env.json": run["env"],
            "args.json": {
                "command": [word.format(**run["params"]) for word in run["command"]],
                "workdir": run["workdir"],
                "params": run["params"],
                "seed": run["seed"],
            },
        }
        for name, content in {**own, **files}.items():
            if content is None:
                continue
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                path.write_text(content if isinstance(content, str) else json.dumps(content))
        return run


def recorded(**curves: Sequence[float]) -> str:
    """recorded.jsonl with values of metrics by step."""
    lines = [
        {"key": key, "value": value, "step": step, "time": 1_000_000.0 + step}
        for key, values in curves.items()
        for step, value in enumerate(values)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)
