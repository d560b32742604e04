"""For verbs that submit a command of their own making: the options of `labctl submit`, and submit itself."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from collections.abc import Sequence
from typing import Any

import click
from click.core import ParameterSource

from labcluster.cli import submit


def options(*without: str) -> list[click.Parameter]:
    """Submit's own options but --file and those named, with -p for a parameter of the program instead of the
    project."""
    flags = {"--set": ["--set", "-p", "--parameter"], "--project": ["--project"]}
    found: list[click.Parameter] = []
    for parameter in submit.command.params:
        long = next((flag for flag in parameter.opts if flag.startswith("--")), None)
        if long is None or long in ("--file", *without):
            continue
        if long in flags:
            parameter = copy.copy(parameter)
            parameter.opts = flags[long]
        found.append(parameter)
    return found


def hand_on(context: click.Context, words: Sequence[str], **decided: Any) -> Any:
    """Submit words as a command, as if they had been typed with the options of this call; prints and answers
    what submit does. `decided` are options that the verb sets itself, whatever the user said, or fields of
    the request that submit has no option for."""
    assert submit.command.callback is not None
    values: dict[str, Any] = {parameter.name or "": None for parameter in submit.command.params}
    made = click.Context(submit.command, parent=context, info_name="submit")
    for name in values:
        if name in decided:
            values[name] = decided[name]
            made.set_parameter_source(name, ParameterSource.COMMANDLINE)
        elif name in context.params:
            values[name] = context.params[name]
            # What the user did not say may come from labcluster.toml, as when he calls submit himself.
            made.set_parameter_source(name, context.get_parameter_source(name) or ParameterSource.DEFAULT)
        else:
            made.set_parameter_source(name, ParameterSource.DEFAULT)
    more = {name: value for name, value in decided.items() if name not in values}
    with made:
        return made.invoke(submit.command.callback, **{**values, **more, "command": tuple(words)})


def submitted(context: click.Context, words: Sequence[str], **decided: Any) -> dict[str, Any]:
    """Submit words as a command; gives the run."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        hand_on(context, words, **{**decided, "as_json": True, "wait": False, "dry_run": False})
    run: dict[str, Any] = json.loads(text.getvalue())
    return run
