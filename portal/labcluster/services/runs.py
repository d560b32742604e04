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
    UsageError,
)
from labcluster.models.callers import Caller
from labcluster.models.runs import (
    RUN_ID,
    BulkRequest,
    ImageView,
    NewRun,
    NodeView,
    ProjectShare,
    QueueItem,
    Run,
    RunArray,
    RunChange,
    RunFilter,
    RunRequest,
    RunState,
    WhoAmI,
)
from labcluster.models.settings import JobSettings, RunLimits
from labcluster.services import images
from labcluster.services.acceptance import Acceptance
from labcluster.services.logs import LogTail
from labcluster.services.nodes import list_nodes
from labcluster.services.ports import ClusterView, ImageRegistry, JobApi, LogApi, RunStore
from labcluster.services.queue import QueueReport

log = logging.getLogger(__name__)


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

    def make_jobs(self, runs: Sequence[Run]) -> None:
        """Make the Jobs of runs that were just accepted, as far as they may have one now."""
        self._acceptance.make_jobs(runs)

    def get(self, caller: Caller, run_id: str) -> Run:
        """A run of one of the caller's projects."""
        match = RUN_ID.fullmatch(run_id)
        if match is None:
            raise UsageError(f"{run_id!r} is not the id of a run, such as vision-12")
        if caller.admin or match["project"] in self._view.memberships(caller.user):
            run = self._store.get(match["project"], int(match["number"]), int(match["trial"] or 0))
            if run is not None:
                return run
        raise NotFoundError(f"there is no run {run_id} in your projects")

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

    def recent(self, limit: int) -> list[Run | RunArray]:
        """The newest runs and arrays of all projects, for the start page."""
        return list(self._store.find(RunFilter(limit=limit)))

    def cancel(self, caller: Caller, run_id: str) -> Run:
        """End a run; one that ended already stays as it is."""
        run = self.get(caller, run_id)
        if run.user != caller.user and not caller.admin:
            raise NotAllowedError(f"run {run.id} belongs to {run.user}: only {run.user} may cancel it")
        if run.state.final:
            return run
        update = {
            "state": RunState.CANCELLED,
            "reason": f"cancelled by {caller.user}",
            "finished_at": self._clock(),
        }
        # The table first: if we die before the Job is gone, the reconciler removes it.
        self._store.change(run, RunChange.of(run).model_copy(update=update))
        try:
            self._jobs.delete(run.namespace, run.job_name, run.user)
        except LabclusterError as error:
            log.warning("run %s is cancelled, its Job goes later: %s", run.id, error)
        return self._store.get(run.project, run.number, run.trial) or run

    def logs(self, caller: Caller, run_id: str, *, follow: bool) -> LogTail:
        """The output of a run."""
        run = self.get(caller, run_id)
        # The portal itself may read no log: an administrator reads it as the run's owner.
        reader = run.user if caller.admin else caller.user
        tail = LogTail(run, self._store, self._view, self._logs, reader, follow)
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

    def images(self, caller: Caller, project: str | None) -> list[ImageView]:
        """Images for the runs of a project, or of all of the caller's."""
        mine = sorted(self._view.memberships(caller.user))
        if project is not None and project not in mine and not caller.admin:
            raise self._foreign_project(caller, project)
        return images.list_images(self._registry, [project] if project else mine)

    def _foreign_project(self, caller: Caller, project: str) -> LabclusterError:
        if self._view.project(project) is None:
            return NotFoundError(f"there is no project {project!r}")
        return NotAllowedError(f"{caller.user} is no member of project {project}")
