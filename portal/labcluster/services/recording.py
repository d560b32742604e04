"""How runs ended, in MLflow: from the run table, whether or not a recorder lived to say it.

The recorder of a run delivers what it recorded and says so with a tag. Where that tag is missing some time
after the end (MLflow was away, the node was lost), a Job of the run's user delivers it from its directory.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol

from labcluster.errors import LabclusterError, NotAllowedError, NotFoundError, UnreachableError
from labcluster.models.recording import RecordedRun
from labcluster.models.runs import Run, RunState
from labcluster.models.settings import JobSettings
from labcluster.services.delivery import MOST_RUNS, delivery_job
from labcluster.services.experiments import has_experiments
from labcluster.services.ports import JobApi
from labcluster.services.turns import take_turns

log = logging.getLogger(__name__)

# So many runs at a time; of the next ones it is asked at once.
_PAGE = 200
# Its own recorder has this long after the end of its command.
_OWN_RECORDER = timedelta(seconds=60)
# Jobs of ours at the same time, and how often one is made for the same run.
_MOST_JOBS = 4
_MOST_TRIES = 6
# What could not be delivered for so long stays in the run's directory.
_GIVE_UP = timedelta(days=7)

STATUS = {
    RunState.SUCCEEDED: "FINISHED",
    RunState.FAILED: "FAILED",
    RunState.TIMED_OUT: "FAILED",
    RunState.LOST: "FAILED",
    RunState.CANCELLED: "KILLED",
}


class RecordTable(Protocol):
    """What the run table knows of records. UnreachableError when the database is away."""

    def unrecorded(self, since: datetime, limit: int, after: Run | None = None) -> Sequence[Run]:
        """Runs that ended after `since` and whose record has not got its result, the earliest end first."""

    def set_recorded(self, run: Run, moment: datetime) -> None:
        """Note that this attempt's record has its result."""


class Records(Protocol):
    """MLflow. UnreachableError when it is away."""

    def find(self, run: Run) -> RecordedRun | None:
        """The run in its project's MLflow; None if there is none."""

    def finish(self, run: Run, recorded: RecordedRun, status: str, tags: Mapping[str, str]) -> None:
        """Write how it ended, and when."""


class Recording:
    """Follows the records of ended runs. Nothing that it remembers is needed after a restart."""

    def __init__(
        self,
        *,
        table: RecordTable,
        records: Records,
        jobs: JobApi,
        settings: JobSettings,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._table = table
        self._records = records
        self._jobs = jobs
        self._settings = settings
        self._clock = clock
        # Jobs that deliver, by project and user; and of each run how often it was tried and when next.
        self._delivering: dict[tuple[str, str], tuple[str, str]] = {}
        self._tries: dict[tuple[str, int], tuple[int, datetime]] = {}
        self._refused: set[str] = set()

    def run(self, stop: threading.Event) -> None:
        """Follow until `stop` is set. Failures are logged and tried again, never raised."""
        take_turns(stop, self.turn, "records")

    def turn(self) -> None:
        """Look at every ended run whose record may lack its result, once."""
        since = self._clock() - _GIVE_UP
        late: list[Run] = []
        page: Sequence[Run] = self._table.unrecorded(since, _PAGE)
        while page:
            late += [run for run in page if not self._complete(run)]
            page = self._table.unrecorded(since, _PAGE, page[-1]) if len(page) == _PAGE else ()
        self._deliver(late)

    def _complete(self, run: Run) -> bool:
        """Write the result; false if the record is not all there yet and its own recorder is gone."""
        never_began = run.started_at is None and run.attempt == 1
        if never_began or not has_experiments(run.project):
            self._done(run)
            return True
        try:
            found = self._records.find(run)
            if found is not None:
                self._finish(run, found)
        except UnreachableError:
            raise
        except LabclusterError as error:
            # Its own fault or its project's, which must not keep the others waiting.
            if run.id not in self._refused:
                log.warning("the record of run %s cannot be completed: %s", run.id, error)
            self._refused.add(run.id)
            return False
        if found is not None and found.tags.get("labcluster.recorded") == str(run.attempt):
            self._done(run)
            return True
        return run.finished_at is None or self._clock() - run.finished_at < _OWN_RECORDER

    def _finish(self, run: Run, found: RecordedRun) -> None:
        tags = {"labcluster.state": run.state.value, "labcluster.reason": run.reason or ""}
        if run.node:
            tags["labcluster.node"] = run.node
        if run.exit_code is not None:
            tags["labcluster.exit_code"] = str(run.exit_code)
        status = STATUS[run.state]
        if found.status != status or any(found.tags.get(key) != value for key, value in tags.items()):
            self._records.finish(run, found, status, tags)

    def _done(self, run: Run) -> None:
        self._table.set_recorded(run, self._clock())
        self._tries.pop((run.id, run.attempt), None)
        self._refused.discard(run.id)

    def _deliver(self, late: Sequence[Run]) -> None:
        """Make Jobs for those that are due, one at a time for each user of a project."""
        if self._settings.record is None:
            return
        for owner, (namespace, name) in list(self._delivering.items()):
            if not self._jobs.exists(namespace, name):
                del self._delivering[owner]
        waiting: dict[tuple[str, str], list[Run]] = {}
        for run in late:
            tries, due = self._tries.get((run.id, run.attempt), (0, self._clock()))
            if tries >= _MOST_TRIES:
                log.warning(
                    "run %s: its record stays in %s, it could not be delivered", run.id, run.directory
                )
                self._done(run)
            elif due <= self._clock():
                waiting.setdefault((run.project, run.user), []).append(run)
        for owner, runs in waiting.items():
            if owner not in self._delivering and len(self._delivering) < _MOST_JOBS:
                self._make(owner, runs[:MOST_RUNS])

    def _make(self, owner: tuple[str, str], runs: Sequence[Run]) -> None:
        turn = self._tries.get((runs[0].id, runs[0].attempt), (0, None))[0] + 1
        job = delivery_job(runs, turn, self._settings)
        try:
            self._jobs.create(job, owner[1])
        except (NotAllowedError, NotFoundError) as error:
            # Its user has left, or its project is gone: nobody may deliver it any more.
            for run in runs:
                log.warning("run %s: its record stays in %s: %s", run.id, run.directory, error)
                self._done(run)
            return
        log.info("delivering the records of %d runs of %s in project %s", len(runs), owner[1], owner[0])
        self._delivering[owner] = (job["metadata"]["namespace"], job["metadata"]["name"])
        for run in runs:
            tries = self._tries.get((run.id, run.attempt), (0, None))[0] + 1
            # A little longer each time: 1, 2, 4, … minutes.
            self._tries[run.id, run.attempt] = tries, self._clock() + timedelta(minutes=2 ** (tries - 1))
