"""The catalog is closed, and content keys follow what a result is made of."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from builder.catalog import Image, ModuleFolder, Programs, load
from builder.containers import pin_bases
from builder.errors import BuildError
from builder.keys import Keys
from builder.machine import debian_sources
from images_tree import IMAGES, Tree, recipe

IMAGE = {"name": "gamma", "kind": "image", "version": "1", "licence": "x", "source": "x"}


@pytest.mark.parametrize(
    ("recipes", "sentence"),
    [
        ([recipe("alpha", versoin="1")], "recipes.alpha.versoin: Extra inputs are not permitted"),
        ([recipe("alpha", kind="rpm")], "recipes.alpha: Input tag 'rpm'"),
        ([recipe("Alpha")], "recipes.Alpha.name: String should match pattern"),
        ([recipe("alpha"), recipe("alpha")], "'bin/alpha' is there twice"),
        ([IMAGE | {"uses": ["delta"]}], "nothing is called 'delta'; known: gamma"),
        (
            [recipe("alpha"), IMAGE | {"uses": ["alpha/other"]}],
            "gamma uses 'alpha/other', but bin/alpha builds",
        ),
        ([IMAGE | {"uses": ["gamma"]}], "gamma -> gamma is a circle"),
        ([recipe("alpha", licence="")], "recipes.alpha.licence: String should have at least 1 character"),
    ],
    ids=[
        "unknown-key",
        "unknown-kind",
        "bad-name",
        "twice",
        "unknown-use",
        "unknown-program",
        "circle",
        "empty",
    ],
)
def test_a_fault_in_the_catalog_is_named_with_its_place(
    tree: Tree, recipes: list[dict[str, Any]], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tree.write(recipes)
    assert tree.build() == 1
    assert sentence in capsys.readouterr().err
    assert not tree.store.exists()


def test_an_unknown_name_is_answered_with_the_known_ones(
    tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tree.build("gama") == 1
    assert "nothing is called 'gama'; known: bin/alpha, bin/beta" in capsys.readouterr().err


def key_of(tree: Tree, name: str = "bin/alpha") -> str:
    catalog = load(tree.root / "images" / "catalog.yml")
    return Keys(catalog, tree.root).key(catalog.get(name))


@pytest.mark.parametrize("change", ["content", "new file", "mode", "name", "version", "flags", "suite"])
def test_a_key_changes_with_every_input(tree: Tree, change: str) -> None:
    before = key_of(tree)
    source = tree.root / "images/binaries/alpha/main.go"
    catalog = tree.root / "images/catalog.yml"
    match change:
        case "content":
            source.write_text("package other\n")
        case "new file":
            source.with_name("other.go").write_text("")
        case "mode":
            source.chmod(0o755)
        case "name":
            source.rename(source.with_name("other.go"))
        case "version":
            tree.write([recipe("alpha", version="2.0")])
        case "flags":
            tree.write([recipe("alpha", ldflags=["-X a=b"])])
        case "suite":
            catalog.write_text(catalog.read_text().replace("bookworm", "trixie"))
    assert key_of(tree) != before


def test_a_key_follows_what_it_is_built_from(tree: Tree) -> None:
    (tree.root / "images/gamma").mkdir()
    (tree.root / "images/gamma/Containerfile").write_text("FROM scratch\n")
    tree.write([recipe("alpha"), IMAGE | {"uses": ["alpha/alpha"]}])
    before = key_of(tree, "gamma")
    (tree.root / "images/binaries/alpha/main.go").write_text("package other\n")
    assert key_of(tree, "gamma") != before


def test_a_key_ignores_caches_and_words_about_the_result(tree: Tree) -> None:
    before = key_of(tree)
    cache = tree.root / "images/binaries/alpha/__pycache__"
    cache.mkdir()
    (cache / "x.pyc").write_text("")
    tree.write([recipe("alpha", licence="Apache License 2.0")])
    assert key_of(tree) == before


def test_a_missing_input_is_named(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    tree.write([recipe("alpha", inputs=["portal/labcluster"])])
    assert tree.build() == 1
    assert "input portal/labcluster is missing in the tree" in capsys.readouterr().err


def test_what_no_site_needs_is_built_only_when_it_is_named(tree: Tree) -> None:
    tree.write([recipe("alpha"), recipe("beta", on_request=True)])
    assert tree.build() == 0
    assert tree.manifest().keys() == {"alpha"}
    assert tree.build("beta") == 0
    assert tree.manifest().keys() == {"alpha", "beta"}


def test_bases_are_pinned_to_what_the_key_was_computed_from() -> None:
    text = "FROM localhost/labcluster/base AS one\nFROM scratch\nCOPY --from=one /a /a\n"
    assert pin_bases(text, {"base": "localhost/labcluster/base:123"}).startswith(
        "FROM localhost/labcluster/base:123 AS one\nFROM scratch"
    )
    with pytest.raises(BuildError, match="does not name 'base'"):
        pin_bases(text, {})


def test_the_machines_own_package_sources_are_used(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text(
        "# deb http://old.example/debian bookworm main\n"
        "deb [arch=amd64] http://mirror.example/debian bookworm main contrib\n"
        "deb-src http://mirror.example/debian bookworm main\n"
        "deb http://mirror.example/other nodistro main\n"
    )
    (tmp_path / "sources.list.d/debian.sources").write_text(
        "Types: deb\n# a remark\nURIs: http://mirror.example/security\nSuites: bookworm-security\n"
        "Components: main\n\n"
        "Enabled: no\nTypes: deb\nURIs: http://off.example\nSuites: bookworm\nComponents: main\n"
    )
    assert debian_sources("bookworm", tmp_path) == [
        "deb http://mirror.example/debian bookworm main contrib",
        "deb http://mirror.example/security bookworm-security main",
    ]
    assert debian_sources("trixie", tmp_path) == []


CATALOG = load(IMAGES / "catalog.yml")
KEYS = Keys(CATALOG, IMAGES.parent)


@pytest.mark.parametrize("entry", CATALOG.recipes, ids=lambda entry: entry.id)
def test_every_entry_of_our_catalog_can_be_built(entry: Any) -> None:
    assert KEYS.version(entry)
    assert KEYS.inputs(entry)
    folder = KEYS.folder(entry)
    if isinstance(entry, Programs | ModuleFolder):
        assert (folder / "go.mod").is_file()
        return
    bases = {use: f"{use}:1" for use in entry.uses if "/" not in use}
    text = pin_bases((folder / "Containerfile").read_text(), bases)
    assert text.startswith("#"), f"{folder.name}: the Containerfile begins by saying what the image is"
    programs = [use.split("/")[1] for use in entry.uses if "/" in use]
    for program in programs:
        assert re.search(rf"^COPY .*\b{program}\b", text, re.MULTILINE), f"{entry.id} never copies {program}"
    for line in text.splitlines():
        assert not re.match(r"FROM (?!scratch|[a-z-]+:1|[a-z]+( AS [a-z]+)?$)", line), f"{entry.id}: {line}"


def test_every_folder_of_images_has_an_entry() -> None:
    used = {KEYS.folder(entry).relative_to(IMAGES).parts[0] for entry in CATALOG.recipes}
    folders = {path.name for path in IMAGES.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders - used == {"builder"}


def test_bootstrap_images_have_the_names_that_kubeadm_asks_for() -> None:
    images = {entry.name: entry for entry in CATALOG.recipes if isinstance(entry, Image) and entry.bootstrap}
    tags = {name: entry.tag.format(version=KEYS.version(entry), key="") for name, entry in images.items()}
    kubernetes = f"v{KEYS.version(CATALOG.get('bin/kubernetes'))}"
    for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy"):
        assert tags[name] == kubernetes
    assert {"etcd", "coredns", "pause", "kube-router", "registry"} <= set(tags)
    assert all("{key}" not in entry.tag for entry in images.values())
