"""The level-triggered loop: read everything, plan, write what differs, say what happened.

An event only wakes the loop. Nothing is remembered between two turns but what was said last, so that it
may be killed at any point and repairs whatever it finds.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from labcluster.adapters.kube import MERGE, Json, KubeApi
from labcluster.controller.caches import Caches
from labcluster.controller.reports import Reporter
from labcluster.errors import LabclusterError, NotFoundError, UnreachableError
from labcluster.models.members import Directory
from labcluster.models.projects import LABEL_PROJECT, Project
from labcluster.services import namespaces
from labcluster.services.drift import KINDS, Drift, Key, compare, key_of, path_of
from labcluster.services.manifests import MANAGER
from labcluster.services.members import Readable

log = logging.getLogger(__name__)

# Writes at a time: enough to hide the round trips, too few to crowd out other clients of the apiserver.
_WRITERS = 8
# Changes come in bunches (one submit, one LDAP import): gather them before the next turn.
_GATHER_SECONDS = 0.1


class Controller:
    """Keeps the cluster equal to the directory and the Projects."""

    def __init__(
        self,
        api: KubeApi,
        directory: Readable,
        caches: Caches,
        wake: threading.Event,
        poll_seconds: float = 3.0,
    ) -> None:
        self._api = api
        self._directory = directory
        self._caches = caches
        self._wake = wake
        self._poll_seconds = poll_seconds
        self._reporter = Reporter(api)
        self._last_directory: Directory | None = None
        self._directory_error = ""
        self._faults: tuple[str, ...] = ()
        self._beat = time.monotonic()
        self._done_once = False

    @property
    def alive(self) -> bool:
        """Whether the loop still turns."""
        return time.monotonic() - self._beat < 60

    @property
    def ready(self) -> bool:
        """Whether everything was looked at once, and the copies are fresh."""
        return self._done_once and self._caches.usable

    def run(self, stop: threading.Event) -> None:
        """Turn until `stop` is set."""
        self._caches.start()
        while not stop.is_set():
            self._beat = time.monotonic()
            self._wake.clear()
            try:
                self.turn()
            except UnreachableError as error:
                log.warning("cannot work now: %s", error)
            except Exception:  # the loop must survive what nobody thought of
                log.exception("a turn failed")
            self._wake.wait(self._poll_seconds)
            stop.wait(_GATHER_SECONDS)

    def turn(self) -> None:
        """Make the cluster what it should be, once."""
        if not self._caches.wait_synced(1.0) or not self._caches.usable:
            log.info("waiting for the watches")
            return
        directory = self._read_directory()
        if directory is None:
            return
        projects = self._caches.projects()
        plan = namespaces.plan(directory, projects, namespaces.node_capacity(self._caches.nodes()))
        if plan.faults != self._faults:
            self._faults = plan.faults
            for fault in plan.faults:
                log.warning("%s", fault)
        live = self._caches.live()
        drift = compare(plan.objects, live)
        failures: dict[str, list[str]] = defaultdict(list)
        if drift:
            self._reporter.before(projects, drift, live)
            self._write(drift, live, projects, failures)
        self._reporter.after(projects, plan.verdicts, failures, datetime.now(UTC))
        self._done_once = True

    def _read_directory(self) -> Directory | None:
        """The directory; while it is away the last one read, so that drift is still repaired."""
        try:
            self._last_directory = self._directory.read()
            if self._directory_error:
                log.info("the directory answers again")
            self._directory_error = ""
        except LabclusterError as error:
            if error.detail != self._directory_error:
                log.warning("going on with the last state of the directory: %s", error)
            self._directory_error = error.detail
        return self._last_directory

    def _write(
        self, drift: Drift, live: dict[Key, Json], projects: Iterable[Project], failures: dict[str, list[str]]
    ) -> None:
        started = time.monotonic()
        written: list[Json] = []
        with ThreadPoolExecutor(_WRITERS, thread_name_prefix="apply") as pool:
            # A namespace must be there before what lies in it; within one stage order does not count.
            for namespaced in (False, True):
                stage = [item for item, _ in drift.apply if KINDS[item["kind"]].namespaced == namespaced]
                for item, result in zip(stage, pool.map(self._apply, stage), strict=True):
                    if isinstance(result, LabclusterError):
                        self._fail(item, f"cannot apply: {result.detail}", failures)
                    else:
                        written.append({**result, "kind": item["kind"]})
            for item, patch in drift.strip:
                log.warning("removing foreign keys from %s: %s", "/".join(key_of(item)), patch)
                try:
                    self._api.request("PATCH", path_of(item), body=patch, content_type=MERGE)
                except LabclusterError as error:
                    self._fail(item, f"cannot remove foreign keys: {error.detail}", failures)
            for item in self._removable(drift, live, projects):
                log.info("removing %s", "/".join(key_of(item)))
                try:
                    self._api.delete(path_of(item))
                except NotFoundError:
                    pass
                except LabclusterError as error:
                    self._fail(item, f"cannot remove: {error.detail}", failures)
        self._caches.settle(written)
        log.info(
            "applied %d, removed %d, failed %d in %.2f s",
            len(written),
            len(drift.remove),
            sum(map(len, failures.values())),
            time.monotonic() - started,
        )

    def _apply(self, item: Json) -> Json | LabclusterError:
        try:
            return self._api.apply(path_of(item), item, manager=MANAGER)
        except LabclusterError as error:
            return error

    def _fail(self, item: Json, message: str, failures: dict[str, list[str]]) -> None:
        kind, namespace, name = key_of(item)
        project = item["metadata"].get("labels", {}).get(LABEL_PROJECT, "")
        failures[project].append(f"{kind} {namespace + '/' if namespace else ''}{name}: {message}")
        log.warning("%s", failures[project][-1])

    def _removable(self, drift: Drift, live: dict[Key, Json], projects: Iterable[Project]) -> Iterable[Json]:
        """What to remove; nothing of a namespace when all projects seem to be gone at once.

        The last project can be removed by hand; more likely is that somebody removed the definition."""
        spaces = [key for key in live if key[0] == "Namespace"]
        if not list(projects) and len(spaces) > 1:
            log.error("no Project is left but %d namespaces are: removing nothing", len(spaces))
            return []
        return drift.remove
