"""Content keys: the same inputs give the same key, so a finished artifact is never made twice."""

from __future__ import annotations

import hashlib
import json
import platform
import tomllib
from pathlib import Path

from builder.catalog import AnyKind, Catalog, Programs, go_module_version
from builder.errors import BuildError

# Raise when the way of building changes so that old results must not be used any more.
RECIPE_VERSION = 1
_IGNORED = {"__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache"}


def input_files(root: Path, path: Path) -> list[Path]:
    """The files of one input, sorted; caches and compiled Python do not count."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise BuildError(f"input {path.relative_to(root)} is missing in the tree")
    return sorted(
        file
        for file in path.rglob("*")
        if (file.is_file() or file.is_symlink())
        and not _IGNORED & set(file.relative_to(path).parts)
        and file.suffix != ".pyc"
    )


_NO_PART_OF_THE_RESULT = {"licence", "source", "smoke", "on_request"}


class Keys:
    """Computes keys for one catalog over one source tree, each once."""

    def __init__(self, catalog: Catalog, root: Path) -> None:
        self._catalog = catalog
        self._root = root
        self._known: dict[str, str] = {}

    def folder(self, recipe: AnyKind) -> Path:
        """Where a recipe's own files lie."""
        default = f"binaries/{recipe.name}" if isinstance(recipe, Programs) else recipe.name
        return self._root / "images" / (recipe.folder or default)

    def inputs(self, recipe: AnyKind) -> list[Path]:
        """Every file of the tree that a recipe reads."""
        sources = [self.folder(recipe), *(self._root / item for item in recipe.inputs)]
        return [file for source in sources for file in input_files(self._root, source)]

    def version(self, recipe: AnyKind) -> str:
        """The version of what is built, from the one place where it is written down."""
        kind, _, rest = recipe.version.partition(":")
        if kind == "module" and rest:
            return go_module_version((self.folder(recipe) / "go.mod").read_text(), rest)
        if recipe.version == "project":
            project = tomllib.loads((self._root / "pyproject.toml").read_text())["project"]
            return str(project["version"])
        if kind == "of" and rest:
            return self.version(self._catalog.get(rest))
        return recipe.version

    def key(self, recipe: AnyKind) -> str:
        """The sha256 over everything the result depends on."""
        if recipe.id not in self._known:
            digest = hashlib.sha256()
            facts = {
                "builder": RECIPE_VERSION,
                "suite": self._catalog.suite,
                "machine": platform.machine(),
                "recipe": recipe.model_dump(mode="json", exclude=_NO_PART_OF_THE_RESULT),
                "version": self.version(recipe),
                "uses": {name: self.key(self._catalog.get(name)) for name in recipe.used_ids()},
            }
            digest.update(json.dumps(facts, sort_keys=True).encode())
            for file in self.inputs(recipe):
                mode = "link" if file.is_symlink() else "x" if file.stat().st_mode & 0o100 else "-"
                content = str(file.readlink()).encode() if file.is_symlink() else file.read_bytes()
                line = f"{file.relative_to(self._root)}\0{mode}\0{hashlib.sha256(content).hexdigest()}\n"
                digest.update(line.encode())
            self._known[recipe.id] = digest.hexdigest()
        return self._known[recipe.id]
