"""The run reconciler: makes what was accepted happen, and writes down what became of it.

It looks at states and not at events: an event only says which run to look at first, and every run that is
not final is looked at again every few seconds. So it may be killed at any point.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta

from labcluster.errors import LabclusterError, NotFoundError, UnreachableError
from labcluster.models.runs import RUN_ID, Run, RunChange, RunState
from labcluster.models.settings import JobSettings
from labcluster.services.endings import condition, exited
from labcluster.services.fencing import unreachable_pods
from labcluster.services.holding import Holds
from labcluster.services.jobs import attempt_of, gang_policy, job
from labcluster.services.judging import Sight, judge
from labcluster.services.ports import ClusterView, JobApi, KubeObject, RunStore
from labcluster.services.queue import QueueReport

log = logging.getLogger(__name__)

# The request that accepted a run makes its Job itself; we step in when it visibly did not.
_LEAVE_TO_REQUEST = timedelta(seconds=5)
# How long we look for Jobs of runs that were ended in the table only.
_CLEAN_FOR = timedelta(minutes=15)
# How old the picture of the queue may be that reasons are taken from; more where it is dear to make.
_REPORT_SECONDS = 1.0
_REPORT_SHARE = 20
# Making the Jobs of a large array must not keep the other runs from being followed.
_MAKING_SECONDS = 1.0


class RunReconciler:
    """Follows all active runs."""

    def __init__(
        self,
        *,
        store: RunStore,
        view: ClusterView,
        jobs: JobApi,
        settings: JobSettings,
        registry: str,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._view = view
        self._jobs = jobs
        self._settings = settings
        self._registry = registry
        self._clock = clock
        self._dirty: set[str] = set()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        # Jobs of gangs whose pods may reach one another.
        self._allowed: set[str] = set()
        self._report: QueueReport | None = None
        self._report_until = 0.0
        # Held runs by what they wait for, and how many of an array's pods still end.
        self._waiting: dict[str, list[str]] = {}
        self._stopping: Counter[tuple[str, int]] = Counter()
        self._make_until = 0.0
        self._unfinished = False
        # Sentences of this look, by sentence: an array's hundreds wait for the same.
        self._said: dict[str, list[Run]] = {}
        view.subscribe(self.notice)

    def notice(self, run_id: str) -> None:
        """Something of this run changed: look at it at once."""
        with self._lock:
            self._dirty.add(run_id)
        self._wake.set()

    def run(self, stop: threading.Event, interval: float = 5.0) -> None:
        """Follow until `stop` is set. Failures are logged and tried again, never raised."""
        last_full = float("-inf")
        while not stop.is_set():
            try:
                full = self._unfinished or time.monotonic() - last_full >= interval
                if full:
                    last_full = time.monotonic()
                    self._take_dirty()
                    self.reconcile_once()
                else:
                    self._reconcile_some(self._take_dirty())
            except UnreachableError as error:
                log.warning("runs are not followed now: %s", error)
                stop.wait(1.0)
            except Exception:  # the loop must survive what nobody thought of
                log.exception("following runs failed")
                stop.wait(1.0)
            # A short pause gathers the events that come together when a pod changes.
            if not self._unfinished:
                self._wake.wait(max(0.0, interval - (time.monotonic() - last_full)))
            stop.wait(0.05)

    def reconcile_once(self) -> None:
        """Look at every active run, and at what lately ended ones left behind."""
        active = self._store.active()
        ended = self._store.ended_since(self._clock() - _CLEAN_FOR)
        self._make_report(active)
        self._waiting = _held(active)
        self._stopping = Counter(
            (run.project, run.number)
            for run in (*active, *ended)
            if run.array_index is not None and self._stops(run)
        )
        self._look_at(active)
        for run in ended:
            self._remove_leftover(run)
        self._release_lost_pods()

    def _take_dirty(self) -> set[str]:
        with self._lock:
            dirty, self._dirty = self._dirty, set()
            self._wake.clear()
        return dirty

    def _reconcile_some(self, ids: Iterable[str]) -> None:
        runs = []
        for run_id in ids:
            match = RUN_ID.fullmatch(run_id)
            if match:
                run = self._store.get(match["project"], int(match["number"]), int(match["trial"] or 0))
                if run and not run.state.final:
                    runs.append(run)
                elif run:
                    self._free(run)
        self._look_at(runs)

    def _why(self, run: Run) -> str:
        """What a queued run waits for. With many runs in the queue the report on it is not made for each."""
        if self._report is None or time.monotonic() > self._report_until:
            self._make_report(self._store.active())
        assert self._report is not None
        why = self._report.why(run)
        return f"attempt {run.attempt} {why}" if run.attempt > 1 and why.startswith("waits") else why

    def _make_report(self, active: Sequence[Run]) -> None:
        began = time.monotonic()
        self._report = QueueReport(active, self._view)
        now = time.monotonic()
        self._report_until = now + max(_REPORT_SECONDS, _REPORT_SHARE * (now - began))

    def _look_at(self, runs: Sequence[Run]) -> None:
        holds = Holds.load(self._store, runs, self._stopping)
        self._unfinished, self._make_until = False, time.monotonic() + _MAKING_SECONDS
        self._said = {}
        for run in runs:
            try:
                self._follow(run, holds)
            except UnreachableError:
                raise
            except Exception:  # one odd run must not keep the others from being followed
                log.exception("run %s cannot be followed", run.id)
        for reason, waiting in self._said.items():
            self._store.explain(waiting, reason)

    def _follow(self, run: Run, holds: Holds) -> None:
        found = self._view.job(run)
        if found is None:
            self._without_job(run, holds)
            return
        if attempt_of(found) != run.attempt:
            self._end_attempt(run, found)
            return
        if found["metadata"].get("deletionTimestamp"):
            return
        if run.job_uid is None:
            self._store.set_job(run, found["metadata"]["uid"])
        if run.nodes > 1:
            self._connect(run, found)
        pods, gone = self._view.job_pods(run), self._view.job_pods(run, gone=True)
        sight = Sight(found, pods, gone, self._view.workload(run), self._clock())
        verdict = judge(run, sight, self._settings.image_wait_seconds)
        change = verdict.change
        if verdict.again:
            # The row first: if we die before the Job is gone, its attempt tells that it must go.
            self._store.requeue([run], verdict.again)
            log.info("run %s is queued again after attempt %d: %s", run.id, run.attempt, verdict.again)
            self._remove(run)
            return
        if change.state is RunState.QUEUED:
            change = change.model_copy(update={"reason": self._why(run)})
        elif verdict.stalled:
            why = self._jobs.trouble(run.namespace, run.job_name)
            change = change.model_copy(update={"reason": f"its pod is refused: {why}" if why else None})
        before = RunChange.of(run)
        reason = change.reason if change.state is RunState.QUEUED else None
        if reason and change == before.model_copy(update={"reason": reason}):
            self._say(run, reason)
        elif change != before:
            self._store.change(run, change)
            if change.state.final:
                self._free(run)
        if verdict.remove_job:
            self._remove(run)

    def _connect(self, run: Run, found: KubeObject) -> None:
        """Let the pods of a gang reach one another."""
        uid = found["metadata"]["uid"]
        if uid not in self._allowed:
            self._jobs.allow(gang_policy(run, uid))
            self._allowed.add(uid)

    def _end_attempt(self, run: Run, found: KubeObject) -> None:
        """The Job is an earlier attempt's: the next one is made when it and its pods are gone."""
        if not found["metadata"].get("deletionTimestamp"):
            self._remove(run)
        self._say(run, f"attempt {run.attempt} waits until the one before it has ended")

    def _without_job(self, run: Run, holds: Holds) -> None:
        if self._clock() - run.submitted_at < _LEAVE_TO_REQUEST or not self._view.fresh():
            return
        never = holds.hopeless(run) if run.job_uid is None else None
        if never:
            self._end(run, RunState.CANCELLED, never)
            return
        held = holds.hold(run) if run.job_uid is None else None
        if held:
            self._say(run, held)
            return
        if run.job_uid is None and time.monotonic() > self._make_until:
            self._unfinished = True
            return
        if self._jobs.exists(run.namespace, run.job_name):
            return  # our copy is behind
        if run.job_uid is not None:
            reason = "its Job was removed from the cluster, not by labctl, before its end was seen"
            self._end(run, RunState.LOST, reason)
            return
        try:
            uid = self._jobs.create(job(run, self._settings, self._registry), run.user)
        except UnreachableError as error:
            self._say(run, f"accepted, the queue does not answer now: {error.detail}")
        except NotFoundError:
            self._end(run, RunState.FAILED, f"project {run.project} is gone")
        except LabclusterError as error:
            self._end(run, RunState.FAILED, f"the cluster refused it: {error.detail}")
        else:
            log.info("made the missing Job of run %s", run.id)
            self._store.set_job(run, uid)

    def _say(self, run: Run, reason: str) -> None:
        if run.reason != reason:
            self._said.setdefault(reason, []).append(run)

    def _end(self, run: Run, state: RunState, reason: str) -> None:
        update = {"state": state, "reason": reason, "finished_at": self._clock()}
        self._store.change(run, RunChange.of(run).model_copy(update=update))
        self._free(run)

    def _free(self, run: Run) -> None:
        """A run has ended: look at once at those that waited for it, one of its own array's among them."""
        if self._stops(run):
            return  # its Job's last event brings us here again
        for run_id in (run.id, run.array_id):
            for waiting in self._waiting.pop(f"after {run_id}", ()):
                self.notice(waiting)
        places = self._waiting.get(f"array {run.array_id}")
        if places:
            self.notice(places.pop(0))

    def _stops(self, run: Run) -> bool:
        """Whether pods of a run that ended in the table, or of its earlier attempt, may still go on."""
        found = self._view.job(run)
        if found is None or (attempt_of(found) == run.attempt and not run.state.final):
            return False
        if condition(found, "Complete") or condition(found, "Failed"):
            return False
        return not any(map(exited, self._view.job_pods(run)))

    def _remove_leftover(self, run: Run) -> None:
        """A run that was ended in the table, but whose Job would go on."""
        found = self._view.job(run)
        if found is None or found["metadata"].get("deletionTimestamp"):
            return
        if run.state is not RunState.CANCELLED and any(map(exited, self._view.job_pods(run))):
            return  # Kubernetes is about to say so of the Job
        if condition(found, "Complete") is None and condition(found, "Failed") is None:
            self._remove(run)

    def _release_lost_pods(self) -> None:
        patience = timedelta(seconds=self._settings.node_loss_seconds)
        for pod in unreachable_pods(self._view.pods(), self._view.nodes(), self._clock(), patience):
            metadata, node = pod["metadata"], pod["spec"]["nodeName"]
            log.warning(
                "node %s is silent: releasing pod %s/%s", node, metadata["namespace"], metadata["name"]
            )
            try:
                self._jobs.release_pod(metadata["namespace"], metadata["name"])
            except LabclusterError as error:
                log.warning("pod %s cannot be released yet: %s", metadata["name"], error)

    def _remove(self, run: Run) -> None:
        try:
            # Not as the user, who may be none any more.
            self._jobs.delete(run.namespace, run.job_name, None)
        except LabclusterError as error:
            log.warning("the Job of ended run %s cannot be removed yet: %s", run.id, error)


def _held(active: Sequence[Run]) -> dict[str, list[str]]:
    """Runs without a Job, by what may let them have one."""
    found: dict[str, list[str]] = {}
    for run in active:
        if run.state is RunState.QUEUED and run.job_uid is None:
            for after in run.after:
                found.setdefault(f"after {after.removesuffix(':ok')}", []).append(run.id)
            if run.array_index is not None:
                found.setdefault(f"array {run.array_id}", []).append(run.id)
    return found
