"""A local copy of a collection of Kubernetes objects that a watch keeps fresh.

Requests are answered from here and never by a LIST. The thread lists once, then watches; it lists again
only when the apiserver says that the point it watched from is too old. While the apiserver is away the
copy stays as it was, and `age_seconds` says for how long.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import urllib3

from labcluster.adapters.kube import GoneError, Json, KubeApi, Stream, hang_up
from labcluster.errors import LabclusterError

log = logging.getLogger(__name__)

Listener = Callable[[str, Json], None]

# The apiserver closes a watch after this time; our read waits a little longer, so that a connection
# that died without a word is noticed.
_WATCH_SECONDS = 240


class WatchCache:
    """Objects under one collection path, kept by (namespace, name)."""

    def __init__(
        self,
        api: KubeApi,
        path: str,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
        trim: Callable[[Json], Json] | None = None,
    ) -> None:
        self._api = api
        self._path = path
        self._query = {
            key: value
            for key, value in (("labelSelector", label_selector), ("fieldSelector", field_selector))
            if value
        }
        self._trim = trim or _without_managed_fields
        self._items: dict[tuple[str, str], Json] = {}
        self._lock = threading.Lock()
        self._synced = threading.Event()
        self._stopping = threading.Event()
        self._listeners: list[Listener] = []
        self._heard = 0.0
        self._response: Stream | None = None
        self._thread = threading.Thread(target=self._run, name=f"watch {path}", daemon=True)

    def subscribe(self, listener: Listener) -> None:
        """Call `listener(type, object)` for every change; type is ADDED, MODIFIED or DELETED."""
        self._listeners.append(listener)

    def start(self) -> None:
        """Begin to list and watch."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; the copy can still be read."""
        self._stopping.set()
        response = self._response
        if response is not None:
            hang_up(response)

    def wait_synced(self, seconds: float) -> bool:
        """Whether the first list has arrived, after waiting for it for at most `seconds`."""
        return self._synced.wait(seconds)

    @property
    def age_seconds(self) -> float:
        """How long ago the apiserver was last heard of; 0 while a watch is open."""
        return 0.0 if self._response is not None else time.monotonic() - self._heard

    def items(self) -> list[Json]:
        """All objects; they are shared, so treat them as read-only."""
        with self._lock:
            return list(self._items.values())

    def get(self, namespace: str, name: str) -> Json | None:
        """One object; `namespace` is empty for a cluster-scoped kind."""
        with self._lock:
            return self._items.get((namespace, name))

    def _run(self) -> None:
        delay = 0.2
        said = ""
        version: str | None = None
        while not self._stopping.is_set():
            try:
                if version is None:
                    version = self._list()
                    self._synced.set()
                version = self._watch(version)
                delay, said = 0.2, ""
            except GoneError:
                version = None
            except (LabclusterError, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                if self._stopping.is_set():
                    return
                if str(error) != said:  # the same trouble once, however long it lasts
                    said = str(error)
                    log.warning("watch of %s lost, trying again: %s", self._path, said)
                self._stopping.wait(delay + random.uniform(0, delay))  # noqa: S311 - jitter, not a secret
                delay = min(delay * 2, 5.0)

    def _list(self) -> str:
        fresh: dict[tuple[str, str], Json] = {}
        query: dict[str, Any] = {**self._query, "limit": 500}
        while True:
            page = self._api.request("GET", self._path, query=query, timeout=30.0)
            for item in page.get("items") or []:
                fresh[_key(item)] = self._trim(item)
            token = page["metadata"].get("continue")
            if not token:
                break
            query["continue"] = token
        with self._lock:
            old, self._items = self._items, fresh
        self._heard = time.monotonic()
        for key, item in fresh.items():
            if key not in old:
                self._tell("ADDED", item)
            elif _version(old[key]) != _version(item):
                self._tell("MODIFIED", item)
        for key, item in old.items():
            if key not in fresh:
                self._tell("DELETED", item)
        return str(page["metadata"]["resourceVersion"])

    def _watch(self, version: str) -> str:
        query = {
            **self._query,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": _WATCH_SECONDS,
        }
        response = self._api.open(self._path, query=query, idle_timeout=_WATCH_SECONDS + 15.0)
        self._response = response
        try:
            for event in _events(response):
                self._heard = time.monotonic()
                item = event["object"]
                if event["type"] == "ERROR":
                    raise GoneError(str(item.get("message", "the watch ended with an error")))
                version = _version(item)
                if event["type"] != "BOOKMARK":
                    self._take(event["type"], self._trim(item))
        finally:
            self._heard = time.monotonic()
            self._response = None
            response.close()
        return version

    def _take(self, change: str, item: Json) -> None:
        with self._lock:
            if change == "DELETED":
                self._items.pop(_key(item), None)
            else:
                self._items[_key(item)] = item
        self._tell(change, item)

    def _tell(self, change: str, item: Json) -> None:
        for listener in self._listeners:
            try:
                listener(change, item)
            except Exception:  # one listener's fault must not end the watch for all
                log.exception("a listener of %s failed", self._path)


def _events(response: Stream) -> Iterator[Json]:
    """The JSON lines of a watch; an unfinished last line of a cut connection is dropped."""
    rest = b""
    for chunk in response.stream(1 << 16, decode_content=False):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line:
                yield json.loads(line)


def _key(item: Json) -> tuple[str, str]:
    metadata = item["metadata"]
    return (metadata.get("namespace", ""), metadata["name"])


def _version(item: Json) -> str:
    return str(item["metadata"]["resourceVersion"])


def _without_managed_fields(item: Json) -> Json:
    item["metadata"].pop("managedFields", None)
    return item
