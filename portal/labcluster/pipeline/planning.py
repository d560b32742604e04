"""Which tasks of a pipeline are there already, and how the others are shared out to runs."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import gokart
import luigi

from labcluster.errors import ConflictError, NotFoundError, UsageError
from labcluster.pipeline.tasks import Needs, Task, name_of


def load(target: str, params: Mapping[str, str]) -> Task:
    """The task of `module:Class` with parameters as texts; UsageError says what is wrong with them."""
    module, colon, name = target.partition(":")
    if not (module and colon and name):
        raise UsageError(f"{target!r} names no task: write MODULE:TASK, as in flow:Train")
    try:
        found = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name and not module.startswith(error.name):
            raise UsageError(f"{module} imports {error.name}, which is not installed here") from None
        raise NotFoundError(f"there is no module {module} here: run it from the folder that has it") from None
    except AttributeError:
        raise NotFoundError(f"{module} has no task {name}") from None
    if not (inspect.isclass(found) and issubclass(found, Task)):
        raise UsageError(f"{target} is not a labcluster.pipeline.Task")
    known = [key for key, parameter in found.get_params() if parameter.significant]
    for key in params:
        if key not in known:
            raise UsageError(f"{name} has no parameter {key!r}; it has {', '.join(known) or 'none'}")
    try:
        return found.from_str_params(dict(params))  # type: ignore[no-any-return]
    except (luigi.parameter.ParameterException, ValueError) as error:
        raise UsageError(f"{name}: {error}") from None


def below(task: gokart.TaskOnKart[Any]) -> list[gokart.TaskOnKart[Any]]:
    """What a task requires itself."""
    return list(luigi.task.flatten(task.requires()))


def needs_of(task: gokart.TaskOnKart[Any]) -> Needs | None:
    """What a task asks for to be a run of its own."""
    return task.needs if isinstance(task, Task) else None


def every(task: gokart.TaskOnKart[Any]) -> Iterator[gokart.TaskOnKart[Any]]:
    """A task and all that it stands on, each once, what is required first."""
    seen: set[str] = set()

    def walk(one: gokart.TaskOnKart[Any]) -> Iterator[gokart.TaskOnKart[Any]]:
        if one.make_unique_id() in seen:
            return
        seen.add(one.make_unique_id())
        for required in below(one):
            yield from walk(required)
        yield one

    yield from walk(task)


def find(root: Task, identity: str) -> gokart.TaskOnKart[Any]:
    """One task of a pipeline by its id; ConflictError when its code or parameters changed since the plan."""
    for task in every(root):
        if task.make_unique_id() == identity:
            return task
    raise ConflictError(
        f"{type(root).__name__} has no task {identity} any more: its code or parameters changed since it was"
        " planned; run the pipeline again"
    )


def plan(root: Task) -> dict[str, Any]:
    """The runs that are left to do, each after those it needs: the tasks with needs, and the final one.

    A task without needs is done in every run that needs it; nothing below a task that is there is looked at.
    """
    left: dict[str, gokart.TaskOnKart[Any]] = {}
    cached: dict[str, str] = {}

    def walk(task: gokart.TaskOnKart[Any]) -> None:
        identity = task.make_unique_id()
        if identity in left or identity in cached:
            return
        if task.complete():
            cached[identity] = name_of(task)
            return
        for required in below(task):
            walk(required)
        left[identity] = task

    walk(root)
    own = {
        identity: task
        for identity, task in left.items()
        if identity == root.make_unique_id() or needs_of(task)
    }

    def after(task: gokart.TaskOnKart[Any]) -> list[str]:
        found: dict[str, None] = {}
        for required in below(task):
            identity = required.make_unique_id()
            if identity in own:
                found[identity] = None
            elif identity in left:
                found |= dict.fromkeys(after(required))
        return list(found)

    return {
        "root": root.make_unique_id(),
        "cached": [{"id": identity, "name": name} for identity, name in cached.items()],
        "runs": [
            {
                "id": identity,
                "task": type(task).__name__,
                "name": name_of(task),
                "needs": asdict(needs) if (needs := needs_of(task)) else None,
                "after": after(task),
            }
            for identity, task in own.items()
        ],
    }
