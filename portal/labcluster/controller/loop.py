"""The level-triggered loop: read everything, plan, write what differs, say what happened.

An event only wakes the loop. Nothing is remembered between two turns but what was said last, so that it
may be killed at any point and repairs whatever it finds.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from labcluster.adapters.kube import KubeApi
from labcluster.controller.caches import Caches
from labcluster.controller.departures import Departures
from labcluster.controller.reports import Reporter
from labcluster.controller.writes import Done, Writer, protected
from labcluster.errors import LabclusterError, UnreachableError
from labcluster.models.members import Directory
from labcluster.models.settings import OutsideNetwork
from labcluster.services import namespaces
from labcluster.services.drift import compare
from labcluster.services.members import Readable

log = logging.getLogger(__name__)

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
        departures: Departures | None = None,
        poll_seconds: float = 3.0,
        outside: Sequence[OutsideNetwork] = (),
    ) -> None:
        self._api = api
        self._directory = directory
        self._caches = caches
        self._wake = wake
        self._departures = departures
        self._poll_seconds = poll_seconds
        self._outside = outside
        self._writer = Writer(api, caches)
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
        plan = namespaces.plan(
            directory, projects, namespaces.node_capacity(self._caches.nodes()), self._outside
        )
        if plan.faults != self._faults:
            self._faults = plan.faults
            for fault in plan.faults:
                log.warning("%s", fault)
        live = self._caches.live()
        drift = compare(plan.objects, live)
        drift = protected(drift, live.values(), projects=len(projects))
        done = self._writer.write(drift) if drift else Done()
        self._reporter.tell(projects, done, live)
        self._reporter.update(projects, plan.verdicts, done.failures, datetime.now(UTC))
        if self._departures is not None:
            self._departures.follow(directory)
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
