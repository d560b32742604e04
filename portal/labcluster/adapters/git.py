"""git, asked without a shell; its own hooks and other programs are not started where that can be helped."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from labcluster.errors import LabclusterError, NotAllowedError, NotFoundError
from labcluster.models.files import Found

# What a hook or an alias sets for the git that it calls; here it would name another repository.
_KEPT = (
    "GIT_CONFIG",
    "GIT_EXEC_PATH",
    "GIT_CEILING_DIRECTORIES",
    "GIT_DISCOVERY_ACROSS_FILESYSTEM",
    "GIT_SSH",
)
_STATUS = ("status", "--porcelain=v2", "--branch", "-z", "--no-renames", "--untracked-files=all")


class Repository:
    """A git repository, or with `empty` a folder without one, which git sees as all untracked."""

    def __init__(self, root: str, empty: str | None = None) -> None:
        self.root = root
        self.plain = empty is not None
        self._where = ["--git-dir", empty, "--work-tree", root] if empty is not None else []

    @classmethod
    def around(cls, folder: str) -> Repository | None:
        """The outermost repository of which `folder` is a part, and None if there is none.

        NotAllowedError of one that is somebody else's: its settings could start their programs as us.
        """
        found: str | None = None
        while True:
            words = ("rev-parse", "--show-toplevel", "--show-superproject-working-tree")
            done = _call(["-C", found or folder, *words], check=False)
            if done.returncode:
                text = done.stderr.decode(errors="replace")
                if "dubious ownership" in text:
                    raise NotAllowedError(
                        f"git does not trust the repository around {folder}, which is somebody else's:"
                        " git config --global --add safe.directory PATH says that you do"
                    )
                return None
            lines = os.fsdecode(done.stdout).splitlines()
            if len(lines) < 2 or not lines[1]:
                return cls(lines[0]) if lines else None
            found = lines[1]

    @classmethod
    def without(cls, root: str, empty: str) -> Repository:
        """A folder in no repository; `empty` is an empty git directory of the caller's, made if absent."""
        if not os.path.exists(os.path.join(empty, "HEAD")):
            _call(["init", "--quiet", "--bare", empty])
        return cls(root, empty)

    def within(self, path: str) -> Repository | None:
        """The repository in a folder of this one, as far as it is there."""
        root = os.path.join(self.root, path)
        return Repository(root) if os.path.lexists(os.path.join(root, ".git")) else None

    def look(self, path: str) -> Found | None:
        """A file as it is now; None of a folder, or if there is none."""
        return _look(os.path.join(self.root, path))

    def odd(self, folders: Iterable[str]) -> list[str]:
        """What is neither file, folder nor link in some folders."""
        odd = []
        for folder in folders:
            with suppress(OSError), os.scandir(os.path.join(self.root, folder)) as entries:
                for entry in entries:
                    kinds = (entry.is_file(follow_symlinks=False), entry.is_dir(follow_symlinks=False))
                    if not any(kinds) and not entry.is_symlink():
                        odd.append(os.path.join(folder, entry.name))
        return odd

    def ignore_file(self) -> str | None:
        """The file with patterns of what is not captured, if there is one."""
        path = os.path.join(self.root, ".labignore")
        return path if os.path.isfile(path) else None

    def status(self) -> bytes:
        """What differs from HEAD, for `services.capsule.parse_status`."""
        return self._run(*_STATUS, "--ignore-submodules=none")

    def untracked(self, ignore_file: str) -> list[str]:
        """Files that neither git nor the patterns of one more file ignore."""
        return self._names("ls-files", "-z", "--others", "--exclude-standard", "-X", ignore_file)

    def tracked_but_ignored(self, ignore_file: str) -> list[str]:
        """Tracked files, and submodules, that match the patterns of a file."""
        return self._names("ls-files", "-z", "--cached", "--ignored", "-X", ignore_file)

    def ignored(self, paths: Sequence[str], ignore_file: str | None) -> set[str]:
        """Which of these paths are ignored."""
        found: set[str] = set()
        for more in ([], ["-c", f"core.excludesFile={ignore_file}"]) if ignore_file else ([],):
            text = b"\0".join(map(os.fsencode, paths))
            words = [*more, *self._where, "-C", self.root, "check-ignore", "-z", "--no-index", "--stdin"]
            done = _call(words, check=False, text=text)
            found.update(map(os.fsdecode, filter(None, done.stdout.split(b"\0"))))
        return found

    def tree(self) -> str:
        """The id of HEAD's tree."""
        return os.fsdecode(self._run("rev-parse", "HEAD^{tree}")).strip()

    def submodules(self) -> list[str]:
        """Paths of the submodules of HEAD."""
        lines = self._names("ls-tree", "-r", "-z", "HEAD")
        return [line.partition("\t")[2] for line in lines if line.startswith("160000 ")]

    def sizes(self) -> list[tuple[int, str]]:
        """Size and path of each file of HEAD."""
        lines = [line.partition("\t") for line in self._names("ls-tree", "-r", "-l", "-z", "HEAD")]
        return [(int(size), path) for meta, _, path in lines if (size := meta.split()[3]) != "-"]

    @contextmanager
    def checked_out(self) -> Iterator[tuple[str, dict[str, Found]]]:
        """A folder with HEAD's files as a checkout writes them, whatever the work tree holds."""
        with tempfile.TemporaryDirectory(prefix="labctl-") as folder:
            tree = os.path.join(folder, "tree", "")
            extra = {"GIT_INDEX_FILE": os.path.join(folder, "index")}
            self._run("read-tree", "HEAD", extra=extra)
            self._run("checkout-index", "--all", "--quiet", f"--prefix={tree}", extra=extra)
            lines = self._names("ls-files", "-z", "--stage", extra=extra)
            paths = [line.partition("\t")[2] for line in lines if not line.startswith("160000 ")]
            looks = ((path, _look(os.path.join(tree, path))) for path in paths)
            yield tree, {path: found for path, found in looks if found}

    def remotes(self) -> dict[str, str]:
        """Addresses by remote's name."""
        done = _call(
            [*self._where, "-C", self.root, "config", "-z", "--get-regexp", r"^remote\..*\.url$"], check=False
        )
        found: dict[str, str] = {}
        for entry in filter(None, os.fsdecode(done.stdout).split("\0")):
            key, _, url = entry.partition("\n")
            found.setdefault(key.removeprefix("remote.").removesuffix(".url"), url)
        return found

    def unpushed(self) -> int:
        """Bytes of the commits of HEAD that no remote is known to have."""
        return int(self._run("rev-list", "--disk-usage", "--objects", "HEAD", "--not", "--remotes"))

    @contextmanager
    def bundle(self) -> Iterator[str]:
        """A file with those commits, which `git fetch` reads."""
        with tempfile.TemporaryDirectory(prefix="labctl-") as folder:
            file = os.path.join(folder, "bundle")
            self._run("bundle", "create", "--quiet", file, "HEAD", "--not", "--remotes")
            yield file

    def patch(self, prefix: str, *, binary: bool) -> bytes:
        """What differs from HEAD in tracked files, under `prefix`, for people and `git apply`."""
        return self._run(
            *("diff", "HEAD", "--no-color", "--no-ext-diff", "--no-textconv", "--ignore-submodules=all"),
            *(("--binary",) if binary else ()),
            *(f"--src-prefix=a/{prefix}", f"--dst-prefix=b/{prefix}"),
        )

    def _names(self, *words: str, extra: dict[str, str] | None = None) -> list[str]:
        return [os.fsdecode(name) for name in self._run(*words, extra=extra).split(b"\0") if name]

    def _run(self, *words: str, extra: dict[str, str] | None = None) -> bytes:
        return _call([*self._where, "-C", self.root, *words], extra=extra).stdout


def _look(path: str) -> Found | None:
    try:
        state = os.lstat(path)
        link = os.readlink(path) if stat.S_ISLNK(state.st_mode) else None
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISDIR(state.st_mode):
        return None
    times = (state.st_mtime_ns, state.st_ctime_ns)
    special = link is None and not stat.S_ISREG(state.st_mode)
    return Found(
        state.st_size, (state.st_size, *times, state.st_ino, state.st_mode), max(times), link, special
    )


def _call(
    words: Sequence[str], *, check: bool = True, text: bytes = b"", extra: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    env = {name: value for name, value in os.environ.items() if name[:4] != "GIT_" or name.startswith(_KEPT)}
    env |= {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", **(extra or {})}
    # A file-system monitor of the repository's choice would be one more program; plain looks are fast enough.
    command = ["git", "-c", "core.fsmonitor=false", "-c", "core.quotePath=false", *words]
    try:
        done = subprocess.run(command, input=text, capture_output=True, env=env, check=False)
    except FileNotFoundError:
        raise NotFoundError("git is not installed on this machine") from None
    if check and done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        because = f": {said[-1]}" if said else ""
        raise LabclusterError(f"git failed{because}; --no-code submits without keeping the code")
    return done


def user_cache() -> Path:
    """Where this user's own notes on captured code are."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "labcluster" / "capsules"
