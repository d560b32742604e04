"""What the verbs of labctl notify share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from labcluster.cli.parameters import ProjectType, user_name

F = TypeVar("F", bound=Callable[..., Any])


def project_option(function: F) -> F:
    """--project, without which it is about oneself."""
    return click.option(
        "-p",
        "--project",
        type=ProjectType(),
        help="All runs of this project.  [default: your own runs]",
    )(function)


def name_argument(function: F) -> F:
    """What a receiver is called."""
    return click.argument("name")(function)


def path(name: str, project: str | None) -> str:
    """Where a receiver is in REST."""
    return f"/receivers/project/{project}/{name}" if project else f"/receivers/user/{user_name()}/{name}"


def matches(receiver: dict[str, Any], name: str, project: str | None) -> bool:
    """Whether a receiver of the list is the named one."""
    owner = ("project", project) if project else ("user", user_name())
    return (receiver["scope"], receiver["owner"], receiver["name"]) == (*owner, name)
