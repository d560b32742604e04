"""Packs folders: the same content gives the same bytes. Also folders of Go modules, packed as they are."""

from __future__ import annotations

import gzip
import json
import tarfile
from pathlib import Path

from builder.catalog import ModuleFolder
from builder.errors import BuildError
from builder.progress import Runner
from builder.store import EPOCH, Artifact, sha256_of

# A longer list would say little in the manifest.
_LISTED_FILES = 50


def pack(root: Path, target: Path, top: str = "") -> list[str]:
    """Pack everything below a folder, under `top/` if given; the files' names as the manifest lists them."""
    target.parent.mkdir(parents=True)
    with (
        target.open("wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6, mtime=EPOCH) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        names = add_tree(archive, root, f"{top}/" if top else "")
    return names if len(names) <= _LISTED_FILES else []


def build_module_folder(
    recipe: ModuleFolder, *, version: str, key: str, folder: Path, work: Path, runner: Runner
) -> list[Artifact]:
    """Pack one folder of a module that the go.mod in `folder` pins; go.sum vouches for its content."""
    answer = runner.output(["go", "-C", str(folder), "mod", "download", "-json", recipe.module])
    source = Path(json.loads(answer)["Dir"]) / recipe.path
    if not source.is_dir():
        raise BuildError(f"catalog: {recipe.id}: module {recipe.module} has no folder {recipe.path}")
    target = work / "result" / "archives" / f"{recipe.name}.tar.gz"
    names = pack(source, target, top=source.name)
    return [
        Artifact(
            name=recipe.name,
            kind="archive",
            version=version,
            file=str(target.relative_to(work / "result")),
            sha256=sha256_of(target),
            size=target.stat().st_size,
            licence=recipe.licence,
            source=recipe.source,
            key=key,
            build={"module": recipe.module, "path": recipe.path},
            files=names,
        )
    ]


def add_tree(archive: tarfile.TarFile, root: Path, prefix: str = "") -> list[str]:
    """Add everything below a folder in a fixed order with fixed times and root as owner; return the files."""
    names = []
    for path in sorted(root.rglob("*")):
        name = f"{prefix}{path.relative_to(root)}"
        entry = archive.gettarinfo(path, name)
        entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = EPOCH, 0, 0, "root", "root"
        if entry.isreg():
            entry.type, entry.linkname = tarfile.REGTYPE, ""
            with path.open("rb") as stream:
                archive.addfile(entry, stream)
        else:
            archive.addfile(entry)
        if not path.is_dir() or path.is_symlink():
            names.append(name)
    return names
