"""Ends what was started by somebody who has left a project since, or was disabled."""

from __future__ import annotations

import logging
import time
from contextlib import suppress

from labcluster.adapters.kube import Json, KubeApi
from labcluster.errors import LabclusterError, NotFoundError
from labcluster.models import labels
from labcluster.models.members import Directory
from labcluster.models.projects import LABEL_PROJECT, LABEL_USER
from labcluster.services.leaving import RunTable, cancel_departed, why_departed

log = logging.getLogger(__name__)

# A run that was accepted in the very moment in which its owner left is found by this.
_AGAIN_SECONDS = 20.0
_STARTED = ("/apis/batch/v1/jobs", "/api/v1/pods")


class Departures:
    """Looks after each change of the directory, and now and then."""

    def __init__(self, api: KubeApi, runs: RunTable) -> None:
        self._api = api
        self._runs = runs
        self._done: Directory | None = None
        self._until = 0.0

    def follow(self, directory: Directory) -> None:
        """End what has to be ended; what fails is tried again at the next turn."""
        changed = directory != self._done
        if not changed and time.monotonic() < self._until:
            return
        try:
            cancel_departed(self._runs, directory)
            # What members made with kubectl stands in no table. Their right to it is gone already, so that
            # nothing can come after this look.
            for collection in _STARTED if changed else ():
                for item in self._api.list(collection, query={"labelSelector": LABEL_USER}):
                    self._end(collection, item, directory)
        except LabclusterError as error:
            log.warning("what departed members run cannot be ended now: %s", error)
            return
        self._done, self._until = directory, time.monotonic() + _AGAIN_SECONDS

    def _end(self, collection: str, item: Json, directory: Directory) -> None:
        metadata = item["metadata"]
        marks = metadata["labels"]
        if metadata.get("deletionTimestamp") or metadata.get("ownerReferences") or labels.RUN in marks:
            return  # goes already; goes with its owner; is the run reconciler's
        reason = why_departed(directory, marks.get(LABEL_PROJECT, ""), marks[LABEL_USER])
        if reason is None:
            return
        log.info("removing %s/%s of %s: %s", metadata["namespace"], metadata["name"], collection, reason)
        root, _, plural = collection.rpartition("/")
        with suppress(NotFoundError):
            self._api.delete(f"{root}/namespaces/{metadata['namespace']}/{plural}/{metadata['name']}")
