"""Builds programs with Go: pinned by go.mod and go.sum, without paths of this machine in the result."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from builder.catalog import Programs
from builder.progress import Runner
from builder.store import Artifact, sha256_of


def build(
    recipe: Programs, *, version: str, key: str, folder: Path, work: Path, runner: Runner
) -> list[Artifact]:
    """Build the programs of one recipe into `work`, laid out as in the store."""
    source = work / "source"
    shutil.copytree(folder, source, symlinks=True)
    target = work / "result" / "bin" / recipe.name
    target.mkdir(parents=True)
    ldflags = " ".join(["-s -w", *(flag.format(version=version) for flag in recipe.ldflags)])
    environment = {
        **os.environ,
        "CGO_ENABLED": "1" if recipe.cgo else "0",
        "CGO_LDFLAGS": recipe.cgo_ldflags,
        "GOFLAGS": "-mod=readonly -buildvcs=false",
        "GOWORK": "off",
    }
    built = work / "built"
    built.mkdir()
    packages = list(recipe.programs.values())
    command = ["go", "build", "-trimpath", "-ldflags", ldflags, "-o", f"{built}/"]
    runner.run([*command, *packages], cwd=source, env=environment)
    go_version = runner.output(["go", "env", "GOVERSION"], env=environment)
    flags = {
        "go": go_version,
        "cgo": recipe.cgo,
        "ldflags": ldflags,
        **({"cgo_ldflags": recipe.cgo_ldflags} if recipe.cgo_ldflags else {}),
    }
    artifacts = []
    for name, package in recipe.programs.items():
        path = target / name
        (built / _program_name(package, source)).rename(path)
        artifacts.append(
            Artifact(
                name=name,
                kind="binary",
                version=version,
                file=str(path.relative_to(work / "result")),
                sha256=sha256_of(path),
                size=path.stat().st_size,
                licence=recipe.licence,
                source=recipe.source,
                key=key,
                build={**flags, "package": package},
                files=[name],
            )
        )
    return artifacts


def _program_name(package: str, source: Path) -> str:
    """The name that `go build` gives a program: the last part of its package, without a major version."""
    if package in (".", "./"):
        module = re.search(r"^module (\S+)", (source / "go.mod").read_text(), re.MULTILINE)
        package = module[1] if module else package
    parts = package.rstrip("/").split("/")
    return parts[-2] if re.fullmatch(r"v\d+", parts[-1]) and len(parts) > 1 else parts[-1]
