"""What a capsule holds, and what may not go into one: rules only, nothing is read or written here.

A capsule is the code of a run as it was at submit: canonical JSON that names its layers (tar archives) by
their SHA-256, and is named by its own. Layers are unpacked one over the other under their prefixes, without
the deleted paths.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

VERSION = 1
DEFAULT_LIMIT = 200 * 2**20
IGNORE_FILE = ".labignore"
TOML_FILE = "labcluster.toml"

_LOCKS = re.compile(
    r"(uv|poetry|pdm|Pipfile|pixi|Cargo)\.lock|pylock\.toml|conda-lock\.yml|environment\.ya?ml"
    r"|requirements.*\.(txt|in)|package-lock\.json|go\.sum|Manifest\.toml"
)
_SUBMODULE_MODE = "160000"
_NAMED = 3


class Status(NamedTuple):
    """What `git status --porcelain=v2 --branch -z --no-renames` says."""

    commit: str | None
    branch: str | None
    upstream: str | None
    #: Paths of files that differ from HEAD and are, or may be, there.
    changed: tuple[str, ...]
    #: Paths that HEAD has and the index has no more.
    removed: tuple[str, ...]
    untracked: tuple[str, ...]
    #: Paths of submodules that differ from HEAD in any way.
    submodules: tuple[str, ...]
    #: Paths of other repositories within, of which HEAD knows nothing.
    nested: tuple[str, ...]


def parse_status(text: bytes) -> Status:
    """Read it; names that are not UTF-8 keep their bytes as surrogates."""
    head: dict[str, str] = {}
    changed: list[str] = []
    removed: list[str] = []
    untracked: list[str] = []
    submodules: list[str] = []
    nested: list[str] = []
    for raw in text.split(b"\0"):
        line = raw.decode("utf-8", "surrogateescape")
        kind, _, rest = line.partition(" ")
        if kind == "#":
            key, _, value = rest.partition(" ")
            head[key] = value
        elif kind == "?":
            (nested if rest.endswith("/") else untracked).append(rest.rstrip("/"))
        elif kind in ("1", "u"):
            fields = rest.split(" ", 7 if kind == "1" else 9)
            path, modes = fields[-1], fields[2:-3]
            if fields[1].startswith("S") or _SUBMODULE_MODE in modes:
                submodules.append(path)
            elif kind == "1" and fields[0][0] == "D":
                removed.append(path)
            else:
                changed.append(path)
    commit, branch = head.get("branch.oid"), head.get("branch.head")
    return Status(
        commit=None if commit in (None, "(initial)") else commit,
        branch=None if branch in (None, "(detached)") else branch,
        upstream=head.get("branch.upstream"),
        changed=tuple(changed),
        removed=tuple(removed),
        untracked=tuple(untracked),
        submodules=tuple(submodules),
        nested=tuple(nested),
    )


def clean_url(url: str) -> str:
    """A remote's address without what only its user may know."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    if not parts.scheme or not parts.netloc:
        return url  # git@host:path, or a folder
    login, _, host = parts.netloc.rpartition("@")
    # Of ssh the user's name is part of the address; a token may stand in its place elsewhere.
    user = login.partition(":")[0] if parts.scheme in ("ssh", "git+ssh") else ""
    return urlunsplit((parts.scheme, f"{user}@{host}" if user else host, parts.path, "", ""))


def choose_remote(urls: Mapping[str, str], upstream: str | None) -> str | None:
    """The address of the remote that the branch follows, else of origin, else of any."""
    followed = max((name for name in urls if (upstream or "").startswith(f"{name}/")), key=len, default=None)
    name = followed or ("origin" if "origin" in urls else min(urls, default=None))
    return clean_url(urls[name])[:1000] or None if name is not None else None


def is_place(path: str, home: str) -> bool:
    """Whether a folder is where people keep projects, and not a project itself: it is never captured."""
    if path == "/" or home == path or home.startswith(path.rstrip("/") + "/"):
        return True
    parts = path.split("/")[1:]
    if parts[0] in ("tmp", "home", "root", "mnt", "srv", "opt", "usr", "etc", "var"):
        return len(parts) == 1
    if parts[0] != "lab":
        return False
    if parts[1:2] == ["datasets"]:
        return True
    return len(parts) <= (4 if parts[1:2] == ["projects"] else 3)


def leads_out(path: str, target: str) -> bool:
    """Whether a link at `path` below the root points to something that is not captured with it."""
    if target.startswith("/"):
        return True
    found = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    return found == ".." or found.startswith("../")


def is_text(path: str) -> bool:
    """Whether a file's name is UTF-8, as JSON and archives want it."""
    return path.encode("utf-8", "replace").decode() == path


def is_lock(path: str) -> bool:
    """Whether a file says which packages were meant."""
    return _LOCKS.fullmatch(posixpath.basename(path)) is not None


def refusal(bad: Sequence[tuple[str, str]]) -> str | None:
    """One line on what cannot be captured: (path, why)."""
    if not bad:
        return None
    more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    named = ", ".join(f"{_shown(path)} ({why})" for path, why in bad[:_NAMED])
    return (
        f"cannot keep {named}{more}: name them in {IGNORE_FILE} at the root and give the command their paths,"
        " or --no-code works in the directory itself"
    )


def too_large(total: int, limit: int, largest: Iterable[tuple[int, str]]) -> str:
    """One line on code that is larger than the limit, with what makes it so."""
    top = sorted(largest, reverse=True)[:_NAMED]
    named = ", ".join(f"{_shown(path)} ({show_size(size)})" for size, path in top)
    return (
        f"the code here is {show_size(total)}, more than {show_size(limit)}; the largest: {named}. Name what"
        f" no run needs in .gitignore or {IGNORE_FILE}, or raise limit under [code] in {TOML_FILE}"
    )


def show_size(count: int) -> str:
    """A number of bytes for people."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def canonical(value: Mapping[str, Any]) -> bytes:
    """The one form of a capsule that its digest is of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def objects_of(capsule: Mapping[str, Any]) -> list[str]:
    """All that a capsule needs to be worked from: its layers and its patch."""
    found = [layer["sha256"] for layer in capsule["layers"]]
    return found + [capsule["patch"]] * bool(capsule.get("patch"))


def _shown(path: str) -> str:
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
