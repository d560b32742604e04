"""How the code around a folder becomes a capsule.

A repository is one layer with the tree of its commit, which everybody who submits that commit shares, and
one with what differs from it. Both are packed once: what was seen before is known by the tree's id and by
the files' times, as git itself knows.
"""

from __future__ import annotations

import posixpath
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypedDict

from labcluster.errors import LabclusterError, UsageError
from labcluster.models.files import Found, Kept, Packed
from labcluster.services import capsule as rules

# A file that changed so shortly before we looked may have changed once more without a later time.
_RACY_NS = 2_000_000_000
_MOST_PATCH = 8 * 2**20
_MOST_BUNDLE = 32 * 2**20


class Git(Protocol):
    """A repository, or a folder without one (`plain`), all of whose files are untracked."""

    root: str
    plain: bool

    def look(self, path: str) -> Found | None: ...
    def odd(self, folders: Iterable[str]) -> list[str]: ...
    def within(self, path: str) -> Git | None: ...
    def ignore_file(self) -> str | None: ...
    def status(self) -> bytes: ...
    def untracked(self, ignore_file: str) -> list[str]: ...
    def tracked_but_ignored(self, ignore_file: str) -> list[str]: ...
    def ignored(self, paths: Sequence[str], ignore_file: str | None) -> set[str]: ...
    def tree(self) -> str: ...
    def submodules(self) -> list[str]: ...
    def sizes(self) -> list[tuple[int, str]]: ...
    def checked_out(self) -> AbstractContextManager[tuple[str, Mapping[str, Found]]]: ...
    def remotes(self) -> dict[str, str]: ...
    def unpushed(self) -> int: ...
    def bundle(self) -> AbstractContextManager[str]: ...
    def patch(self, prefix: str, *, binary: bool) -> bytes: ...


class Store(Protocol):
    """A project's objects, as `adapters.objects.Store`."""

    def has(self, sha256: str, size: int | None = None) -> bool: ...
    def keep(self, data: bytes) -> Kept: ...
    def keep_file(self, path: str) -> Kept: ...
    def tidy(self) -> None: ...
    def pack(self, root: str, paths: Iterable[str], wanted: Callable[[str], bool]) -> Packed: ...


class Notes(Protocol):
    """What was found out before."""

    def get(self, key: str) -> Any: ...
    def put(self, key: str, value: Any) -> None: ...


class Code(NamedTuple):
    """What was captured, or would be: then the digest is None."""

    digest: str | None
    capsule: dict[str, Any]
    root: str
    #: All that the run will find, below the root.
    paths: frozenset[str]

    def unseen(self, words: Iterable[str]) -> list[str]:
        """Which of these paths, relative to where the command starts, the run will not find."""
        folders = {parent for path in self.paths for parent in _parents(path)}
        return [
            word
            for word in words
            if (path := posixpath.normpath(posixpath.join(self.capsule["subdir"], word))) not in self.paths
            and path not in folders
        ]

    def reference(self) -> dict[str, Any]:
        """The `CodeRef` of a request."""
        git = self.capsule["git"] or {}
        return {
            "digest": self.digest,
            "commit": git.get("commit"),
            "branch": git.get("branch"),
            "remote": git.get("remote"),
            "dirty": bool(git.get("dirty")),
            "subdir": self.capsule["subdir"],
            "root": self.root,
        }


@dataclass
class _Part:
    """One repository of a capture: the root's, or one within it. Paths are below its own root."""

    git: Git
    prefix: str
    status: rules.Status
    base: _Base
    ignore_file: str | None
    overlay: dict[str, Found] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    untracked: list[str] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)

    @property
    def dirty(self) -> bool:
        """Whether anything differs from its commit."""
        return bool(self.overlay or self.deleted or self.status.submodules)

    def sizes(self) -> dict[str, int]:
        """What the run will find, with bytes of each."""
        gone = set(self.deleted)
        found = {path: size for path, size in self.base["files"].items() if path not in gone}
        return found | {path: found.size for path, found in self.overlay.items()}


class _Base(TypedDict):
    """The layer of a commit's tree, as it is noted."""

    layer: list[Any] | None
    files: dict[str, int]
    submodules: list[str]
    locks: dict[str, str]
    bad: list[tuple[str, str]]


_NO_COMMIT: _Base = {"layer": None, "files": {}, "submodules": [], "locks": {}, "bad": []}


class Capture:
    """Makes capsules; with no store nothing is written, and the answer says what would be."""

    def __init__(
        self,
        notes: Notes,
        store: Store | None,
        *,
        limit: int = rules.DEFAULT_LIMIT,
        notice: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._notes = notes
        self._store = store
        self._limit = limit
        self._notice = notice

    def take(self, git: Git, folder: str) -> Code:
        """Capture a repository for a command that starts in `folder`, which is in it.

        UsageError names what is too large or cannot be kept.
        """
        parts = self._parts(git, "")
        sizes = {part.prefix + path: size for part in parts for path, size in part.sizes().items()}
        total = sum(sizes.values())
        if total > self._limit:
            raise _too_large(sizes, self._limit)
        if problem := rules.refusal([found for part in parts for found in _bad(part)]):
            raise UsageError(problem)
        layers = [_layer(part.base["layer"], part.prefix) for part in parts if part.base["layer"]]
        top = self._pack_changes(parts)
        locks = {part.prefix + path: sha for part in parts for path, sha in part.base["locks"].items()}
        locks = {path: sha for path, sha in (locks | top["locks"]).items() if path in sizes}
        subdir = posixpath.relpath(folder, git.root)
        capsule = {
            "version": rules.VERSION,
            "layers": layers + ([_layer(top["layer"], "")] if top["layer"] else []),
            "deleted": sorted(part.prefix + path for part in parts for path in part.deleted),
            "git": None if git.plain else self._git(parts),
            "patch": top["patch"],
            "untracked": sorted(part.prefix + path for part in parts for path in part.untracked),
            "files": len(sizes),
            "bytes": total,
            "subdir": "" if subdir == "." else subdir,
            "locks": [{"path": path, "sha256": sha} for path, sha in sorted(locks.items())],
            "toml": rules.TOML_FILE in sizes,
        }
        digest = self._store.keep(rules.canonical(capsule)).sha256 if self._store else None
        return Code(digest, capsule, git.root, frozenset(sizes))

    def _parts(self, git: Git, prefix: str) -> list[_Part]:
        """A repository and those within it, the outer before the inner."""
        status = rules.parse_status(git.status())
        untracked, nested, left_out = list(status.untracked), set(status.nested), frozenset[str]()
        ignore_file = git.ignore_file()
        if ignore_file:
            left_out = frozenset() if git.plain else frozenset(git.tracked_but_ignored(ignore_file))
            visible = git.untracked(ignore_file)
            untracked = [path for path in visible if not path.endswith("/")]
            nested = {path.rstrip("/") for path in visible if path.endswith("/")}
        part = _Part(git, prefix, status, self._base(git, prefix, status, left_out), ignore_file)
        changed = [path for path in status.changed if path not in left_out]
        for path in [*changed, *untracked]:
            self._look(part, path)
        part.untracked = [path for path in untracked if path in part.overlay]
        gone = (path for path in (*status.removed, *changed) if path not in part.overlay)
        part.deleted = [path for path in gone if path in part.base["files"]]
        parts = [part]
        for path in sorted((nested | {*status.submodules, *part.base["submodules"]}) - left_out):
            if inner := git.within(path):
                parts += self._parts(inner, f"{prefix}{path}/")
        return parts

    @staticmethod
    def _look(part: _Part, path: str) -> None:
        found = part.git.look(path)
        if found is None:
            return
        part.overlay[path] = found
        if why := _fault(part.prefix, path, found):
            part.bad.append((path, why))

    def _base(self, git: Git, prefix: str, status: rules.Status, left_out: frozenset[str]) -> _Base:
        """The layer of the commit; whoever submits the same commit gets the same."""
        if status.commit is None:
            return _NO_COMMIT
        key = f"base 1 {git.tree()} {prefix} {sorted(left_out)}"
        noted: _Base | None = self._notes.get(key)
        if noted is not None and (self._store is None or self._store.has(*noted["layer"] or ("", 0))):
            return noted
        sizes = {path: size for size, path in git.sizes() if path not in left_out}
        submodules = git.submodules()
        if sum(sizes.values()) > self._limit:
            raise _too_large({prefix + path: size for path, size in sizes.items()}, self._limit)
        if self._store is None:
            return {**_NO_COMMIT, "files": sizes, "submodules": submodules}
        self._store.tidy()
        base: _Base = {**_NO_COMMIT, "files": {}, "submodules": submodules, "bad": []}
        with git.checked_out() as (tree, files):
            for path, found in files.items():
                if path in left_out:
                    continue
                if why := _fault(prefix, path, found):
                    base["bad"].append((path, why))
                else:
                    base["files"][path] = found.size
            packed = self._store.pack(tree, base["files"], rules.is_lock)
        base |= {"layer": list(packed.layer), "locks": packed.hashes}
        self._notes.put(key, base)
        return base

    def _pack_changes(self, parts: Sequence[_Part]) -> dict[str, Any]:
        """The layer of all that differs from the commits, and the same for people to read."""
        states = {part.prefix + path: one for part in parts for path, one in part.overlay.items()}
        found: dict[str, Any] = {"layer": None, "locks": {}, "patch": None}
        if self._store is None or not any(part.dirty for part in parts):
            return found
        seen = [(path, *found.stamp) for path, found in sorted(states.items())]
        gone = [(part.prefix, part.status.commit, part.deleted) for part in parts]
        root = parts[0].git.root
        key = f"changes 1 {root} {seen} {gone}"
        before = time.time_ns() - _RACY_NS
        settled = all(one.changed_ns < before for one in states.values())
        noted: dict[str, Any] | None = self._notes.get(key) if settled else None
        if noted is not None and all(
            self._store.has(*kept) for kept in (noted["layer"], noted["patch"]) if kept
        ):
            return noted | {"patch": noted["patch"] and noted["patch"][0]}
        if states:
            packed = self._store.pack(root, states, rules.is_lock)
            found |= {"layer": list(packed.layer), "locks": packed.hashes}
        patch = b"".join(map(_patch, parts))
        if patch:
            found["patch"] = list(self._store.keep(patch))
        if settled:
            self._notes.put(key, found)
        return found | {"patch": found["patch"] and found["patch"][0]}

    def _git(self, parts: Sequence[_Part]) -> dict[str, Any]:
        first, *others = parts
        return {
            "commit": first.status.commit,
            "branch": first.status.branch,
            "remote": rules.choose_remote(first.git.remotes(), first.status.upstream),
            "detached": first.status.branch is None,
            "dirty": any(part.dirty for part in parts),
            "submodules": [
                {
                    "path": part.prefix.rstrip("/"),
                    "commit": part.status.commit,
                    "dirty": part.dirty,
                    "bundle": self._bundle(part),
                }
                for part in others
            ],
            "bundle": self._bundle(first),
        }

    def _bundle(self, part: _Part) -> str | None:
        """The object with the commits that only this repository has; they go with the capsule."""
        if self._store is None or part.status.commit is None:
            return None
        key = f"bundle 1 {part.git.root} {part.status.commit}"
        noted = self._notes.get(key)
        if noted is not None and (not noted["object"] or self._store.has(*noted["object"])):
            return str(noted["object"][0]) if noted["object"] else None
        kept: Kept | None = None
        try:
            size = part.git.unpushed()
            if size > _MOST_BUNDLE:
                shown = rules.show_size(size)
                self._notice(
                    f"the commits of {part.git.root} that are on no remote ({shown}) are not kept: push them"
                )
            elif size:
                with part.git.bundle() as file:
                    kept = self._store.keep_file(file)
        except LabclusterError as error:
            self._notice(f"the commits of {part.git.root} that are on no remote are not kept: {error.detail}")
        self._notes.put(key, {"object": kept})
        return kept.sha256 if kept else None


_SPECIAL = "neither a file nor a folder"


def _parents(path: str) -> Iterable[str]:
    while path:
        path = posixpath.dirname(path)
        yield path or "."


def _fault(prefix: str, path: str, found: Found) -> str | None:
    """Why a file cannot be kept."""
    if found.special:
        return _SPECIAL
    if found.link is not None and rules.leads_out(prefix + path, found.link):
        return f"a link that leads out, to {found.link}"
    return None if rules.is_text(path) else "a name that is not UTF-8"


def _bad(part: _Part) -> list[tuple[str, str]]:
    """What of a part cannot be kept, by its path below the root."""
    answered = {*part.overlay, *part.status.changed, *part.status.removed}
    bad = [found for found in part.base["bad"] if found[0] not in answered] + part.bad
    folders = {posixpath.dirname(path) for path in (*part.base["files"], *part.overlay)} | {""}
    # git does not even list them; those that it would ignore are nobody's loss.
    if special := [path for path in part.git.odd(folders) if path not in answered]:
        ignored = part.git.ignored(special, part.ignore_file)
        bad += [(path, _SPECIAL) for path in special if path not in ignored]
    return [(part.prefix + path, why) for path, why in bad]


def _patch(part: _Part) -> bytes:
    """The diff of tracked files; of large ones git only says that they differ."""
    if part.git.plain or part.status.commit is None or not (part.status.changed or part.status.removed):
        return b""
    untracked = set(part.untracked)
    tracked = [found.size for path, found in part.overlay.items() if path not in untracked]
    return part.git.patch(part.prefix, binary=sum(tracked) <= _MOST_PATCH)


def _layer(kept: Sequence[Any] | None, prefix: str) -> dict[str, Any]:
    assert kept is not None
    return {"sha256": kept[0], "size": kept[1], "prefix": prefix}


def _too_large(sizes: Mapping[str, int], limit: int) -> UsageError:
    largest = sorted(((size, path) for path, size in sizes.items()), reverse=True)[:3]
    return UsageError(rules.too_large(sum(sizes.values()), limit, largest))
