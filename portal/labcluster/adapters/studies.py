"""Studies of sweeps in Optuna. Trial n of a study is arm n of its sweep, so that none is drawn twice."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from labcluster.errors import UnreachableError
from labcluster.models.arms import Sweep
from labcluster.models.sweeps import Goal, Range, Sampler, SweepSpec

if TYPE_CHECKING:
    import optuna

# Optuna's tables lie in a schema of their own: both keep a table `alembic_version`.
SCHEMA = "optuna"

# Each keeps its trials in memory.
_MOST_OPEN = 32

# Among so few arms nothing can be learned yet: they are drawn at random.
_RANDOM_AT_FIRST = 10
# Of the arms that reach a rung one in so many goes on, as in Determined's ASHA.
_REDUCTION = 3


class OptunaStudies:
    """Opens studies, and keeps those that are open. Optuna is loaded when the first sweep needs it."""

    def __init__(self, url: sa.URL | str, arguments: Mapping[str, Any] | None = None) -> None:
        self._url = url
        self._arguments = dict(arguments or {})
        self._storage: optuna.storages.RDBStorage | None = None
        self._open: dict[str, OptunaStudy] = {}

    def __call__(self, sweep: Sweep) -> OptunaStudy:
        """The study of a sweep, made if there is none."""
        if sweep.id not in self._open:
            if len(self._open) >= _MOST_OPEN:
                self._open.clear()
            with _reachable():
                self._open[sweep.id] = OptunaStudy(self._connect(), sweep)
        return self._open[sweep.id]

    def close(self) -> None:
        """End all connections."""
        self._open.clear()
        if self._storage is not None:
            self._storage.remove_session()
            self._storage.engine.dispose()
            self._storage = None

    def _connect(self) -> optuna.storages.RDBStorage:
        import optuna

        if self._storage is None:
            optuna.logging.set_verbosity(optuna.logging.WARNING)
            url, arguments = sa.make_url(self._url), dict(self._arguments)
            if url.password:
                # Optuna takes texts only, and keeps them; the password is none of its business.
                arguments["password"] = url.password
                url = url.set(password=None)
            engine = {"connect_args": arguments, "pool_size": 1, "pool_pre_ping": True}
            self._storage = optuna.storages.RDBStorage(str(url), engine_kwargs=engine)
        return self._storage


class OptunaStudy:
    """Implements `services.sweeps.Study`."""

    def __init__(self, storage: optuna.storages.BaseStorage, sweep: Sweep) -> None:
        import optuna

        self._spec = sweep.spec
        self._seed = sweep.seed
        self._distributions = {name: _distribution(self._spec, name) for name in self._spec.params}
        self._study = optuna.create_study(
            storage=storage,
            study_name=sweep.id,
            sampler=optuna.samplers.RandomSampler(),
            direction="maximize" if self._spec.goal is Goal.MAX else "minimize",
            pruner=optuna.pruners.SuccessiveHalvingPruner(
                min_resource=self._spec.grace or "auto", reduction_factor=_REDUCTION
            ),
            load_if_exists=True,
        )

    def draw(self, arm: int) -> Mapping[str, str]:
        """The parameters of an arm."""
        import optuna

        with _reachable():
            made = len(self._study.get_trials(deepcopy=False))
            while made <= arm:
                with self._sampling(made):
                    self._study.ask(self._distributions)
                if made < arm:  # cancelled before its turn
                    self._study.tell(made, state=optuna.trial.TrialState.FAIL)
                made += 1
            trial = self._study.get_trials(deepcopy=False)[arm]
            if set(trial.params) != set(self._distributions):
                # We died over it: what it has stays, and the rest is drawn.
                with self._sampling(arm):
                    begun = optuna.Trial(self._study, trial._trial_id)
                    for name, distribution in self._distributions.items():
                        begun._suggest(name, distribution)
                trial = self._study.get_trials(deepcopy=False)[arm]
        return {name: _shown(self._spec, name, trial.params[name]) for name in self._distributions}

    @contextmanager
    def _sampling(self, arm: int) -> Iterator[None]:
        """Draw with a sampler of the arm's own: after a restart one with a seed would begin again.

        Outside of draws there is one that does nothing; that of grids stops its study at the last end.
        """
        idle, self._study.sampler = self._study.sampler, _sampler(self._spec, self._seed, arm)
        try:
            yield
        finally:
            self._study.sampler = idle

    def report(self, arm: int, values: Sequence[tuple[int, float]]) -> int | None:
        """Take note of values by step; the step at which Optuna's pruner would end the arm."""
        import optuna

        with _reachable():
            trials = self._study.get_trials(deepcopy=False)
            if arm >= len(trials) or trials[arm].state.is_finished():
                return None
            known = trials[arm].intermediate_values
            trial = optuna.Trial(self._study, trials[arm]._trial_id)
            for step, value in values:
                # Asked after each step, as a program of its own would: rungs lie between them.
                if step > max(known, default=-1):
                    trial.report(value, step)
                    if trial.should_prune():
                        return step
        return None

    def end(self, arm: int, value: float | None, *, pruned: bool) -> None:
        """Take note of an arm's end."""
        from optuna.trial import TrialState

        with _reachable():
            if arm >= len(self._study.get_trials(deepcopy=False)):
                return
            if pruned:
                self._study.tell(arm, state=TrialState.PRUNED, skip_if_finished=True)
            elif value is None:
                self._study.tell(arm, state=TrialState.FAIL, skip_if_finished=True)
            else:
                self._study.tell(arm, value, skip_if_finished=True)


def _distribution(spec: SweepSpec, name: str) -> optuna.distributions.BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    space = spec.params[name]
    if spec.sampler is Sampler.GRID or not isinstance(space, Range):
        return CategoricalDistribution(spec.grid()[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a step that does not end at the upper end is no fault
        if space.integer:
            step = int(space.step or 1)
            return IntDistribution(int(space.low), int(space.high), log=space.log, step=step)
        return FloatDistribution(space.low, space.high, log=space.log, step=space.step)


def _sampler(spec: SweepSpec, seed: int, arm: int) -> optuna.samplers.BaseSampler:
    from optuna import samplers

    if spec.sampler is Sampler.GRID:
        # It gives trial n point n of an order that the seed alone decides.
        return samplers.GridSampler(spec.grid(), seed=seed)
    seed = (seed + arm) % 2**32
    if spec.sampler is Sampler.RANDOM:
        return samplers.RandomSampler(seed=seed)
    first = max(2, min(_RANDOM_AT_FIRST, spec.total() // 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that constant_liar may change one day
        # Arms that run are taken for bad ones, so that those drawn beside them are others.
        return samplers.TPESampler(seed=seed, n_startup_trials=first, constant_liar=True)


def _shown(spec: SweepSpec, name: str, value: Any) -> str:
    space = spec.params[name]
    return space.show(value) if isinstance(space, Range) and not isinstance(value, str) else str(value)


@contextmanager
def _reachable() -> Iterator[None]:
    from optuna.exceptions import StorageInternalError

    try:
        yield
    except (StorageInternalError, sa.exc.OperationalError, sa.exc.InterfaceError) as error:
        raise UnreachableError(f"the studies of sweeps cannot be reached: {type(error).__name__}") from error
