"""Which image a name means, and who may use it."""

from __future__ import annotations

import difflib
import re

from labcluster.errors import NotAllowedError, NotFoundError, UsageError
from labcluster.models.registry import ImageView
from labcluster.services.ports import ImageRegistry

COMMON = "common"

_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(
    rf"(?P<path>{_PART}(?:/{_PART})*)(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{{0,127}}))?(?:@(?P<digest>sha256:[0-9a-f]{{64}}))?"
)


def resolve(registry: ImageRegistry, name: str, project: str, default: str) -> tuple[str, str]:
    """Reference (with tag) and digest of the image that a member of `project` calls `name`.

    `python-ml` is a common image, `vision/net` one of project vision. Without a tag the newest is meant,
    or that of the site's default image if it is the one.
    """
    repository, tag, digest = split(registry.host, name)
    if digest is None and tag is None:
        usual, usual_tag, digest = split(registry.host, default)
        tag, digest = (usual_tag, digest) if usual == repository else (None, None)
    owner = repository.split("/", 1)[0]
    if owner not in (COMMON, project):
        raise NotAllowedError(
            f"image {name!r} belongs to {owner!r}: a run of project {project} may use images of"
            f" {COMMON}/ and {project}/"
        )
    if digest is None and tag is None:
        tag = newest_tag(registry.tags(repository))
        if tag is None:
            raise _absent(registry, name, repository, None, project)
    found = registry.digest(repository, digest or str(tag))
    if found is None:
        raise _absent(registry, name, repository, digest or tag, project)
    return f"{registry.host}/{repository}" + (f":{tag}" if tag else ""), found


def list_images(registry: ImageRegistry, projects: list[str]) -> list[ImageView]:
    """The common images and those of the given projects."""
    owners = {COMMON, *projects}
    images = []
    for repository in sorted(registry.repositories()):
        if repository.split("/", 1)[0] in owners:
            for tag in sorted(registry.tags(repository), key=_version_key):
                digest = registry.digest(repository, tag)
                if digest:
                    reference = f"{registry.host}/{repository}:{tag}"
                    images.append(ImageView(reference=reference, tag=tag, digest=digest))
    return images


def newest_tag(tags: object) -> str | None:
    """The tag that a name without one means: the highest version."""
    names = [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, (list, tuple)) else []
    return max(names, key=_version_key, default=None)


def split(host: str, name: str) -> tuple[str, str | None, str | None]:
    """Repository, tag and digest of what the user wrote."""
    text = name.removeprefix(f"{host}/")
    first = text.split("/", 1)[0]
    if "/" in text and ("." in first or ":" in first or first == "localhost"):
        raise NotAllowedError(f"image {name!r} is not in this cluster's registry {host}: push it there first")
    match = _NAME.fullmatch(text)
    if match is None:
        raise UsageError(f"{name!r} is not the name of an image, such as python-ml or {COMMON}/python-ml:1.0")
    path = match["path"]
    return (path if "/" in path else f"{COMMON}/{path}"), match["tag"], match["digest"]


def _absent(
    registry: ImageRegistry, name: str, repository: str, tag: str | None, project: str
) -> NotFoundError:
    """Nothing of that name, but perhaps something like it."""
    tags = list(registry.tags(repository))
    if tags and tag:
        near = difflib.get_close_matches(tag, tags, n=3, cutoff=0.3) or sorted(tags, key=_version_key)[-3:]
        return NotFoundError(f"image {name!r} is not in the registry: {repository} has {', '.join(near)}")
    usable = [r for r in registry.repositories() if r.split("/", 1)[0] in (COMMON, project)]
    short = {r.removeprefix(f"{COMMON}/"): r for r in usable}
    wanted = repository.removeprefix(f"{COMMON}/")
    near = difflib.get_close_matches(wanted, short, n=3, cutoff=0.4) or sorted(short)[:5]
    there = f"did you mean {', '.join(near)}?" if near else "the registry has none that you may use"
    return NotFoundError(f"image {name!r} is not in the registry: {there}")


def _version_key(tag: str) -> list[tuple[int, int, str]]:
    """Sorts 1.10 after 1.9, and `latest` after all."""
    if tag == "latest":
        return [(2, 0, "")]
    parts = re.findall(r"[0-9]+|[^0-9]+", tag)
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]
