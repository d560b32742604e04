"""How a submit is accepted: judged first, then committed, and only then made.

Once its row is committed a run exists. Its Job follows after the answer; if that fails, or if we die
first, by the reconciler.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from labcluster.errors import (
    ConflictError,
    LabclusterError,
    NotAllowedError,
    NotFoundError,
    UncertainError,
    UnreachableError,
    UsageError,
)
from labcluster.models.callers import Caller
from labcluster.models.code import MAX_SEED
from labcluster.models.runs import RUN_ID, Member, NewRun, Run, RunRequest, RunState, Submission
from labcluster.models.settings import JobSettings, RunLimits
from labcluster.services import holding, submission
from labcluster.services.jobs import job
from labcluster.services.ports import ClusterView, ImageRegistry, JobApi, RunStore
from labcluster.services.rehearsal import Rehearsals

log = logging.getLogger(__name__)

# Kueue's webhook refuses Jobs for some seconds while its leader restarts. A submit waits this long for
# it and leaves the rest to the reconciler: the run is accepted either way.
_WEBHOOK = "failed calling webhook"
_WEBHOOK_PATIENCE = 1.5
_WEBHOOK_PAUSE = 0.3

# A database that restarts is back within seconds; so long a lost answer to a commit is looked for.
_COMMIT_CHECKS = 6
_COMMIT_PAUSE = 0.5

# Of one submit we make so many Jobs at once; the reconciler makes the others, beside its other work.
_JOBS_AT_ONCE = 20


class Acceptance:
    """Accepts runs; `caller` is always proven before."""

    def __init__(
        self,
        *,
        store: RunStore,
        view: ClusterView,
        jobs: JobApi,
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
        self._registry = registry
        self._settings = settings
        self._limits = limits
        self._default_image = default_image
        self._sleep = sleep
        self._clock = clock
        self._rehearsals = Rehearsals()

    def check(self, caller: Caller, request: RunRequest) -> Submission:
        """The request with every name resolved; nothing is written."""
        return self.check_all(caller, [request], lines=False)[0]

    def submit(
        self, caller: Caller, requests: Sequence[RunRequest], key: str, *, lines: bool = False
    ) -> tuple[list[Run], bool]:
        """Accept all or none; of an array its first member is given. The flag says whether they are new.

        What the cluster would refuse is refused here, before anything is written. With `lines` an error
        names the request that it is about, counted from 1.
        """
        print_of = _fingerprint(requests)
        try:
            items = self.check_all(caller, requests, lines=lines)
            self._rehearse(items, lines=lines)
        except LabclusterError:
            # What was accepted once stays accepted, although it would not be today.
            known = self._store.by_key(caller.user, key, print_of, len(requests))
            if known:
                return known, False
            raise
        items = [_with_seed(item) for item in items]
        try:
            return self._store.add(items, key, print_of)
        except UncertainError:
            return self._kept(caller.user, key, print_of, len(requests)), True

    def check_all(self, caller: Caller, requests: Sequence[RunRequest], *, lines: bool) -> list[Submission]:
        """The same for several; with `lines` an error names the one that it is about, counted from 1."""
        if caller.admin:
            raise NotAllowedError(f"{caller.user} is an administrator without a project: submit as a member")
        items = []
        for line, request in enumerate(requests, 1):
            try:
                items.append(
                    submission.check(
                        request,
                        caller.user,
                        self._view,
                        self._registry,
                        default_image=self._default_image,
                        limits=self._limits,
                    )
                )
            except LabclusterError as error:
                raise _of_line(error, line, lines) from None
        total = sum(len(item.array.indices) if item.array else 1 for item in items)
        if total > self._limits.max_array:
            raise UsageError(f"{total} runs at once: at most {self._limits.max_array} are allowed")
        self._check_after(caller, items, lines=lines)
        self._check_parents(caller, items, lines=lines)
        return items

    def _check_parents(self, caller: Caller, items: Sequence[Submission], *, lines: bool) -> None:
        """That the runs they repeat are there and theirs to see."""
        mine = self._view.memberships(caller.user)
        wanted = {parent: RUN_ID.fullmatch(parent) for item in items if (parent := item.run.parent)}
        targets = [
            (match["project"], int(match["number"]), int(match["trial"]) if match["trial"] else None)
            for match in wanted.values()
            if match and match["project"] in mine
        ]
        states = self._store.states(targets) if targets else {}
        for line, item in enumerate(items, 1):
            if item.run.parent is not None and item.run.parent not in states:
                absent = NotFoundError(f"there is no run {item.run.parent} in your projects")
                raise _of_line(absent, line, lines)

    def _check_after(self, caller: Caller, items: Sequence[Submission], *, lines: bool) -> None:
        """That all they come after is there, is theirs to see, and can still end as they want it."""
        mine = self._view.memberships(caller.user)
        wanted = {after: holding.target(after) for item in items for after in item.run.after}
        states = self._store.states(wanted.values()) if wanted else {}
        for line, item in enumerate(items, 1):
            for after in item.run.after:
                project, run_id = wanted[after][0], after.removesuffix(":ok")
                if project not in mine and self._view.project(project) is not None:
                    foreign = f"--after {after}: {caller.user} is no member of project {project}"
                    raise _of_line(NotAllowedError(foreign), line, lines)
                if project not in mine or run_id not in states:
                    absent = f"--after {after}: there is no run {run_id} in your projects"
                    raise _of_line(NotFoundError(absent), line, lines)
            never = holding.Holds(states, {}).hopeless(item.run)
            if never:
                raise _of_line(ConflictError(f"--after: {never.removeprefix('cancelled: ')}"), line, lines)

    def _rehearse(self, items: Sequence[Submission], *, lines: bool) -> None:
        """Let the apiserver judge the Jobs under the user's name; it keeps nothing.

        Runs of one shape are judged once, also in several submits shortly after one another.
        """
        for line, item in enumerate(items, 1):
            new = item.run
            facts = (self._member(new), self._view.project(new.project))
            if self._rehearsals.known(new, facts):
                continue
            manifest = job(self._trial(item), self._settings, self._registry.host)
            try:
                self._jobs.create(manifest, new.user, dry_run=True)
            except UnreachableError as error:
                log.warning("a run of %s is accepted without the cluster's judgement: %s", new.user, error)
            except LabclusterError as error:
                raise _of_line(error, line, lines) from None
            else:
                self._rehearsals.keep(new, facts)

    def _trial(self, item: Submission) -> Run:
        index = item.array.indices[-1] if item.array else None
        own = item.run.model_dump() | {"array_index": index, "trial": index or 0, "number": 0}
        return Run(**own, state=RunState.QUEUED, submitted_at=self._clock())

    def _member(self, run: NewRun) -> Member | None:
        members: Mapping[str, Member] = self._view.memberships(run.user)
        return members.get(run.project)

    def _kept(self, user: str, key: str, print_of: str, items: int) -> list[Run]:
        """The rows of a commit whose answer was lost: "not accepted" must be true when we say it."""
        for _ in range(_COMMIT_CHECKS):
            self._sleep(_COMMIT_PAUSE)
            try:
                runs = self._store.by_key(user, key, print_of, items)
            except UnreachableError:
                continue
            if not runs:
                break
            return runs
        else:
            raise UncertainError("the run database died over the commit and does not answer yet: ask again")
        raise UnreachableError("the run database died before the commit: nothing was submitted")

    def make_jobs(self, runs: Sequence[Run]) -> None:
        """Make the Jobs of accepted runs that may have one now; after the answer: nobody waits for it."""
        try:
            members: list[Run] = []
            for run in runs:
                whole = run.array_index is not None and len(members) < _JOBS_AT_ONCE
                members += self._store.members(run.project, run.number) if whole else [run]
            holds = holding.Holds.load(self._store, members)
        except UnreachableError as error:
            log.warning("the Jobs of accepted runs come later: %s", error)
            return
        ready = [run for run in members if run.state is RunState.QUEUED and holds.hold(run) is None]
        for run in ready[:_JOBS_AT_ONCE]:
            self._make_job(run)

    def _make_job(self, run: Run) -> None:
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
                self._rehearsals.forget()
                return
            else:
                break
        try:
            self._store.set_job(run, uid)
        except UnreachableError as error:
            # The Job is there and the row too: the reconciler notes the one in the other.
            log.warning("the Job of run %s is made but not noted yet: %s", run.id, error)


def _fingerprint(requests: Sequence[RunRequest]) -> str:
    """What tells two requests under one idempotency key apart."""
    prints = [submission.fingerprint(request) for request in requests]
    return prints[0] if len(prints) == 1 else hashlib.sha256(json.dumps(prints).encode()).hexdigest()


def _with_seed(item: Submission) -> Submission:
    """Every run has one, so that any can be repeated with it; only its own words may ask for another."""
    if item.run.seed is not None:
        return item
    run = item.run.model_copy(update={"seed": secrets.randbelow(MAX_SEED + 1)})
    return item.model_copy(update={"run": run})


def _of_line(error: LabclusterError, line: int, lines: bool) -> LabclusterError:
    return type(error)(f"line {line}: {error.detail}") if lines else error
