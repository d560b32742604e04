"""The command line: decides what must be built, in which order, and reports."""

from __future__ import annotations

import argparse
import json
import os
import sys
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path

from builder import archives, containers, programs
from builder.catalog import AnyKind, Catalog, Image, ModuleFolder, Programs, load, used_id
from builder.errors import BuildError
from builder.keys import Keys
from builder.progress import Processes, Progress, Runner
from builder.store import Artifact, Cache, Store, locked

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Builder:
    """Wires catalog, keys, cache and store; one method a verb."""

    catalog: Catalog
    root: Path
    cache: Cache
    store: Store
    progress: Progress
    keys: Keys = field(init=False)
    results: dict[str, list[Artifact]] = field(default_factory=dict)
    processes: Processes = field(default_factory=Processes)

    def __post_init__(self) -> None:
        self.keys = Keys(self.catalog, self.root)

    def state(self, recipe: AnyKind) -> str:
        """current | cached | to build, without changing anything."""
        found = self.cache.find(self.keys.key(recipe))
        if not found:
            return "to build"
        return "current" if not self._delivered(recipe) or self.store.has(found) else "cached"

    def make_all(self, recipes: list[AnyKind]) -> list[str]:
        """Have all of these in the store, one program beside one image; the ids of those that changed.

        Compilers keep every processor busy, while images mostly wait for packages. BuildError of the first
        that fails: what runs beside it is ended.
        """
        by_id = {recipe.id: recipe for recipe in recipes}
        order = TopologicalSorter({recipe.id: recipe.used_ids() for recipe in recipes})
        order.prepare()
        ready: list[str] = []
        running: dict[Future[bool], str] = {}
        changed: list[str] = []
        with ThreadPoolExecutor(2) as pool:
            try:
                while order.is_active():
                    ready += order.get_ready()
                    for identity in sorted(ready, key=list(by_id).index):
                        compiles = isinstance(by_id[identity], Programs)
                        if all(compiles != isinstance(by_id[other], Programs) for other in running.values()):
                            running[pool.submit(self.make, by_id[identity])] = identity
                            ready.remove(identity)
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        identity = running.pop(future)
                        changed += [identity] * future.result()
                        order.done(identity)
            except BaseException:
                self.processes.end()
                raise
        return changed

    def make(self, recipe: AnyKind) -> bool:
        """Have one recipe in the store; says whether anything had to be done."""
        key = self.keys.key(recipe)
        found = self.cache.find(key)
        built = False
        if found is None:
            lock = self.cache.root / "locks" / recipe.id.replace("/", "-")
            with locked(lock, waiting=lambda: self.progress.note(recipe.id, "another build is making it")):
                found = self.cache.find(key)
                if found is None:
                    with self.progress.step(recipe.id):
                        found = self._build(recipe, key)
                    built = True
        self.results[recipe.id] = found
        placed = self._delivered(recipe) and not self.store.has(found)
        if placed:
            self.store.publish(found, self.cache.folder(key))
        if isinstance(recipe, Image) and recipe.local:
            containers.restore(self._podman(recipe), self._file(recipe), recipe.name, key)
        if placed and not built:
            self.progress.line(recipe.id, "put into the store")
        elif not built:
            self.progress.skip()
        return built or placed

    def delivered(self, recipes: list[AnyKind]) -> set[tuple[str, str]]:
        """Kind and name of everything that these recipes put into the store."""
        return {
            (item.kind, item.name)
            for recipe in recipes
            if self._delivered(recipe)
            for item in self.results[recipe.id]
        }

    def _delivered(self, recipe: AnyKind) -> bool:
        return not (isinstance(recipe, Image) and recipe.local == "base")

    def _file(self, recipe: AnyKind) -> Path:
        return self.cache.folder(self.keys.key(recipe)) / self.results[recipe.id][0].file

    def _runner(self, recipe: AnyKind) -> Runner:
        return Runner(self.cache.root / "log" / f"{recipe.id.replace('/', '-')}.log", self.processes)

    def _podman(self, recipe: AnyKind) -> containers.Podman:
        return containers.Podman(self.root / "images" / "containers.conf", self._runner(recipe))

    def _build(self, recipe: AnyKind, key: str) -> list[Artifact]:
        version, folder = self.keys.version(recipe), self.keys.folder(recipe)
        with self.cache.workspace(recipe.name) as work:
            runner = self._runner(recipe)
            if isinstance(recipe, Programs):
                made = programs.build(
                    recipe, version=version, key=key, folder=folder, work=work, runner=runner
                )
            elif isinstance(recipe, ModuleFolder):
                made = archives.build_module_folder(
                    recipe, version=version, key=key, folder=folder, work=work, runner=runner
                )
            else:
                podman = self._podman(recipe)
                job = containers.Job(
                    version=version,
                    key=key,
                    suite=self.catalog.suite,
                    folder=folder,
                    inputs={path: self.root / path for path in recipe.inputs},
                    files=[self._used_file(use) for use in recipe.uses if not self._is_image(use)],
                    bases={use: self._base(use, podman) for use in recipe.uses if self._is_image(use)},
                    work=work,
                )
                made = containers.build(recipe, job, podman)
                containers.forget(podman, recipe.name, key, keep_current=isinstance(recipe, Image))
            self.cache.add(key, work / "result", made)
        return made

    def _is_image(self, use: str) -> bool:
        return isinstance(self.catalog.get(used_id(use)), Image)

    def _used_file(self, use: str) -> Path:
        recipe = self.catalog.get(used_id(use))
        name = use.split("/")[-1]
        found = [item for item in self.results[recipe.id] if item.name == name]
        return self.cache.folder(self.keys.key(recipe)) / found[0].file

    def _base(self, use: str, podman: containers.Podman) -> str:
        recipe = self.catalog.get(use)
        return containers.restore(podman, self._file(recipe), recipe.name, self.keys.key(recipe))


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="images/build.py",
        description="Build programs, images and archives of images/catalog.yml into the artifact store. "
        "What has not changed is not built again.",
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="only these and what they need (default: all that a site needs)",
    )
    parser.add_argument("--store", type=Path, help="default: build/store")
    parser.add_argument("--list", action="store_true", help="show what there is and its state")
    parser.add_argument("--dry-run", action="store_true", help="show what would be built")
    parser.add_argument(
        "--verify", action="store_true", help="compare each file with its sha256; build nothing"
    )
    parser.add_argument(
        "--prune", action="store_true", help="also forget results that no entry needs any more"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    return parser


def main(argv: list[str] | None = None, root: Path = ROOT) -> int:
    """Run the tool; the exit status is 0, 1 (a build failed or a file is damaged), 2 (usage) or 130."""
    options = _arguments().parse_args(argv)
    try:
        return _run(options, root)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: what was finished is in the store, the rest was removed", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace, root: Path) -> int:
    cache = Path(os.environ.get("LABCLUSTER_CACHE") or Path.home() / ".cache" / "labcluster")
    catalog = load(root / "images" / "catalog.yml")
    store = Store((options.store or root / "build" / "store").resolve())
    if options.verify:
        return _verify(store, as_json=options.json)
    recipes = catalog.ordered(options.names)
    progress = Progress(len(recipes), quiet=options.json)
    builder = Builder(catalog, root, Cache(cache), store, progress)
    if options.list or options.dry_run:
        return _list(builder, recipes, options)
    if warning := store.mend():
        print(f"warning: {warning}", file=sys.stderr)
    changed = builder.make_all(recipes)
    if not options.names:
        changed += [item.name for item in store.retain(builder.delivered(recipes))]
    if options.prune:
        builder.cache.prune({builder.keys.key(recipe) for recipe in catalog.recipes})
    if options.json:
        print(json.dumps({"changed": changed, "manifest": str(store.root / "manifest.json")}))
    else:
        same = sum(recipe.id not in changed for recipe in recipes)
        print(f"store: {len(changed)} changed, {same} up to date ({store.root})", file=sys.stderr)
    return 0


def _verify(store: Store, *, as_json: bool) -> int:
    artifacts = store.artifacts()
    if not artifacts:
        raise BuildError(f"store: {store.root} is empty; run `make artifacts`")
    faults = store.faults(thorough=True)
    if as_json:
        bad = [{"file": item.file, "fault": words} for item, words in faults]
        print(json.dumps({"artifacts": len(artifacts), "faults": bad}))
    else:
        for item, words in faults:
            print(f"error: store: {item.file} {words}; run `make artifacts` to repair it", file=sys.stderr)
        if not faults:
            print(f"{len(artifacts)} artifacts are sound")
    return 1 if faults else 0


def _list(builder: Builder, recipes: list[AnyKind], options: argparse.Namespace) -> int:
    rows = []
    for recipe in recipes:
        try:
            state, version = builder.state(recipe), builder.keys.version(recipe)
        except (BuildError, OSError) as error:
            state, version = f"cannot be built: {error}", "?"
        if options.list or state != "current":
            rows.append({"name": recipe.id, "kind": recipe.kind, "version": version, "state": state})
    if options.json:
        print(json.dumps(rows))
    else:
        for row in rows:
            print(f"{row['name']:<30} {row['kind']:<9} {row['version']:<14} {row['state']}")
        if not rows:
            print("nothing to do")
    return 0
