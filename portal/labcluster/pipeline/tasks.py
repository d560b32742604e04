"""The base class of tasks: gokart's, which also counts code and records itself."""

from __future__ import annotations

import hashlib
import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import gokart
import luigi

from labcluster.pipeline.record import Entry, record


@dataclass(frozen=True)
class Needs:
    """What a task asks the cluster for when it is a run of its own; as `labctl submit` takes it."""

    gpus: int = 0
    cpus: float = 1
    memory: str = "4G"
    time: str | None = None
    image: str | None = None


class Task(gokart.TaskOnKart[Any]):
    """A step with one cached output: `dump` it in `run`, `load` what `requires` names.

    Its output is found again as long as parameters, its own code, and those of all that it requires are the
    same. Its own code is that of its methods and the plain values of its class; name what else decides in
    `uses`. Random numbers are seeded from all that, so a task that is done again gives the same.
    """

    #: A task with needs is a run of its own under `labctl pipeline run --each`.
    needs: ClassVar[Needs | None] = None
    #: Functions, classes and modules whose source counts as this task's own.
    uses: ClassVar[tuple[Callable[..., Any] | ModuleType, ...]] = ()

    serialized_task_definition_check = luigi.BoolParameter(default=True, significant=False)

    def report(self, step: int = 0, **values: float) -> None:
        """Metrics of this task: they go into its record, into MLflow and into the run's metrics."""
        record().metrics(self.make_unique_id(), type(self).__name__, step, values)

    def get_own_code(self) -> str:
        """What the cache goes by beside parameters; asking for other machines makes nothing new."""
        ours = self.get_code(gokart.TaskOnKart) | self.get_code(Task)
        parts = sorted(self.get_code(type(self)) - ours)
        for base in type(self).__mro__[: type(self).__mro__.index(Task)]:
            parts += [
                f"{name}={value!r}" for name, value in sorted(vars(base).items()) if _counts(name, value)
            ]
        parts += [inspect.getsource(used) for used in self.uses]
        return "\n".join(parts)


def _counts(name: str, value: object) -> bool:
    return (
        not name.startswith("_") and name != "uses" and isinstance(value, int | float | str | bytes | tuple)
    )


def name_of(task: gokart.TaskOnKart[Any]) -> str:
    """A task as people read it: Train(rate=0.1)."""
    given = task.to_str_params(only_significant=True, only_public=True)
    return f"{type(task).__name__}({', '.join(f'{key}={value}' for key, value in given.items())})"


def entry(task: gokart.TaskOnKart[Any], state: str, error: str | None = None) -> Entry:
    """What is recorded of a task."""
    required = luigi.task.flatten(task.requires())
    code = task.get_own_code() if isinstance(task, Task) else ""
    return Entry(
        task=type(task).__name__,
        id=task.make_unique_id(),
        state=state,
        params=dict(task.to_str_params(only_significant=True, only_public=True)),
        inputs=[target.path() for need in required for target in luigi.task.flatten(need.output())],
        outputs=[target.path() for target in luigi.task.flatten(task.output())],
        code=hashlib.sha256(code.encode()).hexdigest()[:12],
        finished=round(time.time(), 3),
        error=error,
    )


@Task.event_handler(luigi.Event.START)
def _began(task: Task) -> None:
    record().began(task.make_unique_id(), name_of(task))


@Task.event_handler(luigi.Event.SUCCESS)
def _succeeded(task: Task) -> None:
    record().ended(entry(task, "done"))


@Task.event_handler(luigi.Event.DEPENDENCY_PRESENT)
def _was_there(task: Task) -> None:
    record().ended(entry(task, "cached"))


@Task.event_handler(luigi.Event.FAILURE)
def _failed(task: Task, error: Exception) -> None:
    record().ended(entry(task, "failed", error=f"{type(error).__name__}: {error}"))
