"""Builds images and archives: mmdebstrap for the root file system, podman for the Containerfile."""

from __future__ import annotations

import json
import os
import re
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

from builder import machine
from builder.archives import add_tree, pack
from builder.catalog import Archive, Image, RootFileSystem
from builder.errors import BuildError
from builder.progress import Runner
from builder.store import EPOCH, Artifact, sha256_of

LOCAL = "localhost/labcluster"
# Nobody reads these in a cluster; licences stay.
_LEFT_OUT = ["/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*", "/usr/share/doc/*"]
_DPKG = [
    *(f"path-exclude={path}" for path in _LEFT_OUT),
    "path-include=/usr/share/doc/*/copyright",
]


_HOST_KEYS = ['"$1"/etc/ssh/ssh_host_*', '"$1"/etc/munge/munge.key', '"$1"/etc/ssl/private/*']


def short(key: str) -> str:
    """The part of a key that names things for people."""
    return key[:12]


@dataclass(frozen=True)
class Podman:
    """podman with the project's own configuration."""

    configuration: Path
    runner: Runner

    @property
    def environment(self) -> dict[str, str]:
        """The configuration lets builds work on hosts with low limits; layers get a fixed time."""
        return {**os.environ, "CONTAINERS_CONF": str(self.configuration), "SOURCE_DATE_EPOCH": str(EPOCH)}

    def run(self, *arguments: str) -> None:
        """Run podman, its output in the log."""
        self.runner.run(["podman", *arguments], env=self.environment)

    def output(self, *arguments: str) -> str:
        """Run podman for an answer."""
        return self.runner.output(["podman", *arguments], env=self.environment)

    def has(self, reference: str) -> bool:
        """Whether podman's storage holds an image."""
        try:
            self.output("image", "inspect", "--format", "{{.Id}}", reference)
        except BuildError:
            return False
        return True


@dataclass(frozen=True)
class Job:
    """One image or archive to build, with all that its recipe names resolved."""

    version: str
    key: str
    suite: str
    folder: Path  # the recipe's own files
    inputs: dict[str, Path]  # further files, by their path in the repository
    files: list[Path]  # finished programs and archives that the Containerfile may copy
    bases: dict[str, str]  # name of an image recipe -> its reference in podman's storage
    work: Path


def build(recipe: Image | Archive, job: Job, podman: Podman) -> list[Artifact]:
    """Build one recipe into `work/result`, laid out as in the store."""
    if os.geteuid() != 0:
        raise BuildError(f"{recipe.name}: images are built as root; run `sudo make artifacts`")
    context = _context(recipe, job, podman.runner)
    reference = f"{LOCAL}/{recipe.name}:{short(job.key)}"
    settings = job.work / "settings"
    arguments = {
        **machine.write_settings(settings),
        "SOURCE_DATE_EPOCH": str(EPOCH),
        "VERSION": job.version,
        "SUITE": job.suite,
    }
    podman.run(
        "build",
        "--quiet",
        "--isolation=chroot",  # needs no runtime and no cgroup of its own: works where containers are nested
        "--layers",
        f"--timestamp={EPOCH}",
        "--pull=never",
        "--security-opt=label=disable",
        f"--volume={settings}:{machine.MOUNT}:ro",
        *(f"--build-arg={name}={value}" for name, value in arguments.items()),
        f"--label=internal.labcluster.recipe={recipe.name}",
        f"--tag={reference}",
        f"--file={context}/Containerfile",
        str(context),
    )
    if isinstance(recipe, Archive):
        return [_archive(recipe, job, podman, reference)]
    if recipe.smoke:
        try_image(podman, reference, recipe.smoke)
    return [_image(recipe, job, podman, reference)]


def try_image(podman: Podman, reference: str, arguments: tuple[str, ...]) -> None:
    """Start an image once as strictly as the cluster does; it must come to a good end."""
    podman.run(
        "--runtime=runc",
        "run",
        "--rm",
        "--pull=never",
        "--network=none",
        "--read-only",
        "--read-only-tmpfs=false",
        "--tmpfs=/tmp",
        "--cap-drop=all",
        "--security-opt=no-new-privileges",
        reference,
        *arguments,
    )


def _context(recipe: Image | Archive, job: Job, runner: Runner) -> Path:
    context = job.work / "context"
    shutil.copytree(job.folder, context, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    for path, source in job.inputs.items():
        target = context / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        else:
            shutil.copy2(source, target)
    for file in job.files:
        (context / file.name).hardlink_to(file)
    if isinstance(recipe, Image) and recipe.rootfs:
        make_root_file_system(recipe.rootfs, job.suite, context / "rootfs.tar", runner)
    containerfile = context / "Containerfile"
    if not containerfile.is_file():
        raise BuildError(f"images/{recipe.name}: there is no Containerfile in {job.folder}")
    containerfile.write_text(pin_bases(containerfile.read_text(), job.bases))
    return context


def pin_bases(containerfile: str, bases: dict[str, str]) -> str:
    """Replace the local names behind FROM by exactly the images that the key was computed from."""

    def pinned(match: re.Match[str]) -> str:
        name = match[2]
        if name not in bases:
            raise BuildError(f"FROM {LOCAL}/{name}: the catalog entry does not name '{name}' under `uses`")
        return f"{match[1]}{bases[name]}"

    return re.sub(
        rf"^(FROM\s+|COPY --from=){re.escape(LOCAL)}/([a-z0-9-]+)", pinned, containerfile, flags=re.M
    )


def make_root_file_system(rootfs: RootFileSystem, suite: str, target: Path, runner: Runner) -> None:
    """Install Debian packages into a tar file."""
    runner.run(
        [
            "mmdebstrap",
            f"--variant={rootfs.variant}",
            "--mode=root",
            '--aptopt=Acquire::Languages "none"',
            '--aptopt=APT::Install-Recommends "false"',
            *(f"--dpkgopt={option}" for option in _DPKG),
            f"--include={','.join(rootfs.packages)}",
            # Keys that packages make for one host must never be in an image, not even in a lower layer of it.
            f"--customize-hook=rm -f {' '.join(_HOST_KEYS)}",
            suite,
            str(target),
            *machine.debian_sources(suite),
        ],
        env={**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH)},
    )


def _image(recipe: Image, job: Job, podman: Podman, reference: str) -> Artifact:
    tag = recipe.tag.format(version=job.version, key=job.key[:8])
    repository = recipe.repository or f"labcluster/{recipe.name}"
    layout = job.work / "layout"
    podman.run("push", "--quiet", reference, f"oci:{layout}:{tag}")
    index = json.loads((layout / "index.json").read_text())
    target = job.work / "result" / "images" / f"{recipe.name}.tar"
    target.parent.mkdir(parents=True)
    with tarfile.open(target, "w") as archive:
        add_tree(archive, layout)
    return Artifact(
        name=recipe.name,
        kind="image",
        version=job.version,
        file=str(target.relative_to(job.work / "result")),
        sha256=sha256_of(target),
        size=target.stat().st_size,
        licence=recipe.licence,
        source=recipe.source,
        key=job.key,
        build=_how(recipe, job),
        digest=index["manifests"][0]["digest"],
        reference=reference if recipe.local else f"{repository}:{tag}",
        bootstrap=recipe.bootstrap,
    )


def _archive(recipe: Archive, job: Job, podman: Podman, reference: str) -> Artifact:
    target = job.work / "result" / "archives" / f"{recipe.name}.tar.gz"
    root = Path(podman.output("image", "mount", reference))
    try:
        names = pack(root, target)
    finally:
        podman.output("image", "umount", reference)
    return Artifact(
        name=recipe.name,
        kind="archive",
        version=job.version,
        file=str(target.relative_to(job.work / "result")),
        sha256=sha256_of(target),
        size=target.stat().st_size,
        licence=recipe.licence,
        source=recipe.source,
        key=job.key,
        build=_how(recipe, job),
        files=names,
    )


def _how(recipe: Image | Archive, job: Job) -> dict[str, object]:
    how: dict[str, object] = {"suite": job.suite, "containerfile": f"images/{job.folder.name}/Containerfile"}
    if recipe.uses:
        how["uses"] = list(recipe.uses)
    if isinstance(recipe, Image) and recipe.rootfs:
        how["packages"] = list(recipe.rootfs.packages)
    return how


def restore(podman: Podman, archive: Path, name: str, key: str) -> str:
    """Have an image in podman's storage, to build from or to run; return its reference."""
    reference = f"{LOCAL}/{name}:{short(key)}"
    if not podman.has(reference):
        loaded = podman.output("pull", "--quiet", f"oci-archive:{archive}").splitlines()[-1]
        podman.run("tag", loaded, reference)
    return reference


def forget(podman: Podman, name: str, key: str, *, keep_current: bool) -> None:
    """Remove the images of earlier keys from podman's storage; the current one where the store is enough."""
    listed = podman.output("images", "--format", "{{.Repository}}:{{.Tag}}", f"{LOCAL}/{name}").splitlines()
    for reference in listed:
        if not (keep_current and reference.endswith(f":{short(key)}")):
            try:
                podman.output("rmi", reference)
            except BuildError:
                continue  # a container still uses it: it goes the next time
