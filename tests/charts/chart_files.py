"""The charts of the repository, as Ansible would deploy them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
