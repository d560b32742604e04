"""The catalog: what is built, from what. Closed: a key nobody knows is refused, not ignored."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from builder.errors import BuildError

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*$")]
Text = Annotated[str, StringConstraints(min_length=1)]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def used_id(use: str) -> str:
    """The id of the recipe that an item of `uses` names."""
    return f"bin/{use.split('/')[0]}" if "/" in use else use


class Recipe(_Closed):
    """What every entry has.

    `version` is text, `project` (pyproject.toml's), `module:<path>` (what go.mod requires) or `of:<recipe>`.
    """

    name: Name
    version: Text
    licence: Text
    source: Text
    folder: Text | None = None
    inputs: tuple[Text, ...] = ()  # further files or folders of the repository that the recipe reads
    uses: tuple[Text, ...] = ()  # images, module folders (`name`), programs (`set/program`) it is made from
    on_request: bool = False  # built only when it is named: no site needs it

    @property
    def id(self) -> str:
        """What distinguishes recipes: programs and the image they go into may share a name."""
        return self.name

    def used_ids(self) -> tuple[str, ...]:
        """The recipes this one is built from, each once, in order."""
        return tuple(dict.fromkeys(used_id(use) for use in self.uses))


class Programs(Recipe):
    """Programs of one Go module graph: `tool` lines of a go.mod, or the main package of a folder."""

    kind: Literal["programs"]
    programs: dict[Name, Text]  # file name in the store -> package
    cgo: bool = False
    cgo_ldflags: str = ""
    ldflags: tuple[Text, ...] = ()

    @property
    def id(self) -> str:
        """Programs are named by where they lie in the store."""
        return f"bin/{self.name}"


class RootFileSystem(_Closed):
    """Debian packages that mmdebstrap installs first; the Containerfile finds them as rootfs.tar."""

    variant: Literal["apt", "minbase"] = "apt"
    packages: tuple[Text, ...]


class Image(Recipe):
    """A container image from the Containerfile in its folder."""

    kind: Literal["image"]
    repository: Text | None = None  # default labcluster/<name>
    tag: Text = "{version}-{key}"  # {key}: eight digits of the content key: a tag never changes its meaning
    rootfs: RootFileSystem | None = None
    smoke: tuple[Text, ...] = ()  # arguments of a first start: read-only, no network, the image's own user
    bootstrap: bool = False  # preloaded into containerd: the registry cannot serve its own start
    local: Literal[False, "base", "node"] = False  # base: only built from; node: podman runs it as a host


class Archive(Recipe):
    """A tar.gz to unpack at `/`: the file system that the Containerfile's last stage leaves."""

    kind: Literal["archive"]


class ModuleFolder(Recipe):
    """A tar.gz of one folder of a Go module, as it is: what upstream ships beside a program, like a chart."""

    kind: Literal["module-folder"]
    module: Text
    path: Text


AnyKind = Programs | Image | Archive | ModuleFolder
AnyRecipe = Annotated[AnyKind, Field(discriminator="kind")]


class Catalog(_Closed):
    """All of images/catalog.yml."""

    schema_: Literal[1] = Field(alias="schema")
    suite: Name  # the Debian release that every root file system is made of
    recipes: tuple[AnyRecipe, ...]

    def get(self, identity: str) -> AnyKind:
        """The recipe of this id; a wrong one is answered with the known ones."""
        for recipe in self.recipes:
            if recipe.id == identity:
                return recipe
        known = ", ".join(recipe.id for recipe in self.recipes)
        raise BuildError(f"catalog: nothing is called '{identity}'; known: {known}")

    def ordered(self, names: list[str]) -> list[AnyKind]:
        """The named recipes (if none is named, what sites need) with what each is built from before it."""
        done: dict[str, AnyKind] = {}

        def visit(identity: str, path: tuple[str, ...]) -> None:
            if identity in path:
                raise BuildError(f"catalog: {' -> '.join([*path, identity])} is a circle")
            if identity in done:
                return
            recipe = self.get(identity)
            for used in recipe.used_ids():
                visit(used, (*path, identity))
            done[identity] = recipe

        wanted = [
            recipe.id
            for recipe in self.recipes
            if ({recipe.id, recipe.name} & set(names) if names else not recipe.on_request)
        ]
        for name in names:
            if name not in {part for recipe in self.recipes for part in (recipe.id, recipe.name)}:
                self.get(name)
        for identity in wanted:
            visit(identity, ())
        return list(done.values())


def load(path: Path) -> Catalog:
    """Read and check a catalog; every fault is one line with its place."""
    try:
        raw = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise BuildError(f"catalog: cannot read {path}: {str(error).splitlines()[0]}") from error
    try:
        catalog = Catalog.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(_place(raw, first["loc"]))
        raise BuildError(f"catalog: {place}: {first['msg']} ({path.name})") from error
    _check_names(catalog)
    return catalog


def _place(raw: object, location: tuple[int | str, ...]) -> list[str]:
    """A path like `recipes.etcd.versoin`: entries by name, not by number."""
    place: list[str] = []
    node = raw
    entry = False
    for step in location:
        if isinstance(step, int) and isinstance(node, list):
            node = node[step]
            place.append(str(node.get("name", step)) if isinstance(node, dict) else str(step))
            entry = True
            continue
        if not entry:  # behind an entry pydantic names the kind that it was checked as
            place.append(str(step))
            node = node.get(step) if isinstance(node, dict) else None
        entry = False
    return place


def _check_names(catalog: Catalog) -> None:
    ids = [recipe.id for recipe in catalog.recipes]
    for identity in ids:
        if ids.count(identity) > 1:
            raise BuildError(f"catalog: '{identity}' is there twice; names are unique")
    for recipe in catalog.recipes:
        for use in recipe.uses:
            used = catalog.get(used_id(use))
            if isinstance(used, Programs) and use.split("/")[1] not in used.programs:
                raise BuildError(f"catalog: {recipe.id} uses '{use}', but {used.id} builds no such program")
    catalog.ordered([])


def go_module_version(go_mod: str, module: str) -> str:
    """The version a go.mod requires of a module, without the leading v: written down in one place only."""
    found = re.search(rf"^\s*(?:require )?{re.escape(module)} v(\S+)", go_mod, re.MULTILINE)
    if not found:
        raise BuildError(
            f"catalog: go.mod does not require {module}; `go get {module}@VERSION` in its folder"
        )
    return found[1].removesuffix("+incompatible")
