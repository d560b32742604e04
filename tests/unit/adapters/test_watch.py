"""The copy of a collection that a watch keeps, against an apiserver that misbehaves."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from labcluster.adapters.kube import GoneError
from labcluster.adapters.view import KubeView
from labcluster.adapters.watch import WatchCache
from labcluster.errors import UnreachableError


def thing(name: str, version: int, **more: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "project-vision", "resourceVersion": str(version), **more}
    }


class Response:
    """Chunks that arrive when the test puts them; None ends the stream."""

    status = 200

    def __init__(self) -> None:
        self.chunks: queue.Queue[bytes | None] = queue.Queue()

    def event(self, kind: str, item: dict[str, Any]) -> None:
        self.chunks.put(json.dumps({"type": kind, "object": item}).encode() + b"\n")

    def stream(self, amt: int, decode_content: bool | None = None) -> Iterator[bytes]:
        while (chunk := self.chunks.get()) is not None:
            yield chunk

    def shutdown(self) -> None:
        self.chunks.put(None)

    def close(self) -> None: ...
    def release_conn(self) -> None: ...


class Api:
    """Lists are answered from a script; every watch waits for the test."""

    def __init__(self, *lists: Any) -> None:
        self.lists = list(lists)
        self.watches: queue.Queue[tuple[dict[str, Any], Response]] = queue.Queue()
        self.refuse: list[Exception] = []

    def request(self, method: str, path: str, *, query: dict[str, Any], timeout: float = 0) -> Any:
        answer = self.lists.pop(0) if len(self.lists) > 1 else self.lists[0]
        if isinstance(answer, Exception):
            raise answer
        version, items = answer
        return {"metadata": {"resourceVersion": str(version)}, "items": items}

    def open(self, path: str, *, query: dict[str, Any], idle_timeout: float) -> Response:
        if self.refuse:
            raise self.refuse.pop(0)
        response = Response()
        self.watches.put((query, response))
        return response


@pytest.fixture
def heard() -> queue.Queue[tuple[str, str]]:
    return queue.Queue()


def started(api: Api, heard: queue.Queue[tuple[str, str]]) -> WatchCache:
    cache = WatchCache(api, "/api/v1/things")  # type: ignore[arg-type]
    cache.subscribe(lambda change, item: heard.put((change, item["metadata"]["name"])))
    cache.start()
    assert cache.wait_synced(5)
    return cache


def test_list_then_events_keep_the_copy_fresh(heard: queue.Queue[tuple[str, str]]) -> None:
    api = Api((5, [thing("a", 1), thing("b", 2)]))
    cache = started(api, heard)
    query, response = api.watches.get(timeout=5)
    assert query["resourceVersion"] == "5"
    response.event("MODIFIED", thing("a", 6))
    response.event("DELETED", thing("b", 7))
    response.event("ADDED", thing("c", 8))
    changes = [heard.get(timeout=5) for _ in range(5)]
    assert changes == [("ADDED", "a"), ("ADDED", "b"), ("MODIFIED", "a"), ("DELETED", "b"), ("ADDED", "c")]
    assert sorted(item["metadata"]["name"] for item in cache.items()) == ["a", "c"]
    assert cache.age_seconds == 0.0
    cache.stop()


def test_event_cut_in_two_is_put_together(heard: queue.Queue[tuple[str, str]]) -> None:
    api = Api((5, []))
    cache = started(api, heard)
    _, response = api.watches.get(timeout=5)
    line = json.dumps({"type": "ADDED", "object": thing("a", 6)}).encode() + b"\n"
    response.chunks.put(line[:20])
    response.chunks.put(line[20:])
    assert heard.get(timeout=5) == ("ADDED", "a")
    cache.stop()


def test_ended_watch_goes_on_from_the_last_bookmark(heard: queue.Queue[tuple[str, str]]) -> None:
    api = Api((5, []))
    cache = started(api, heard)
    _, response = api.watches.get(timeout=5)
    response.event("BOOKMARK", thing("", 40))
    response.chunks.put(None)
    query, _ = api.watches.get(timeout=5)
    assert query["resourceVersion"] == "40"
    cache.stop()


@pytest.mark.parametrize("late", [True, False])
def test_version_that_is_too_old_lists_again(heard: queue.Queue[tuple[str, str]], late: bool) -> None:
    api = Api((5, [thing("a", 1), thing("b", 2)]), (50, [thing("b", 45), thing("c", 46)]))
    if not late:
        api.refuse = [GoneError("too old")]
    cache = started(api, heard)
    if late:
        _, response = api.watches.get(timeout=5)
        response.event("ERROR", {"code": 410, "message": "too old resource version"})
    changes = [heard.get(timeout=5) for _ in range(5)]
    assert changes[2:] == [("MODIFIED", "b"), ("ADDED", "c"), ("DELETED", "a")]
    cache.stop()


def test_apiserver_away_keeps_the_copy_and_tries_again(heard: queue.Queue[tuple[str, str]]) -> None:
    api = Api((5, [thing("a", 1)]))
    cache = started(api, heard)
    _, response = api.watches.get(timeout=5)
    api.refuse = [UnreachableError("down")]
    response.chunks.put(None)
    query, _ = api.watches.get(timeout=5)
    assert query["resourceVersion"] == "5"
    assert len(cache.items()) == 1
    cache.stop()


def test_failing_listener_does_not_end_the_watch(heard: queue.Queue[tuple[str, str]]) -> None:
    api = Api((5, [thing("a", 1)]))
    cache = WatchCache(api, "/api/v1/things")  # type: ignore[arg-type]
    cache.subscribe(lambda change, item: 1 / 0)
    cache.subscribe(lambda change, item: heard.put((change, item["metadata"]["name"])))
    cache.start()
    assert heard.get(timeout=5) == ("ADDED", "a")
    api.watches.get(timeout=5)
    cache.stop()


class Collections:
    """An apiserver with one list a path and watches that never say anything."""

    def __init__(self, **lists: list[dict[str, Any]]) -> None:
        self.lists = lists
        self.quiet = threading.Event()

    def request(self, method: str, path: str, *, query: dict[str, Any], timeout: float = 0) -> Any:
        items = self.lists.get(path.rsplit("/", 1)[1], [])
        return {"metadata": {"resourceVersion": "9"}, "items": items}

    def open(self, path: str, *, query: dict[str, Any], idle_timeout: float) -> Response:
        return Response()


def test_view_knows_members_projects_and_the_pods_of_runs(lab: Any, pod_of: Any) -> None:
    run = lab.submit()
    data = {"ada": "20001 30001 30001,30003", "odd": "x", "half": "1 2"}
    members = thing("labcluster-members", 1) | {"data": data}
    project = {
        "metadata": {"name": "vision", "resourceVersion": "1"},
        "spec": {"gid": 30001, "gpus": 2, "maxGpus": 4},
    }
    old, new = (pod_of(run, state=None) for _ in range(2))
    for number, pod in enumerate((old, new)):
        pod["metadata"] |= {"name": f"p{number}", "resourceVersion": "1"}
        pod["metadata"]["creationTimestamp"] = f"2026-11-21T08:00:0{number}Z"
    api = Collections(configmaps=[members], projects=[project], pods=[old, new])
    view = KubeView(api, follow_jobs=True)  # type: ignore[arg-type]
    told: list[str] = []
    view.subscribe(told.append)
    view.start()
    assert view.wait_synced(5) == []
    assert view.memberships("ada")["vision"].groups == (30001, 30003)
    assert view.memberships("odd") == {}
    assert view.user_by_uid(20001) == "ada"
    assert view.user_by_uid(0) is None
    share = view.project("vision")
    assert share is not None
    assert (share.gpus, share.max_gpus) == (2, 4)
    pod = view.pod(run)
    assert pod is not None
    assert pod["metadata"]["name"] == "p1"
    assert told == ["vision-1", "vision-1"]
    view.stop()
