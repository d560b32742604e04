"""The arms of sweeps: when one gets its parameters, how good it was, and when it is ended early.

Arms are members of an array and follow the queue as those do; until its parameters are drawn an arm is held
(`services.holding`). What was drawn and reported lies in the study, what became of it in the run table, so
that this may be killed at any point: an arm that was drawn is given the same parameters again.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import Protocol

from labcluster.errors import LabclusterError, UnreachableError
from labcluster.models.arms import Sweep
from labcluster.models.runs import Run, RunChange, RunState
from labcluster.models.sweeps import Goal, Sampler, SweepSpec, batched
from labcluster.services.turns import take_turns

log = logging.getLogger(__name__)

PRUNED = "pruned at step"

_TURN_SECONDS = 3.0
# Values of one arm that are looked at in one turn; of more, so many evenly chosen ones.
_MOST_VALUES = 50
# So long the next arm waits for the metric of one that has ended, where it is drawn from what is known.
_WAIT_FOR_VALUE = timedelta(minutes=2)


class SweepTable(Protocol):
    """What the run table knows of sweeps. UnreachableError when the database is away."""

    def alone(self) -> AbstractContextManager[bool]:
        """Whether nobody else draws now, and nobody will while the context lasts."""

    def pending(self) -> bool:
        """Whether `open` has anything to give; cheap."""

    def open(self) -> Sequence[Sweep]:
        """Sweeps with arms whose end was not taken note of, the oldest first."""

    def draw(self, arm: Run, params: Mapping[str, str]) -> bool:
        """Give an arm its parameters, once; false if it has some, or was ended meanwhile."""

    def judge(self, arm: Run, value: float | None, moment: datetime) -> None:
        """Take note of this attempt's end."""

    def end(
        self, project: str, number: int, trials: Sequence[int] | None, change: RunChange
    ) -> Sequence[Run]:
        """As the run table's."""


class Study(Protocol):
    """What was drawn for a sweep and how it went. UnreachableError when its storage is away."""

    def draw(self, arm: int) -> Mapping[str, str]:
        """The parameters of an arm; the same again when asked again. Arms are drawn in their order."""

    def report(self, arm: int, values: Sequence[tuple[int, float]]) -> int | None:
        """Take note of values by step; the step at which the arm is not worth going on, if there is one."""

    def end(self, arm: int, value: float | None, *, pruned: bool) -> None:
        """Take note of an arm's end; without a value it tells nothing about its parameters."""


class Metrics(Protocol):
    """Metrics of runs. UnreachableError when they cannot be read now."""

    def history(self, run: Run, metric: str) -> Sequence[tuple[int, float]]:
        """Its values by step, the earliest first; empty if there are none."""


def best_arm(arms: Sequence[Run], spec: SweepSpec) -> Run | None:
    """The arm with the best value of those that succeeded; of equal ones the first."""
    valued = [arm for arm in arms if arm.state is RunState.SUCCEEDED and arm.value is not None]
    sign = -1 if spec.goal is Goal.MAX else 1
    return min(valued, key=lambda arm: sign * (arm.value or 0.0), default=None)


class Sweeper:
    """Draws, judges and ends arms. Nothing that it remembers is needed after a restart."""

    def __init__(
        self,
        *,
        table: SweepTable,
        study_of: Callable[[Sweep], Study],
        metrics: Metrics | None,
        wake: Callable[[str], None] = lambda _: None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._table = table
        self._study_of = study_of
        self._metrics = metrics
        self._wake = wake
        self._clock = clock
        self._said: dict[str, str] = {}

    def run(self, stop: threading.Event) -> None:
        """Follow until `stop` is set. Failures are logged and tried again, never raised."""
        take_turns(stop, self.turn, "sweeps", seconds=_TURN_SECONDS)

    def turn(self) -> None:
        """Look at every sweep that goes on, once."""
        if not self._table.pending():
            return
        with self._table.alone() as alone:
            if not alone:
                return
            for sweep in self._table.open():
                try:
                    self._follow(sweep)
                except LabclusterError as error:
                    self._say(sweep.id, error)
                except Exception:  # one odd sweep must not keep the others from going on
                    log.exception("sweep %s cannot be followed", sweep.id)

    def _follow(self, sweep: Sweep) -> None:
        late = 0
        for arm in sweep.arms:
            if arm.state.final and arm.judged_at is None:
                late += not self._judge(sweep, arm)
            elif arm.state is RunState.RUNNING and sweep.spec.stop_early:
                self._watch(sweep, arm)
        taken = sum(arm.drawn and not arm.state.final for arm in sweep.arms)
        if sweep.spec.sampler is Sampler.TPE:
            taken += late
        waiting = [arm for arm in sweep.arms if not arm.drawn and arm.state is RunState.QUEUED]
        for arm in waiting[: max(0, sweep.spec.limit() - taken)]:
            params = self._study_of(sweep).draw(arm.trial)
            if self._table.draw(arm, {**arm.params, **params}):
                words = " ".join(f"{name}={value}" for name, value in params.items())
                log.info("arm %s is drawn: %s", arm.id, words)
                self._wake(arm.id)

    def _judge(self, sweep: Sweep, arm: Run) -> bool:
        """Take note of an arm's end; false if the next one should wait for its metric."""
        spec, pruned = sweep.spec, (arm.reason or "").startswith(PRUNED)
        history: Sequence[tuple[int, float]] = ()
        if spec.metric and arm.drawn and (arm.state is RunState.SUCCEEDED or pruned):
            if self._metrics and arm.recorded_at is None and not pruned:
                return self._waited(arm)
            try:
                history = self._metrics.history(arm, spec.metric) if self._metrics else ()
            except UnreachableError as error:
                self._say(sweep.id, error)
                return self._waited(arm)
        value = history[-1][1] if history and math.isfinite(history[-1][1]) else None
        if arm.drawn:
            study = self._study_of(sweep)
            if spec.stop_early and history:
                # What came between the last look and its end: the others are measured by it.
                study.report(arm.trial, batched(list(history), _MOST_VALUES))
            study.end(arm.trial, value, pruned=pruned)
        self._table.judge(arm, value, self._clock())
        return True

    def _waited(self, arm: Run) -> bool:
        return arm.finished_at is None or self._clock() - arm.finished_at > _WAIT_FOR_VALUE

    def _watch(self, sweep: Sweep, arm: Run) -> None:
        """End an arm whose metric falls behind."""
        metric = sweep.spec.metric
        if metric is None or self._metrics is None:
            return
        try:
            values = dict(self._metrics.history(arm, metric))
        except UnreachableError as error:
            self._say(sweep.id, error)
            return
        if not values:
            return
        step = self._study_of(sweep).report(arm.trial, batched(sorted(values.items()), _MOST_VALUES))
        if step is None:
            return
        reason = f"{PRUNED} {step}: {metric} {values[step]:g} falls behind the other arms'"
        change = RunChange(state=RunState.CANCELLED, reason=reason, finished_at=self._clock())
        if self._table.end(arm.project, arm.number, [arm.trial], change):
            log.info("arm %s is %s", arm.id, reason)
            self._wake(arm.id)

    def _say(self, sweep: str, error: LabclusterError) -> None:
        """Log it unless it was the last that was said."""
        if self._said.get(sweep) != str(error):
            self._said[sweep] = str(error)
            log.warning("sweep %s goes on later: %s", sweep, error)
