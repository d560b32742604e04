"""Every chart, rendered once with the values of its ci folder, as Ansible would deploy it."""

from __future__ import annotations

import functools
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from labcluster.adapters.helm import Chart

ROOT = Path(__file__).parents[2]
CHARTS_DIR = ROOT / "charts"
CHARTS = sorted(
    path.parent.name
    for path in CHARTS_DIR.glob("*/Chart.yaml")
    if yaml.safe_load(path.read_text()).get("type") != "library"
)
# Release name and chart name are one; namespaces as the role platform has them.
NAMESPACES = {"kueue": "kueue-system", "queues": "kueue-system", "kube-router": "kube-system"}


def values_of(chart: str) -> dict[str, Any]:
    """The values that a chart is rendered with in tests."""
    return yaml.safe_load((CHARTS_DIR / chart / "ci" / "values.yaml").read_text()) or {}


def render(chart: str, values: dict[str, Any], archives: Path | None = None) -> list[dict[str, Any]]:
    """The objects of a release of this chart."""
    loaded = Chart.read(CHARTS_DIR / chart, archives)
    return loaded.render(values, name=chart, namespace=NAMESPACES.get(chart, "labcluster"))


def _packed_in_store() -> Path | None:
    folder = ROOT / "build" / "store" / "archives"
    return folder if (folder / "kueue-chart.tar.gz").is_file() else None


def _packed_from_modules(folder: Path) -> Path | None:
    """The same chart out of Go's module cache, where the binary's build has left it."""
    cache = Path(os.environ.get("GOMODCACHE", Path.home() / "go/pkg/mod"))
    version = yaml.safe_load((CHARTS_DIR / "kueue" / "Chart.yaml").read_text())["appVersion"]
    source = cache / f"sigs.k8s.io/kueue@{version}" / "charts" / "kueue"
    if not source.is_dir():
        return None
    with tarfile.open(folder / "kueue-chart.tar.gz", "w:gz", compresslevel=1) as archive:
        archive.add(source, arcname="kueue")
    return folder


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """Where packed dependencies are: the artifact store, or the module cache; None without both."""
    return _packed_in_store() or _packed_from_modules(tmp_path_factory.mktemp("archives"))


@pytest.fixture(scope="session")
def rendered(archives: Path | None) -> Any:
    """rendered(chart): its objects. The wrapper of an upstream chart is skipped where that chart is not."""

    @functools.cache
    def get(chart: str) -> list[dict[str, Any]]:
        if chart == "kueue" and archives is None:
            pytest.skip("upstream's chart is in neither build/store nor the module cache: `make artifacts`")
        return render(chart, values_of(chart), archives)

    return get
