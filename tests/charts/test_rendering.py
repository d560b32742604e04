"""What charts render: the same each time, in Kubernetes' own terms, with common names and labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from chart_files import CHARTS, render, values_of
from kubernetes_types import faults, model_of

# Kinds of our CRDs and Kueue's, which the client does not know.
CUSTOM = {"kueue.x-k8s.io/v1beta2 ResourceFlavor", "kueue.x-k8s.io/v1beta2 WorkloadPriorityClass"}


@pytest.mark.parametrize("chart", CHARTS)
def test_objects_are_what_kubernetes_knows(chart: str, rendered: Any) -> None:
    found = []
    for item in rendered(chart):
        if model_of(item) is None:
            assert f"{item['apiVersion']} {item['kind']}" in CUSTOM
        else:
            found += [f"{item['metadata']['name']}: {fault}" for fault in faults(item)]
    assert found == []


@pytest.mark.parametrize("chart", CHARTS)
def test_rendering_twice_gives_the_same(chart: str, rendered: Any, archives: Path | None) -> None:
    assert rendered(chart) == render(chart, values_of(chart), archives)


@pytest.mark.parametrize("chart", CHARTS)
def test_no_two_objects_have_one_name(chart: str, rendered: Any) -> None:
    names = [
        (item["apiVersion"], item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"])
        for item in rendered(chart)
    ]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("chart", CHARTS)
def test_objects_carry_the_standard_labels(chart: str, rendered: Any) -> None:
    for item in rendered(chart):
        labels = item["metadata"].get("labels", {})
        assert labels.get("app.kubernetes.io/name") == chart, item["metadata"]["name"]
        assert labels.get("app.kubernetes.io/managed-by") == "Helm", item["metadata"]["name"]


@pytest.mark.parametrize("fault", ["spec.replica", "spec.replicas", "spec.selector"])
def test_wrong_object_is_found(fault: str, rendered: Any) -> None:
    """The checker itself: an unknown field, a wrong type and a missing field."""
    item = next(item for item in rendered("registry") if item["kind"] == "Deployment")
    spec = {
        "spec.replica": {**item["spec"], "replica": 1},
        "spec.replicas": {**item["spec"], "replicas": "1"},
        "spec.selector": {key: value for key, value in item["spec"].items() if key != "selector"},
    }[fault]
    assert fault.rpartition(".")[2] in " ".join(faults({**item, "spec": spec}))
