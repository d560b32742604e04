"""What the controller sees of the cluster, over an apiserver that only lists."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest
from identity_fakes import directory, project
from labcluster.adapters.kube import KubeApi
from labcluster.controller.caches import Caches
from labcluster.errors import UnreachableError
from labcluster.services.drift import KINDS, compare, key_of
from labcluster.services.manifests import Capacity
from labcluster.services.namespaces import plan

OBJECTS = plan(
    directory({"ada": 20000}, vision=(30000, "ada")), [project("vision", 30000)], Capacity(4, 4000, 4096)
).objects


class Listing:
    """Answers lists as the apiserver does: items without apiVersion and kind. Watches never open."""

    def request(self, _method: str, path: str, **_: Any) -> dict[str, Any]:
        items = [
            {key: value for key, value in item.items() if key not in ("apiVersion", "kind")}
            for item in OBJECTS
            if KINDS[item["kind"]].collection == path
        ]
        for item in items:
            item["metadata"] = {**item["metadata"], "resourceVersion": "7"}
        if path.endswith("/nodes"):
            items = [{"metadata": {"name": "gpu1", "resourceVersion": "7", "labels": {}}, "status": {}}]
        return {"metadata": {"resourceVersion": "7"}, "items": items}

    def open(self, path: str, **_: Any) -> Any:
        raise UnreachableError(path)


@pytest.fixture
def caches() -> Iterator[Caches]:
    caches = Caches(cast(KubeApi, Listing()), threading.Event())
    caches.start()
    assert caches.wait_synced(10)
    yield caches
    caches.stop()


def test_state_that_was_only_listed_needs_no_repair(caches: Caches) -> None:
    assert not compare(OBJECTS, caches.live())
    assert caches.live().keys() == {key_of(item) for item in OBJECTS}


def test_nodes_are_kept_with_what_capacity_needs(caches: Caches) -> None:
    assert caches.nodes()[0] == {
        "metadata": {"name": "gpu1", "resourceVersion": "7"},
        "spec": {},
        "status": {"conditions": [], "allocatable": {}},
    }


def test_writes_that_are_seen_already_are_not_waited_for(caches: Caches) -> None:
    written = [{**item, "metadata": {**item["metadata"], "resourceVersion": "7"}} for item in OBJECTS]
    done = threading.Thread(target=caches.settle, args=(written, 30.0))
    done.start()
    done.join(5)
    assert not done.is_alive()
