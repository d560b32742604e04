"""Defaults of options from labcluster.toml: `[submit]` with the options' long names."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from labcluster.errors import LabclusterError, UsageError

_SECTION = "submit"
# Of one call, not of a project.
_NEVER = frozenset(("help", "json", "dry-run", "idempotency-key", "file"))
# Tables that the command line adds to; all else it replaces.
_TABLES = frozenset(("env", "params"))


def apply(
    context: click.Context, given: dict[str, Any], toml: dict[str, Any], file: str = "labcluster.toml"
) -> dict[str, Any]:
    """The options of a call with what it does not give taken from the file."""
    section = toml.get(_SECTION, {})
    if not isinstance(section, dict):
        raise UsageError(f"{file}: {_SECTION} must be a table, [{_SECTION}]")
    options = {
        opt.removeprefix("--"): param
        for param in context.command.params
        for opt in param.opts
        if opt.startswith("--") and opt.removeprefix("--") not in _NEVER
    }
    found = dict(given)
    for name, value in section.items():
        param = options.get(name)
        if param is None or param.name is None:
            raise UsageError(
                f"{file}: [{_SECTION}] has {name!r}, but the options are {', '.join(sorted(options))}"
            )
        table = param.name in _TABLES
        if not table and context.get_parameter_source(param.name) is not ParameterSource.DEFAULT:
            continue
        try:
            default = param.type_cast_value(context, _words(value, table=table, multiple=param.multiple))
        except (LabclusterError, click.UsageError) as error:
            said = error.detail if isinstance(error, LabclusterError) else error.message.rstrip(".")
            raise UsageError(f"{file}: {name} under [{_SECTION}]: {said}") from None
        found[param.name] = {**dict(default), **dict(given[param.name])}.items() if table else default
    return found


def _words(value: Any, *, table: bool, multiple: bool) -> Any:
    """A value of TOML as it would stand on the command line."""
    if table and isinstance(value, dict):
        return tuple(f"{key}={_word(item)}" for key, item in value.items())
    if multiple:
        return tuple(map(_word, value if isinstance(value, list) else [value]))
    if isinstance(value, bool):
        return value
    return _word(value)


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str | int | float):
        raise UsageError(f"{value!r} is neither text nor a number")
    return str(value)
