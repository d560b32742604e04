"""Charts and releases through Helm's SDK: the only module that touches it.

A chart is assembled in memory from its folder and the dependencies that its Chart.yaml names by
`file://`: nothing is vendored, and what a release was made from has one digest. That digest is kept as a
label of the release, so that "is this already so?" costs one list of releases and no rendering.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import sys
import tarfile
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import helm_python
import yaml

from labcluster.errors import LabclusterError, NotFoundError, UnreachableError, UsageError

if TYPE_CHECKING:
    # Loading the client takes a second, and rendering needs none of it.
    from labcluster.adapters.kube import KubeApi

Json = dict[str, Any]

# Part of every digest: raise it when the same input would be deployed differently.
RECIPE = "1"
DIGEST_LABEL = "labcluster.internal/content"
KEPT_REVISIONS = 5
# What a release never needs: values for tests, upstream's tests, text for readers.
_LEFT_OUT = re.compile(r"^(ci|tests|charts)/|(^|/)\.|^README|^Chart\.lock$")
_YAML_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class HelmError(LabclusterError):
    """Helm refused or failed; the sentence is its own."""


@dataclass(frozen=True)
class Chart:
    """A chart and its dependencies, as the files of one archive."""

    name: str
    files: Mapping[str, bytes]

    @classmethod
    def read(cls, folder: Path, archives: Path | None = None) -> Chart:
        """The chart in a folder; `archives` holds packed dependencies, if not the place in Chart.yaml."""
        files = _folder_files(folder)
        return cls(folder.name, {**files, **_dependency_files(folder, files, archives)})

    @property
    def digest(self) -> str:
        """Of content only: no times, no order, no compression."""
        digest = hashlib.sha256(RECIPE.encode())
        for name, data in sorted(self.files.items()):
            digest.update(f"\n{name} {len(data)}\n".encode() + data)
        return digest.hexdigest()

    def render(self, values: Json, *, name: str, namespace: str, upgrade: bool = False) -> list[Json]:
        """The objects that a release of this chart consists of, hooks left out; needs no cluster."""
        with _told(), self.load() as chart:
            texts = chart.render(
                values, name=name, namespace=namespace, is_install=not upgrade, is_upgrade=upgrade
            )
        found = (item for path, text in texts.items() if path.endswith(".yaml") for item in objects(text))
        return [item for item in found if "helm.sh/hook" not in item["metadata"].get("annotations", {})]

    def load(self) -> helm_python.Chart:
        """A handle of the SDK's; a context manager."""
        raw = io.BytesIO()
        with (
            gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=1, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w|") as archive,
        ):
            for name, data in sorted(self.files.items()):
                entry = tarfile.TarInfo(f"{self.name}/{name}")
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
        return helm_python.Chart.load_archive(raw.getvalue())


@dataclass(frozen=True)
class Release:
    """What should be deployed."""

    name: str
    namespace: str
    chart: Chart
    values: Json = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Of everything that decides what is deployed; short enough for a label."""
        content = [self.name, self.namespace, self.chart.digest, self.values]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:40]


@dataclass(frozen=True)
class Deployed:
    """The newest revision of a release, as Helm remembers it."""

    name: str
    namespace: str
    revision: int
    status: str
    digest: str
    at: datetime | None

    @property
    def pending(self) -> bool:
        """Helm began something here and never said how it ended; it refuses every further change."""
        return self.status.startswith("pending-") or self.status == "uninstalling"


class Helm:
    """The releases of one cluster."""

    def __init__(self, kubeconfig: Path) -> None:
        self._kubeconfig = kubeconfig

    def deployed(self) -> dict[tuple[str, str], Deployed]:
        """Every release by (namespace, name), whatever its state."""
        with _told(), self._config("default") as config:
            found = [_deployed(item) for item in config.list(all_states=True, all_namespaces=True)]
        return {(item.namespace, item.name): item for item in found}

    def manifest(self, release: Deployed) -> str:
        """What the newest revision consists of, as one YAML stream."""
        with _told(), self._config(release.namespace) as config:
            # Not config.status(): it also looks up every object of the release, which takes seconds.
            return str(config.get_all(release.name)["summary"].get("manifest", ""))

    def apply(self, release: Release, before: Deployed | None) -> Deployed:
        """Install or upgrade, without waiting for pods: killed while waiting, we leave nothing pending."""
        with _told(), self._config(release.namespace) as config, release.chart.load() as chart:
            labels = {DIGEST_LABEL: release.digest}
            if before is None:
                answer = config.install(chart, release.name, release.values, labels=labels, timeout=120)
            else:
                answer = config.upgrade(
                    chart, release.name, release.values,
                    labels=labels, timeout=120, reset_values=True, max_history=KEPT_REVISIONS,
                )  # fmt: skip
        return _deployed(answer)

    def forget(self, revision: Deployed, api: KubeApi) -> None:
        """Drop Helm's record of one revision; its objects stay, and the next change takes them over."""
        record = f"sh.helm.release.v1.{revision.name}.v{revision.revision}"
        api.delete(f"/api/v1/namespaces/{revision.namespace}/secrets/{record}")

    def uninstall(self, release: Deployed) -> None:
        """Remove a release and its objects, and wait for their end."""
        with _told(), self._config(release.namespace) as config:
            config.uninstall(release.name, ignore_not_found=True, wait="watcher", timeout=120)

    def _config(self, namespace: str) -> helm_python.Config:
        return helm_python.Config(
            kubeconfig_path=self._kubeconfig, namespace=namespace, qps=100.0, burst_limit=200
        )


def objects(manifest: str) -> list[Json]:
    """The objects of a YAML stream."""
    return [item for item in yaml.load_all(manifest, Loader=_YAML_LOADER) if item]


def parts(manifest: str, namespace: str, kinds: Container[str]) -> Iterator[tuple[str, str, str]]:
    """(kind, namespace, name) of a manifest's objects of some kinds.

    Only those are parsed: a release with CRDs has a megabyte of YAML.
    """
    for text in re.split(r"^---[ \t]*$", manifest, flags=re.MULTILINE):
        kind = re.search(r"^kind: *['\"]?(\w+)", text, flags=re.MULTILINE)
        if kind and kind[1] in kinds:
            for item in objects(text):
                yield kind[1], item["metadata"].get("namespace", namespace), item["metadata"]["name"]


def readable(found: Iterable[Json]) -> str:
    """Objects as text for a diff: in a fixed order, without the content of Secrets."""
    lines = []
    for item in sorted(found, key=lambda item: (item["kind"], item["metadata"]["name"])):
        if item["kind"] == "Secret":
            secret = [key for key in ("data", "stringData") if key in item]
            item = {**item, **{key: dict.fromkeys(item[key], "***") for key in secret}}
        lines.append(yaml.safe_dump(item, sort_keys=True, width=110))
    return "---\n".join(lines)


def _deployed(item: Mapping[str, Any]) -> Deployed:
    at = item.get("deployed_at")
    return Deployed(
        name=str(item["name"]),
        namespace=str(item["namespace"]),
        revision=int(item["revision"]),
        status=str(item["status"]),
        digest=str((item.get("labels") or {}).get(DIGEST_LABEL, "")),
        at=datetime.fromisoformat(at).astimezone(UTC) if at else None,
    )


def _folder_files(folder: Path) -> dict[str, bytes]:
    if not (folder / "Chart.yaml").is_file():
        raise NotFoundError(f"{folder} is no chart: it has no Chart.yaml")
    names = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in names.items() if not _LEFT_OUT.search(name)}


def _archive_files(archive: Path) -> dict[str, bytes]:
    """The files of a packed chart, without its top folder."""
    files = {}
    with tarfile.open(archive) as packed:
        for entry in packed:
            _, _, name = entry.name.removeprefix("./").partition("/")
            data = packed.extractfile(entry)
            if data is not None and not _LEFT_OUT.search(name):
                files[name] = data.read()
    return files


def _dependency_files(folder: Path, files: Mapping[str, bytes], archives: Path | None) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for dependency in objects(files["Chart.yaml"].decode())[0].get("dependencies", []):
        name, repository = dependency["name"], dependency["repository"]
        if not repository.startswith("file://"):
            raise UsageError(f"chart {folder.name}: dependency {name} must be a file:// one, none is fetched")
        source = folder / repository.removeprefix("file://")
        packed = source.name.endswith((".tgz", ".tar.gz"))
        if packed and archives is not None:
            source = archives / source.name
        if not source.exists():
            hint = "; `make artifacts` builds it" if packed else ""
            raise NotFoundError(f"chart {folder.name}: its dependency {name} is not at {source}{hint}")
        content = _archive_files(source) if packed else _folder_files(source)
        found |= {f"charts/{name}/{path}": data for path, data in content.items()}
    return found


@contextmanager
def _told() -> Iterator[None]:
    """Errors of the SDK as ours."""
    try:
        yield
    except helm_python.HelmKubeError as error:
        raise UnreachableError(f"the cluster does not answer Helm: {error.detail}") from error
    except helm_python.HelmValuesError as error:
        raise UsageError(error.detail) from error
    except helm_python.HelmError as error:
        raise HelmError(error.detail) from error


def main(arguments: list[str]) -> None:
    """Print what a chart renders: CHART [VALUES]; without values those of its ci folder."""
    folder = Path(arguments[0]).resolve()
    values = Path(arguments[1]) if len(arguments) > 1 else folder / "ci" / "values.yaml"
    given = objects(values.read_text()) or [{}]
    rendered = Chart.read(folder).render(given[0], name=folder.name, namespace="labcluster")
    yaml.safe_dump_all(rendered, sys.stdout, sort_keys=False)


if __name__ == "__main__":
    main(sys.argv[1:])
