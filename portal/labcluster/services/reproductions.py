"""Verdicts of `labctl reproduce`, kept beside the runs.

labctl judges, because run directories are read as their reader (decision 17); what is checked here is that
a verdict is about two runs that belong together, and comes from whom the repetition belongs to.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import Protocol

from labcluster.errors import ConflictError, NotAllowedError, UsageError
from labcluster.models.callers import Caller
from labcluster.models.reproductions import (
    Reproduction,
    ReproductionList,
    ReproductionReport,
    Verdict,
    VerdictRequest,
)
from labcluster.models.runs import Run, RunView
from labcluster.services import images
from labcluster.services.ports import ImageRegistry
from labcluster.services.runs import RunService

MAX_REPORT_BYTES = 512 * 1024


class ReproductionStore(Protocol):
    """The table of verdicts."""

    def keep(self, of: Run, found: ReproductionReport) -> None:
        """Write a verdict down; a later one about the same two runs takes its place."""

    def about(self, ids: Collection[str]) -> Sequence[ReproductionReport]:
        """Verdicts on runs or on their being repetitions, oldest first."""


class ReproductionService:
    """What may be asked and said about reproducing runs; `caller` is proven before."""

    def __init__(
        self,
        store: ReproductionStore,
        runs: RunService,
        registry: ImageRegistry,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._runs = runs
        self._registry = registry
        self._clock = clock

    def known(self, caller: Caller, run_id: str) -> ReproductionList:
        """What is known about reproducing a run of the caller's projects."""
        run = self._runs.get(caller, run_id)
        return ReproductionList(image_there=self._image_there(run), items=list(self._store.about([run.id])))

    def keep(self, caller: Caller, run_id: str, request: VerdictRequest) -> Reproduction:
        """Keep a verdict on a run, by whom the repetition belongs to."""
        run = self._runs.get(caller, run_id)
        if len(json.dumps(request.report)) > MAX_REPORT_BYTES:
            raise UsageError(f"the report of a verdict has at most {MAX_REPORT_BYTES // 1024} KiB")
        if request.again is None:
            if request.verdict is not Verdict.IMPOSSIBLE:
                raise UsageError(f"{request.verdict} is a verdict on two runs: name the one that repeats it")
        else:
            self._check_pair(caller, run, self._runs.get(caller, request.again))
        found = ReproductionReport(of=run.id, by=caller.user, at=self._clock(), **request.model_dump())
        self._store.keep(run, found)
        return found.brief

    def told(self, views: Sequence[RunView]) -> list[RunView]:
        """The same runs with the verdicts on them; of those that go on there are none yet."""
        ids = [view.id for view in views if view.state.final and view.array is None]
        kept = self._store.about(ids) if ids else []
        if not kept:
            return list(views)
        return [
            view.model_copy(
                update={
                    "reproductions": tuple(
                        found.brief for found in kept if view.id in (found.of, found.again)
                    )
                }
            )
            for view in views
        ]

    def _image_there(self, run: Run) -> bool:
        try:
            repository, _, _ = images.split(self._registry.host, run.image)
        except (NotAllowedError, UsageError):  # of a registry that the site had before
            return False
        return self._registry.digest(repository, run.image_digest) is not None

    @staticmethod
    def _check_pair(caller: Caller, run: Run, again: Run) -> None:
        if again.parent != run.id:
            raise UsageError(f"{again.id} does not repeat {run.id}")
        if again.user != caller.user and not caller.admin:
            raise NotAllowedError(f"run {again.id} belongs to {again.user}: only {again.user} may judge it")
        if not again.state.final:
            raise ConflictError(f"{again.id} has not ended: there is nothing to judge yet")
