"""Every pod of the platform is as confined as it can be; who cannot says why in exceptions.yml."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_files import CHARTS

EXCEPTIONS: dict[str, dict[str, str]] = yaml.safe_load(Path(__file__).with_name("exceptions.yml").read_text())
DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")

Json = dict[str, Any]


def pods(objects: list[Json]) -> Iterator[tuple[Json, Json]]:
    """(workload, pod template) of every workload."""
    for item in objects:
        template = item.get("spec", {}).get("template", {})
        if item["kind"] == "CronJob":
            template = item["spec"]["jobTemplate"]["spec"]["template"]
        if "containers" in template.get("spec", {}):
            yield item, template


def context(pod: Json, container: Json, key: str) -> Any:
    """A setting of the container, which goes before the pod's."""
    own = container.get("securityContext", {})
    return own.get(key, pod.get("securityContext", {}).get(key))


def by_digest(pod: Json, container: Json) -> bool:
    return bool(DIGEST.search(container["image"]))


def bounded(pod: Json, container: Json) -> bool:
    resources = container.get("resources", {})
    return all({"cpu", "memory"} <= resources.get(kind, {}).keys() for kind in ("requests", "limits"))


def non_root(pod: Json, container: Json) -> bool:
    return context(pod, container, "runAsNonRoot") is True and bool(context(pod, container, "runAsUser"))


def read_only(pod: Json, container: Json) -> bool:
    return context(pod, container, "readOnlyRootFilesystem") is True


def unprivileged(pod: Json, container: Json) -> bool:
    own = container.get("securityContext", {})
    return (
        not own.get("privileged")
        and own.get("allowPrivilegeEscalation") is False
        and own.get("capabilities", {}).get("drop") == ["ALL"]
        and not own.get("capabilities", {}).get("add")
    )


def own_network(pod: Json, container: Json) -> bool:
    return not pod.get("hostNetwork") and not pod.get("hostPID") and not pod.get("hostIPC")


def seccomp(pod: Json, container: Json) -> bool:
    return (context(pod, container, "seccompProfile") or {}).get("type") == "RuntimeDefault"


RULES: list[Callable[[Json, Json], bool]] = [
    by_digest, bounded, non_root, read_only, unprivileged, own_network, seccomp
]  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("chart", CHARTS)
def test_containers_keep(chart: str, rule: Callable[[Json, Json], bool], rendered: Any) -> None:
    for _, template in pods(rendered(chart)):
        pod = template["spec"]
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            excused = rule.__name__ in EXCEPTIONS.get(f"{chart}/{container['name']}", {})
            # An excuse for what holds anyway would hide the day when it no longer does.
            assert rule(pod, container) is not excused, f"{chart}/{container['name']}"


@pytest.mark.parametrize("chart", CHARTS)
def test_pods_are_named_in_a_network_policy(chart: str, rendered: Any) -> None:
    objects = rendered(chart)
    selectors = [item["spec"]["podSelector"] for item in objects if item["kind"] == "NetworkPolicy"]
    for item, template in pods(objects):
        if template["spec"].get("hostNetwork"):
            continue  # no policy reaches such a pod; the node's firewall does
        labels = template["metadata"]["labels"].items()
        covered = any(selector["matchLabels"].items() <= labels for selector in selectors)
        assert covered, item["metadata"]["name"]


@pytest.mark.parametrize("chart", CHARTS)
def test_services_find_their_pods(chart: str, rendered: Any) -> None:
    objects = rendered(chart)
    labels = [template["metadata"]["labels"].items() for _, template in pods(objects)]
    for item in objects:
        if item["kind"] == "Service" and item["spec"].get("selector"):
            wanted = item["spec"]["selector"].items()
            assert any(wanted <= found for found in labels), item["metadata"]["name"]


@pytest.mark.parametrize("chart", CHARTS)
def test_stateful_pods_are_never_two(chart: str, rendered: Any) -> None:
    """A volume that only one may write: the old pod ends before the new one starts."""
    for item, template in pods(rendered(chart)):
        volumes = template["spec"].get("volumes", [])
        if item["kind"] == "Deployment" and any("persistentVolumeClaim" in volume for volume in volumes):
            assert item["spec"]["replicas"] == 1
            assert item["spec"]["strategy"] == {"type": "Recreate"}


def test_every_exception_names_something() -> None:
    for place in EXCEPTIONS:
        assert place.partition("/")[0] in CHARTS
