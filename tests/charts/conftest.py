"""Every chart, rendered once with the values of its ci folder."""

from __future__ import annotations

import functools
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_files import CHARTS_DIR, ROOT, render, values_of


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
