"""What callers may do with runs: submit, look, read logs, cancel."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

from labcluster.errors import (
    LabclusterError,
    NotAllowedError,
    NotFoundError,
    UncertainError,
    UnreachableError,
    UsageError,
)
from labcluster.models.callers import Caller
from labcluster.models.runs import (
    RUN_ID,
    ImageView,
    NewRun,
    NodeView,
    ProjectShare,
    QueueItem,
    Run,
    RunChange,
    RunFilter,
    RunRequest,
    RunState,
    WhoAmI,
)
from labcluster.models.settings import JobSettings, RunLimits
from labcluster.services import images, submission
from labcluster.services.jobs import job
from labcluster.services.logs import LogTail
from labcluster.services.nodes import list_nodes
from labcluster.services.ports import ClusterView, ImageRegistry, JobApi, LogApi, RunStore
from labcluster.services.queue import QueueReport

log = logging.getLogger(__name__)

# Kueue's webhook refuses Jobs for some seconds while its leader restarts. A submit waits this long for
# it and leaves the rest to the reconciler: the run is accepted either way.
_WEBHOOK = "failed calling webhook"
_WEBHOOK_PATIENCE = 1.5
_WEBHOOK_PAUSE = 0.3

# A database that restarts is back within seconds; so long a lost answer to a commit is looked for.
_COMMIT_CHECKS = 6
_COMMIT_PAUSE = 0.5


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
        self._settings = settings
        self._limits = limits
        self._default_image = default_image
        self._sleep = sleep
        self._clock = clock

    def check(self, caller: Caller, request: RunRequest) -> NewRun:
        """What `submit` would accept, with every name resolved; nothing is written."""
        if caller.admin:
            raise NotAllowedError(f"{caller.user} is an administrator without a project: submit as a member")
        return submission.check(
            request,
            caller.user,
            self._view,
            self._registry,
            default_image=self._default_image,
            limits=self._limits,
        )

    def submit(self, caller: Caller, request: RunRequest) -> tuple[Run, bool]:
        """Accept a run; the flag says whether it is new or an earlier answer to the same key.

        What the cluster would refuse is refused here, before anything is written. Once the row is
        committed the run exists: its Job follows by `make_job`, and if that fails, by the reconciler.
        """
        print_of = submission.fingerprint(request)
        known = self._store.by_key(caller.user, request.idempotency_key, print_of)
        if known is not None:
            return known, False
        new = self.check(caller, request)
        self._rehearse(new)
        try:
            return self._store.add(new, request.idempotency_key, print_of)
        except UncertainError:
            return self._kept(caller.user, request.idempotency_key, print_of), True

    def _rehearse(self, new: NewRun) -> None:
        """Let the apiserver judge the Job under the user's name; it keeps nothing."""
        trial = Run(**new.model_dump(), number=0, state=RunState.QUEUED, submitted_at=self._clock())
        try:
            self._jobs.create(job(trial, self._settings, self._registry.host), new.user, dry_run=True)
        except UnreachableError as error:
            log.warning("a run of %s is accepted without the cluster's judgement: %s", new.user, error)

    def _kept(self, user: str, key: str, print_of: str) -> Run:
        """The row of a commit whose answer was lost: "not accepted" must be true when we say it."""
        for _ in range(_COMMIT_CHECKS):
            self._sleep(_COMMIT_PAUSE)
            try:
                run = self._store.by_key(user, key, print_of)
            except UnreachableError:
                continue
            if run is None:
                break
            return run
        else:
            raise UncertainError("the run database died over the commit and does not answer yet: ask again")
        raise UnreachableError("the run database died before the commit: nothing was submitted")

    def make_job(self, run: Run) -> None:
        """Make the Job of an accepted run; after the answer, so that nobody waits for the queue's start."""
        manifest = job(run, self._settings, self._registry.host)
        patience = _WEBHOOK_PATIENCE
        while True:
            try:
                uid = self._jobs.create(manifest, run.user)
            except UnreachableError as error:
                if _WEBHOOK not in error.detail or patience <= 0:
                    log.warning("run %s is accepted, its Job comes later: %s", run.id, error)
                    return
                self._sleep(_WEBHOOK_PAUSE)
                patience -= _WEBHOOK_PAUSE
            except LabclusterError as error:
                # Something changed since the rehearsal; the reconciler asks once more and tells the user.
                log.warning("the Job of run %s is refused: %s", run.id, error)
                return
            else:
                break
        try:
            self._store.set_job(run, uid)
        except UnreachableError as error:
            # The Job is there and the row too: the reconciler notes the one in the other.
            log.warning("the Job of run %s is made but not noted yet: %s", run.id, error)

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
    ) -> list[Run]:
        """Runs of the caller's projects, newest first."""
        allowed = None if caller.admin else frozenset(self._view.memberships(caller.user))
        if project is not None:
            if allowed is not None and project not in allowed:
                raise self._foreign_project(caller, project)
            allowed = frozenset({project})
        query = RunFilter(projects=allowed, user=user, states=states, limit=limit)
        return list(self._store.find(query))

    def recent(self, limit: int) -> list[Run]:
        """The newest runs of all projects, for the start page."""
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
