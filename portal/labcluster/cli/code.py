"""Keeping the code of a submit: what is captured, from where, into which project's store."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from labcluster.cli import output
from labcluster.errors import NotAllowedError, NotFoundError, UsageError

#: Where projects are, each with its store of objects.
PROJECTS = "/lab/projects"
_TOML = "labcluster.toml"
# Stands for the digest while the portal is asked whether it would accept the run at all.
_UNKNOWN = "0" * 64


class Here(NamedTuple):
    """What would be captured of a folder, and what `labcluster.toml` at its root says."""

    folder: str
    root: str
    repository: Any
    toml: dict[str, Any]

    def placeholder(self) -> dict[str, Any]:
        """A reference to code that is not kept yet."""
        below = os.path.relpath(self.folder, self.root)
        return {"digest": _UNKNOWN, "root": self.root, "subdir": "" if below == "." else below}


def look(folder: str) -> tuple[Here | None, str | None]:
    """What the code of a folder is, if it is to be captured, and one line on what is not kept of it."""
    from labcluster.adapters.git import Repository, user_cache
    from labcluster.services.capsule import is_place

    home = os.path.realpath(os.path.expanduser("~"))  # noqa: PTH111
    if not os.path.isdir(PROJECTS):  # noqa: PTH112
        return None, f"the code was not kept: there is no {PROJECTS} on this machine"
    why = None
    root = folder
    try:
        try:
            repository = Repository.around(folder)
        except NotAllowedError as error:
            # Read as a folder without git, which starts nothing that its owner has put there.
            repository, root = None, _top(folder)
            why = f"the code was kept without its commit: {error.detail}"
        if repository is None or is_place(repository.root, home):
            root = root if not is_place(root, home) else folder
            if is_place(root, home):
                why = f"{folder} is no folder of one project, so the run works in it"
                return None, f"the code was not kept: {why}"
            repository = Repository.without(root, str(user_cache() / "empty.git"))
    except NotFoundError as error:
        return None, f"the code was not kept: {error.detail}"
    return Here(folder, repository.root, repository, read_toml(repository.root)), why


def _top(folder: str) -> str:
    """The root of the repository around a folder, found without asking git."""
    here = folder
    while not os.path.lexists(os.path.join(here, ".git")):  # noqa: PTH118
        if here == "/":
            return folder
        here = os.path.dirname(here)  # noqa: PTH120
    return here


def capture(here: Here, project: str, *, dry_run: bool = False) -> Any:
    """Keep the code in a project's store; with `dry_run` only say what would be kept."""
    from labcluster.adapters.git import user_cache
    from labcluster.adapters.objects import Notes, Store
    from labcluster.services.capturing import Capture

    folder = store_of(project)
    store = None if dry_run else Store(folder)
    if store is not None and not os.path.isdir(folder):  # noqa: PTH112
        raise NotFoundError(
            f"project {project} has no {folder} yet: wait a few seconds if it is new, else tell your"
            " administrator; --no-code submits without keeping the code"
        )
    taking = Capture(Notes(user_cache()), store, limit=_limit(here), notice=output.say)
    return taking.take(here.repository, here.folder)


def warn_of_unseen(code: Any, here: Here, command: list[str]) -> None:
    """Say which files that the command names are not in the copy that the run works in."""
    words = {word.rpartition("=")[2] for word in command}
    there = sorted(
        word
        for word in words
        if word and word[0] != "/" and os.path.lexists(os.path.join(here.folder, word))  # noqa: PTH118
    )
    for word in code.unseen(there):
        output.say(
            f"the run will not find {word}, which is ignored or outside of {here.root}: give its path as"
            f" {os.path.join(here.folder, word)}"  # noqa: PTH118
        )


def store_of(project: str) -> str:
    """Where a project's objects are."""
    return f"{PROJECTS}/{project}/capsules"


def missing(reference: dict[str, Any], project: str) -> str | None:
    """What of a run's code is gone, in words; None if it is all there, or cannot be seen from here."""
    import json

    from labcluster.adapters.objects import Store
    from labcluster.services.capsule import objects_of

    folder = store_of(project)
    if not os.path.isdir(folder):  # noqa: PTH112
        return None
    store = Store(folder)
    try:
        capsule = json.loads(store.read(reference["digest"]))
    except NotFoundError:
        return store.path(reference["digest"])
    return next((store.path(sha256) for sha256 in objects_of(capsule) if not store.has(sha256)), None)


def describe(code: Any) -> str:
    """What was or would be captured, in one line."""
    from labcluster.services.capsule import show_size

    git = code.capsule["git"]
    words = [f"{code.capsule['files']} files, {show_size(code.capsule['bytes'])}, of {code.root}"]
    if git and git["commit"]:
        words.append(f"commit {git['commit'][:10]}" + (" with changes" if git["dirty"] else ""))
    return ", ".join(words)


def read_toml(root: str) -> dict[str, Any]:
    """labcluster.toml at the root of the code, which need not be there."""
    path = os.path.join(root, _TOML)  # noqa: PTH118
    if not os.path.exists(path):  # noqa: PTH110
        return {}
    import tomllib

    try:
        with open(path, "rb") as file:  # noqa: PTH123
            return tomllib.load(file)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: {error}") from None


def _limit(here: Here) -> int:
    from labcluster.cli.quantities import parse_memory
    from labcluster.models import quantities
    from labcluster.services.capsule import DEFAULT_LIMIT

    section = here.toml.get("code", {})
    given = section.get("limit") if isinstance(section, dict) else None
    if given is None:
        return DEFAULT_LIMIT
    try:
        return int(quantities.parse(parse_memory(str(given))))
    except UsageError:
        where = f"{here.root}/{_TOML}"
        raise UsageError(f'{where}: limit under [code] must be a size, as in limit = "500M"') from None
