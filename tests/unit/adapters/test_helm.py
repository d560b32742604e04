"""Charts as the Helm adapter assembles them. No cluster: what talks to one is tried in e2e."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest
from labcluster.adapters.helm import Chart, HelmError, Release, objects, parts, readable
from labcluster.errors import NotFoundError, UsageError

CONFIG = """\
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ include "lib.name" . }}
data:
  colour: {{ required "colour is needed" .Values.colour }}
"""


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def metadata(name: str, *dependencies: str, kind: str = "application") -> str:
    lines = [f"apiVersion: v2\nname: {name}\nversion: 0.1.0\ntype: {kind}\n"]
    if dependencies:
        lines.append("dependencies:\n" + "".join(dependencies))
    return "".join(lines)


def dependency(name: str, repository: str) -> str:
    return f"  - {{name: {name}, version: 0.1.0, repository: '{repository}'}}\n"


@pytest.fixture
def library(tmp_path: Path) -> Path:
    template = '{{- define "lib.name" -}}{{ .Release.Name }}-config{{- end }}'
    return write(
        tmp_path / "lib", {"Chart.yaml": metadata("lib", kind="library"), "templates/_names.tpl": template}
    )


@pytest.fixture
def chart(tmp_path: Path, library: Path) -> Path:
    files = {
        "Chart.yaml": metadata("app", dependency("lib", "file://../lib")),
        "values.yaml": "colour: red\n",
        "templates/config.yaml": CONFIG,
        "ci/values.yaml": "colour: grey\n",
    }
    return write(tmp_path / "app", files)


def test_library_beside_the_chart_is_assembled(chart: Path) -> None:
    [item] = Chart.read(chart).render({}, name="demo", namespace="default")
    assert item["metadata"]["name"] == "demo-config"
    assert item["data"] == {"colour": "red"}


def test_packed_dependency_is_found_beside_or_in_the_archives(tmp_path: Path, library: Path) -> None:
    files = {
        "Chart.yaml": metadata("app", dependency("lib", "file://../store/lib.tar.gz")),
        "values.yaml": "colour: red\n",
        "templates/config.yaml": CONFIG,
    }
    chart = write(tmp_path / "app", files)
    with pytest.raises(NotFoundError, match="make artifacts"):
        Chart.read(chart)
    archives = tmp_path / "elsewhere"
    archives.mkdir()
    with tarfile.open(archives / "lib.tar.gz", "w:gz") as archive:
        archive.add(library, arcname="lib")
    [item] = Chart.read(chart, archives).render({}, name="demo", namespace="default")
    assert item["metadata"]["name"] == "demo-config"


def test_dependency_from_the_internet_is_refused(tmp_path: Path) -> None:
    files = {"Chart.yaml": metadata("app", dependency("other", "https://charts.example.org"))}
    with pytest.raises(UsageError, match="none is fetched"):
        Chart.read(write(tmp_path / "app", files))


def test_folder_without_a_chart_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=str(tmp_path / "nothing")):
        Chart.read(tmp_path / "nothing")


def test_digest_follows_content_and_nothing_else(chart: Path, library: Path) -> None:
    first = Chart.read(chart).digest
    os.utime(chart / "values.yaml", (1, 1))
    write(chart, {"ci/values.yaml": "colour: blue\n", "README.md": "text"})
    assert Chart.read(chart).digest == first
    write(library, {"templates/_names.tpl": '{{- define "lib.name" -}}other{{- end }}'})
    assert Chart.read(chart).digest != first


def test_release_digest_follows_values_but_not_their_order(chart: Path) -> None:
    loaded = Chart.read(chart)
    one = Release("demo", "default", loaded, {"a": 1, "b": 2})
    assert one.digest == Release("demo", "default", loaded, {"b": 2, "a": 1}).digest
    assert one.digest != Release("demo", "default", loaded, {"a": 1, "b": 3}).digest
    assert len(one.digest) <= 63  # it is a label


def test_refusal_of_a_template_is_told_in_its_own_words(chart: Path) -> None:
    with pytest.raises(HelmError, match="colour is needed"):
        Chart.read(chart).render({"colour": None}, name="demo", namespace="default")


def test_hooks_are_no_part_of_a_release(chart: Path) -> None:
    hook = CONFIG.replace("\ndata:", "\n  annotations: {helm.sh/hook: pre-install}\ndata:")
    write(chart, {"templates/hook.yaml": hook.replace('{{ include "lib.name" . }}', "hook")})
    found = Chart.read(chart).render({}, name="demo", namespace="default")
    assert [item["metadata"]["name"] for item in found] == ["demo-config"]


MANIFEST = """\
---
# Source: app/templates/secret.yaml
apiVersion: v1
kind: Secret
metadata: {name: key}
data: {password: c2VjcmV0}
---
# Source: app/templates/service.yaml
kind: Service
apiVersion: v1
metadata: {name: web, namespace: elsewhere}
spec: {}
"""


def test_parts_are_found_with_their_namespaces() -> None:
    assert list(parts(MANIFEST, "here", {"Service", "Secret"})) == [
        ("Secret", "here", "key"),
        ("Service", "elsewhere", "web"),
    ]
    assert list(parts(MANIFEST, "here", {"Deployment"})) == []


def test_diff_text_hides_secrets() -> None:
    text = readable(objects(MANIFEST))
    assert "c2VjcmV0" not in text
    assert "password: '***'" in text
    assert "web" in text
