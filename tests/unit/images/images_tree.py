"""A small source tree with a catalog of programs, and a stand-in for Go."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

IMAGES = Path(__file__).parents[3] / "images"
sys.path.insert(0, str(IMAGES))

from builder.main import main  # noqa: E402  (images/ is no package of the environment)

# Writes one file a package, made of the sources beside it; FAIL and SLEEP stand for what can go wrong.
GO = """#!/bin/sh
[ "$1" = env ] && { echo go1.26.8; exit 0; }
[ "$1" = -C ] && [ -n "$GO_WAIT" ] && echo asked > "$GO_WAIT"
[ "$1" = -C ] && { printf '{"Dir": "%s"}' "$GO_MODULE"; exit 0; }
echo built >> "$GO_LOG"
[ -n "$GO_WAIT" ] && for _ in 1 2 3 4 5 6 7 8 9 10; do [ -e "$GO_WAIT" ] || sleep 1; done
[ -n "$GO_WAIT" ] && [ ! -e "$GO_WAIT" ] && exit 1
[ -n "$GO_SLEEP" ] && exec sleep 60
[ -n "$GO_FAIL" ] && { echo 'main.go:1: it does not compile' >&2; exit 1; }
while [ "$1" != -o ]; do shift; done
out=$2; shift 2
for package; do { echo "$package"; cat main.go; } > "$out/${package##*/}"; done
"""


def recipe(name: str, **changes: Any) -> dict[str, Any]:
    """A catalog entry for one program."""
    return {
        "name": name,
        "kind": "programs",
        "version": "1.0",
        "licence": "Apache-2.0",
        "source": "here",
        "programs": {name: f"example/{name}"},
    } | changes


@dataclass
class Tree:
    """The tree, its store and its cache."""

    root: Path
    log: Path

    def write(self, recipes: list[dict[str, Any]]) -> None:
        """Write the catalog, and sources for what has none."""
        for entry in recipes:
            folder = self.root / "images" / "binaries" / entry["name"]
            if not folder.exists():
                folder.mkdir(parents=True)
                (folder / "main.go").write_text(f"package main // {entry['name']}\n")
        catalog = {"schema": 1, "suite": "bookworm", "recipes": recipes}
        (self.root / "images" / "catalog.yml").write_text(yaml.safe_dump(catalog))

    def build(self, *arguments: str) -> int:
        """Run the tool; its exit status."""
        return main(list(arguments), self.root)

    @property
    def builds(self) -> int:
        """How often Go was asked to build."""
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0

    @property
    def store(self) -> Path:
        """Where artifacts are put."""
        return self.root / "build" / "store"

    def manifest(self) -> dict[str, dict[str, Any]]:
        """The manifest's entries by name."""
        document = json.loads((self.store / "manifest.json").read_text())
        assert document["schema"] == 1
        return {entry["name"]: entry for entry in document["artifacts"]}
