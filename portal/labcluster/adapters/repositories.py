"""The git repository that a person stands in."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from labcluster.errors import LabclusterError, UsageError


def root_of(folder: Path) -> Path | None:
    """The root of the work tree around a folder; None outside of one."""
    try:
        done = _git(folder, "rev-parse", "--show-toplevel")
    except FileNotFoundError:
        return None
    return Path(done.stdout.strip()) if done.returncode == 0 and done.stdout.strip() else None


def commit(root: Path, paths: Sequence[Path], message: str) -> str | None:
    """Commit these paths and nothing else, and answer the commit; None where nothing has changed."""
    names = [str(path) for path in paths]
    _must(root, "add", "--force", "--", *names)
    if _git(root, "diff", "--cached", "--quiet", "--", *names).returncode == 0:
        return None
    _must(root, "commit", "--quiet", "--only", "--message", message, "--", *names)
    return _must(root, "rev-parse", "--short", "HEAD").strip()


def _must(root: Path, *words: str) -> str:
    done = _git(root, *words)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        said = "; ".join(" ".join(line.split()) for line in lines[-3:])[:300]
        raise LabclusterError(f"git {words[0]} in {root} failed: {said or f'exit status {done.returncode}'}")
    return done.stdout


def _git(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, errors="replace", check=False
        )
    except NotADirectoryError:
        raise UsageError(f"{folder} is no folder") from None
