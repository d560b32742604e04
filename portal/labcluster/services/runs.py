"""What callers may do with runs: submit, look, read logs, cancel."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from labcluster.errors import (
    LabclusterError,
    NotAllowedError,
    NotFoundError,
    UnreachableError,
    UsageError,
)
from labcluster.models.arms import SweepView
from labcluster.models.callers import Caller
from labcluster.models.cancelling import Cancelled
from labcluster.models.nodes import NodeView
from labcluster.models.runs import (
    RUN_ID,
    BulkRequest,
    NewRun,
    ProjectShare,
    QueueItem,
    Run,
    RunArray,
    RunChange,
    RunFilter,
    RunRequest,
    RunState,
    RunView,
    WhoAmI,
)
from labcluster.models.settings import JobSettings, RunLimits
from labcluster.services.acceptance import Acceptance
from labcluster.services.arrays import MAX_INDEX, parse_indices
from labcluster.services.logs import LogTail
from labcluster.services.nodes import list_nodes
from labcluster.services.ports import ClusterView, ImageRegistry, JobApi, LogApi, RunStore
from labcluster.services.queue import QueueReport
from labcluster.services.sweeps import best_arm

log = logging.getLogger(__name__)


# The reconciler removes the Jobs of the other members of a cancelled array.
_REMOVED_AT_ONCE = 20
# So many of the ids that are wrong are named.
_NAMED = 5


class RunService:
    """Every use of runs that the portal offers; `caller` is always proven before."""

    def __init__(
        self,
        *,
        store: RunStore,
        view: ClusterView,
        jobs: JobApi,
        logs: LogApi,
        registry: ImageRegistry,
        settings: JobSettings,
        limits: RunLimits,
        default_image: str,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._view = view
        self._jobs = jobs
        self._logs = logs
        self._registry = registry
        self._clock = clock
        self._acceptance = Acceptance(
            store=store,
            view=view,
            jobs=jobs,
            registry=registry,
            settings=settings,
            limits=limits,
            default_image=default_image,
            sleep=sleep,
            clock=clock,
        )

    def check(self, caller: Caller, request: RunRequest) -> NewRun:
        """What `submit` would accept, with every name resolved; nothing is written."""
        return self._acceptance.check(caller, request).run

    def submit(self, caller: Caller, request: RunRequest) -> tuple[Run, bool]:
        """Accept a run or an array, of which the first member is given; the flag says whether it is new."""
        runs, created = self._acceptance.submit(caller, [request], request.idempotency_key)
        return runs[0], created

    def submit_all(self, caller: Caller, request: BulkRequest) -> tuple[list[Run], bool]:
        """Accept all or none of several; an error names the line."""
        return self._acceptance.submit(caller, request.items, request.idempotency_key, lines=True)

    def check_all(self, caller: Caller, request: BulkRequest) -> list[NewRun]:
        """What `submit_all` would accept; nothing is written."""
        items = self._acceptance.check_all(caller, request.items, lines=True)
        return [item.run for item in items]

    def make_jobs(self, runs: Sequence[Run]) -> None:
        """Make the Jobs of runs that were just accepted, as far as they may have one now."""
        self._acceptance.make_jobs(runs)

    def look(self, caller: Caller, run_id: str) -> Run | RunArray:
        """A run, a member of an array, or an array as a whole, of one of the caller's projects."""
        match = RUN_ID.fullmatch(run_id)
        if match is None:
            raise UsageError(f"{run_id!r} is not the id of a run, such as vision-12")
        if caller.admin or match["project"] in self._view.memberships(caller.user):
            project, number, trial = match["project"], int(match["number"]), match["trial"]
            run = self._store.get(project, number, int(trial or 0))
            if run is not None and run.id == f"{project}-{number}" + (f".{int(trial)}" if trial else ""):
                return run
            array = self._store.array(project, number) if trial is None else None
            if array is not None:
                return array
        raise NotFoundError(f"there is no run {run_id} in your projects")

    def get(self, caller: Caller, run_id: str) -> Run:
        """One run, which may be a member of an array, of one of the caller's projects."""
        run = self.look(caller, run_id)
        if isinstance(run, RunArray):
            raise UsageError(f"{run.id} is an array: name a member, such as {run.first.id}")
        return run

    def members(self, caller: Caller, run_id: str, states: frozenset[RunState] | None) -> list[Run]:
        """The members of an array by index."""
        array = self.look(caller, run_id)
        if isinstance(array, Run):
            raise UsageError(f"{array.id} is no array")
        members = self._store.members(array.first.project, array.first.number)
        return [run for run in members if states is None or run.state in states]

    def sweep(self, caller: Caller, run_id: str) -> SweepView:
        """A sweep with its arms by index."""
        array = self.look(caller, run_id)
        if isinstance(array, Run) or array.summary.sweep is None:
            raise UsageError(f"{array.id} is no sweep")
        arms = self._store.members(array.first.project, array.first.number)
        best = best_arm(arms, array.summary.sweep)
        return SweepView(
            run=RunView.of(array),
            sweep=array.summary.sweep,
            best=best.id if best else None,
            arms=[RunView.of(arm) for arm in arms],
        )

    def find(
        self,
        caller: Caller,
        *,
        project: str | None,
        user: str | None,
        states: frozenset[RunState] | None,
        limit: int,
    ) -> list[Run | RunArray]:
        """Runs and arrays of the caller's projects, newest first."""
        allowed = None if caller.admin else frozenset(self._view.memberships(caller.user))
        if project is not None:
            if allowed is not None and project not in allowed:
                raise self._foreign_project(caller, project)
            allowed = frozenset({project})
        query = RunFilter(projects=allowed, user=user, states=states, limit=limit)
        return list(self._store.find(query))

    def recent(self, limit: int) -> list[RunView]:
        """The newest runs and arrays of all projects, for the start page."""
        return [RunView.of(run) for run in self._store.find(RunFilter(limit=limit))]

    def cancel(self, caller: Caller, run_id: str, index: str | None = None) -> Run | RunArray:
        """End a run, an array, or those of its members that `index` names; what ended already stays."""
        run = self._owned(caller, run_id, "cancel")
        trials = self._trials(run, index)
        change = RunChange(
            state=RunState.CANCELLED, reason=f"cancelled by {caller.user}", finished_at=self._clock()
        )
        first = run.first if isinstance(run, RunArray) else run
        # The table first: if we die before the Jobs are gone, the reconciler removes them.
        ended = self._store.end(first.project, first.number, trials, change)
        self._remove_jobs([one for one in ended if one.job_uid or one.array_index is None])
        return self.look(caller, run.id)

    def cancel_all(self, caller: Caller, run_ids: Sequence[str], *, dry_run: bool = False) -> list[Cancelled]:
        """End several runs or arrays; one that is wrong ends none, with `dry_run` they are only looked up.

        Those that the database did not end any more are named in the answer, with the reason.
        """
        runs = self._owned_all(caller, list(dict.fromkeys(run_ids)))
        before = [RunView.of(run) for run in runs]
        if dry_run:
            return [Cancelled(before=view, after=None) for view in before]
        change = RunChange(
            state=RunState.CANCELLED, reason=f"cancelled by {caller.user}", finished_at=self._clock()
        )
        found: list[Cancelled] = []
        jobs: list[Run] = []
        away: UnreachableError | None = None
        for run, view in zip(runs, before, strict=True):
            first, trials = (run.first, None) if isinstance(run, RunArray) else (run, (run.trial,))
            try:
                if away is not None:  # every further try would cost its time limit
                    raise away
                ended = self._store.end(first.project, first.number, trials, change)
                after = ended[0] if ended and isinstance(run, Run) else self.look(caller, run.id)
            except LabclusterError as error:
                away = error if isinstance(error, UnreachableError) else away
                found.append(Cancelled(before=view, after=None, problem=error.detail, code=error.exit_code))
                continue
            jobs += [one for one in ended if one.job_uid or one.array_index is None]
            found.append(Cancelled(before=view, after=RunView.of(after)))
        self._remove_jobs(jobs)
        return found

    def _owned_all(self, caller: Caller, run_ids: Sequence[str]) -> list[Run | RunArray]:
        """Runs that the caller may end; the first error, with the number of the others, if one is not."""
        found: list[Run | RunArray] = []
        wrong: list[LabclusterError] = []
        for run_id in run_ids:
            try:
                found.append(self._owned(caller, run_id, "cancel"))
            except UnreachableError:
                raise
            except LabclusterError as error:
                wrong.append(error)
        if wrong:
            others = "; ".join(error.detail for error in wrong[1:_NAMED])
            more = f"; and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
            raise type(wrong[0])(wrong[0].detail + (f"; {others}" if others else "") + more)
        return found

    def requeue(self, caller: Caller, run_id: str, index: str | None = None) -> Run | RunArray:
        """End the present attempt of a run, if it has one, and queue the next.

        Of an array, without `index`, those members that run or that ended without success. The
        reconciler removes the Job of the old attempt and makes that of the new one.
        """
        run = self._owned(caller, run_id, "queue it again")
        first = run.first if isinstance(run, RunArray) else run
        if first.project not in self._view.memberships(first.user):
            raise NotAllowedError(f"{first.user} is no member of project {first.project} any more")
        trials = self._trials(run, index)
        if isinstance(run, RunArray):
            chosen = [
                member
                for member in self._store.members(first.project, first.number)
                if (trials is None and member.state is not RunState.SUCCEEDED)
                or (trials is not None and member.trial in trials)
            ]
        else:
            chosen = [run]
        # What waits without a Job is queued as well as it can be.
        again = [one for one in chosen if one.state is not RunState.QUEUED or one.job_uid is not None]
        self._store.requeue(again, f"queued again by {caller.user}")
        return self.look(caller, run.id)

    def _remove_jobs(self, runs: Sequence[Run]) -> None:
        """Remove the Jobs of runs that were ended in the table, as many as one request may wait for."""
        for run in runs[:_REMOVED_AT_ONCE]:
            try:
                self._jobs.delete(run.namespace, run.job_name, run.user)
            except LabclusterError as error:
                log.warning("run %s is cancelled, its Job goes later: %s", run.id, error)
                if isinstance(error, UnreachableError):
                    return

    def _owned(self, caller: Caller, run_id: str, verb: str) -> Run | RunArray:
        run = self.look(caller, run_id)
        owner = run.first.user if isinstance(run, RunArray) else run.user
        if owner != caller.user and not caller.admin:
            raise NotAllowedError(f"run {run.id} belongs to {owner}: only {owner} may {verb}")
        return run

    def _trials(self, run: Run | RunArray, index: str | None) -> tuple[int, ...] | None:
        """The members that are meant; None for all."""
        if isinstance(run, Run):
            if index is not None:
                raise UsageError(f"--index {index}: {run.id} is no array")
            return (run.trial,)
        if index is None:
            return None
        trials = parse_indices("--index", index, MAX_INDEX + 1)
        there = {member.trial for member in self._store.members(run.first.project, run.first.number)}
        absent = [str(trial) for trial in trials if trial not in there]
        if absent:
            has = f"array {run.id} ({run.summary.indices}) has no member"
            raise NotFoundError(f"--index {index}: {has} {', '.join(absent[:5])}")
        return trials

    def logs(self, caller: Caller, run_id: str, *, follow: bool, rank: int = 0) -> LogTail:
        """The output of one of a run's pods."""
        run = self.get(caller, run_id)
        # The portal itself may read no log: an administrator reads it as the run's owner.
        reader = run.user if caller.admin else caller.user
        tail = LogTail(run, self._store, self._view, self._logs, reader, follow, rank)
        tail.check()
        return tail

    def queue(self) -> list[QueueItem]:
        """Everything that waits or runs; like squeue, for everybody to see."""
        active = self._store.active()
        return QueueReport(active, self._view).items()

    def nodes(self) -> list[NodeView]:
        """All nodes for runs."""
        return list_nodes(self._view.nodes(), self._view.pods())

    def whoami(self, caller: Caller) -> WhoAmI:
        """The caller and his projects."""
        shares: list[ProjectShare] = []
        for name in sorted(self._view.memberships(caller.user)) if not caller.admin else []:
            share = self._view.project(name)
            if share is not None:
                shares.append(share)
        return WhoAmI(user=caller.user, uid=caller.uid, admin=caller.admin, projects=shares)

    def _foreign_project(self, caller: Caller, project: str) -> LabclusterError:
        if self._view.project(project) is None:
            return NotFoundError(f"there is no project {project!r}")
        return NotAllowedError(f"{caller.user} is no member of project {project}")
