"""Everything that the controller reads from the cluster, kept fresh by watches."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping

from labcluster.adapters.kube import Json, KubeApi
from labcluster.adapters.watch import WatchCache
from labcluster.models.projects import COLLECTION, Project
from labcluster.services.drift import KINDS, Key, key_of
from labcluster.services.manifests import OWNED_SELECTOR

# A copy that has not been refreshed for so long is not acted on: it may lack what is there.
_TOO_OLD_SECONDS = 30.0
_STEP_SECONDS = 0.02


class Caches:
    """Projects, nodes, and every object that carries our label."""

    def __init__(self, api: KubeApi, wake: threading.Event) -> None:
        self._projects = WatchCache(api, COLLECTION)
        self._nodes = WatchCache(api, "/api/v1/nodes", trim=_essential_node)
        self._owned = {
            kind: WatchCache(api, place.collection, label_selector=OWNED_SELECTOR)
            for kind, place in KINDS.items()
        }
        self._all = [self._projects, self._nodes, *self._owned.values()]
        self._seen_nodes: Mapping[str, Json] = {}
        for cache in (self._projects, *self._owned.values()):
            cache.subscribe(lambda _change, _item: wake.set())
        self._wake = wake
        self._nodes.subscribe(self._notice_node)

    def start(self) -> None:
        """Begin to watch."""
        for cache in self._all:
            cache.start()

    def stop(self) -> None:
        """End all watches."""
        for cache in self._all:
            cache.stop()

    def wait_synced(self, seconds: float) -> bool:
        """Whether every first list has arrived within `seconds`."""
        deadline = time.monotonic() + seconds
        return all(cache.wait_synced(max(0.0, deadline - time.monotonic())) for cache in self._all)

    @property
    def usable(self) -> bool:
        """Whether all copies are fresh enough to decide by."""
        return all(cache.wait_synced(0) and cache.age_seconds < _TOO_OLD_SECONDS for cache in self._all)

    def projects(self) -> list[Project]:
        """All projects that are not going."""
        return [
            Project.from_object(item)
            for item in self._projects.items()
            if not item["metadata"].get("deletionTimestamp")
        ]

    def nodes(self) -> list[Json]:
        """All nodes, with what capacity is counted by."""
        return self._nodes.items()

    def live(self) -> dict[Key, Json]:
        """Everything with our label."""
        found = {}
        for kind, cache in self._owned.items():
            # Items of a list do not say what they are.
            what = {"apiVersion": KINDS[kind].api_version, "kind": kind}
            for item in cache.items():
                found[key_of({**item, **what})] = {**item, **what}
        return found

    def settle(self, written: Iterable[Json], seconds: float = 2.0) -> None:
        """Wait until the copies show what we have written, so that it is not taken for missing."""
        deadline = time.monotonic() + seconds
        for item in written:
            kind, namespace, name = key_of(item)
            version = int(item["metadata"]["resourceVersion"])
            while time.monotonic() < deadline:
                there = self._owned[kind].get(namespace, name)
                if there and int(there["metadata"]["resourceVersion"]) >= version:
                    break
                time.sleep(_STEP_SECONDS)

    def _notice_node(self, _change: str, item: Json) -> None:
        # Nodes report every few seconds; only what counts for capacity wakes us.
        name = item["metadata"]["name"]
        essential = {key: item.get(key) for key in ("spec", "status")}
        if self._seen_nodes.get(name) != essential:
            self._seen_nodes = {**self._seen_nodes, name: essential}
            self._wake.set()


def _essential_node(item: Json) -> Json:
    status, spec = item.get("status", {}), item.get("spec", {})
    ready = [
        {"type": c["type"], "status": c["status"]}
        for c in status.get("conditions") or []
        if c["type"] == "Ready"
    ]
    return {
        "metadata": {key: item["metadata"][key] for key in ("name", "resourceVersion")},
        "spec": {key: spec[key] for key in ("taints", "unschedulable") if key in spec},
        "status": {"conditions": ready, "allocatable": status.get("allocatable", {})},
    }
