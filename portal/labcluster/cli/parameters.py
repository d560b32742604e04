# ruff: noqa: ARG002 - the signatures are click's
"""Options and arguments that several verbs share, and the types of their values."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from labcluster.cli import quantities
from labcluster.errors import LabclusterError, UsageError

STATES = ["queued", "starting", "running", "succeeded", "failed", "cancelled", "timed_out", "lost"]

#: Where datasets for everybody are.
DATASETS = "/lab/datasets"

F = TypeVar("F", bound=Callable[..., Any])


def json_option(function: F) -> F:
    """--json, which every verb has."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON as the portal gave it.")(function)


def dry_run_option(function: F) -> F:
    """--dry-run, for what changes something."""
    return click.option("--dry-run", is_flag=True, help="Check and say what would change; change nothing.")(
        function
    )


class TimeType(click.ParamType[int]):
    """A duration, as seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Seconds of a text."""
        return value if isinstance(value, int) else quantities.parse_time(value)


class MemoryType(click.ParamType[str]):
    """A size of memory, as a Kubernetes quantity."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The quantity of a text."""
        return quantities.parse_memory(str(value))


class EnvType(click.ParamType[tuple[str, str]]):
    """K=V, or K for what this shell has under that name."""

    name = "K=V"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Name and value."""
        if isinstance(value, tuple):
            return value
        key, equals, text = value.partition("=")
        if not key:
            raise UsageError(f"--env {value!r}: write it as NAME=VALUE")
        if not equals:
            if key not in os.environ:
                raise UsageError(f"--env {key}: it is not set in this shell; write {key}=VALUE")
            text = os.environ[key]
        return key, text


class ParameterValueType(click.ParamType[tuple[str, str]]):
    """K=V."""

    name = "K=V"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Name and value."""
        if isinstance(value, tuple):
            return value
        key, equals, text = value.partition("=")
        if not key.strip() or not equals:
            raise UsageError(f"--set {value!r}: write it as NAME=VALUE")
        return key.strip(), text


class DataType(click.ParamType[str]):
    """A directory, or the name of one under /lab/datasets."""

    name = "DIR"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Its absolute path."""
        return data_path(str(value))


def data_path(given: str) -> str:
    """The directory that --data means: from here, else the dataset of that name."""
    path = os.path.abspath(given)  # noqa: PTH100 - pathlib costs an import
    shared = f"{DATASETS}/{given}"
    if "/" not in given and not os.path.exists(path) and os.path.isdir(shared):  # noqa: PTH110, PTH112
        return shared
    if os.path.exists(path) and not os.path.isdir(path):  # noqa: PTH110, PTH112
        raise UsageError(f"--data {given}: it is no directory; name the one that it is in")
    return path


def _complete(path: str, query: dict[str, Any], answer: Callable[[Any], list[CompletionItem]]) -> list[Any]:
    """What the portal knows, or nothing: a completion must never print an error."""
    from labcluster.cli.session import build

    try:
        portal = build()
        try:
            return answer(portal.get(path, query))
        finally:
            portal.close()
    except LabclusterError:
        return []


class RunType(click.ParamType[str]):
    """A run's id; completed with those that the portal lists."""

    name = "RUN"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Ids of the caller's last runs."""
        return _complete(
            "/runs",
            {"user": user_name(), "limit": 50},
            lambda found: [
                CompletionItem(run["id"], help=f"{run['state']} {run['name']}")
                for run in found["items"]
                if run["id"].startswith(incomplete)
            ],
        )


class ProjectType(click.ParamType[str]):
    """A project's name; completed with the caller's."""

    name = "project"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Names of the caller's projects."""
        return _complete(
            "/whoami",
            {},
            lambda me: [
                CompletionItem(project["name"])
                for project in me["projects"]
                if project["name"].startswith(incomplete)
            ],
        )


def new_password(prompt: str, *, from_stdin: bool) -> str:
    """A new password from a line of standard input, or asked for twice on the terminal."""
    import sys

    if not from_stdin:
        return str(click.prompt(prompt, hide_input=True, confirmation_prompt=True, err=True))
    password = sys.stdin.readline().rstrip("\n")
    if not password:
        raise UsageError("--password-stdin: standard input is empty")
    return password


def user_name() -> str:
    """The login name of the calling uid."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        raise LabclusterError(f"uid {os.getuid()} has no name on this machine: is sssd running?") from None
