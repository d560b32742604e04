"""buildah and skopeo of this machine, as the person who calls labctl: standard library only.

Their credential is a login of an hour that the portal has handed out. It lies in a file of the person's own,
which is removed at the end, and never in an argument.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from labcluster.errors import LabclusterError, UsageError

_BUILDAH, _SKOPEO = "buildah", "skopeo"
_STDERR = 2
_NAMES = ("Containerfile", "Dockerfile")


class ImageTools:
    """A context manager: the login's file is there inside of it."""

    def __init__(self, login: Mapping[str, Any]) -> None:
        self._login = login
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> ImageTools:
        """Write the login where only its owner can read it."""
        self._folder = tempfile.TemporaryDirectory(prefix="labctl-", dir=os.environ.get("XDG_RUNTIME_DIR"))
        pair = f"{self._login['username']}:{self._login['password']}".encode()
        content = {"auths": {self._login["registry"]: {"auth": base64.b64encode(pair).decode()}}}
        self._file("auth.json").write_text(json.dumps(content))
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the login."""
        if self._folder is not None:
            self._folder.cleanup()

    def reference(self, name: str) -> str:
        """An image's name with its registry."""
        registry = self._login["registry"]
        return name if name.startswith(f"{registry}/") else f"{registry}/{name}"

    def build(self, file: str, context: str, reference: str, arguments: Sequence[str]) -> None:
        """Build an image into this person's storage on this machine."""
        given = [word for argument in arguments for word in ("--build-arg", argument)]
        # chroot needs nothing but a user namespace; no network or cgroup is set up for the steps.
        self._run(
            _BUILDAH, "build-using-dockerfile", "--isolation=chroot", "--layers", "--format=oci",
            f"--authfile={self._file('auth.json')}", f"--file={file}", f"--tag={reference}", *given, context,
        )  # fmt: skip

    def push(self, source: str, reference: str) -> dict[str, str]:
        """Push what `source` names to `reference`; reference and digest."""
        shared = [f"--authfile={self._file('auth.json')}", f"--digestfile={self._file('digest')}"]
        target = f"docker://{reference}"
        if source.startswith(("oci:", "oci-archive:", "docker-archive:")):
            self._run(_SKOPEO, "copy", *shared, source, target)
        else:
            self._run(_BUILDAH, "push", *shared, source, target)
        return {"reference": reference, "digest": self._file("digest").read_text().strip()}

    def _file(self, name: str) -> Path:
        if self._folder is None:
            raise RuntimeError("use this inside a with statement")
        return Path(self._folder.name) / name

    def _run(self, program: str, *arguments: str) -> None:
        if shutil.which(program) is None:
            raise UsageError(f"{program} is not on this machine: use labctl image on a login node")
        # What they print is progress: standard output is for labctl's own answer.
        done = subprocess.run([program, *arguments], stdin=subprocess.DEVNULL, stdout=_STDERR, check=False)
        if done.returncode:
            raise LabclusterError(f"{program} {arguments[0]} failed, see above")


def containerfile_in(context: str) -> str | None:
    """The Containerfile of a folder, under either of its names."""
    return next((str(file) for name in _NAMES if (file := Path(context) / name).is_file()), None)


def archive_of(source: str) -> str | None:
    """`source` as the tools name an archive or a folder with an image; None if it is no file at all."""
    path = Path(source)
    if path.is_dir():
        if not (path / "oci-layout").is_file():
            raise UsageError(f"{source} is a folder without an image in OCI's layout")
        return f"oci:{source}"
    if not path.is_file():
        return None
    try:
        with tarfile.open(path) as archive:
            names = {member.name.removeprefix("./") for member in archive}
    except (OSError, tarfile.TarError) as error:
        raise UsageError(f"{source} is no archive of an image: {error}") from None
    for name, kind in (("oci-layout", "oci-archive"), ("manifest.json", "docker-archive")):
        if name in names:
            return f"{kind}:{source}"
    raise UsageError(f"{source} holds no image: neither OCI's layout nor what docker save writes")
