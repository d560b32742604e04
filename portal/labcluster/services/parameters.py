"""A run's parameters in its command: `python train.py --lr {lr}`, or `--lr 0.1` that another run changes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile

from labcluster.errors import UsageError

# ${lr} is the shell's.
_PLACE = re.compile(r"(?<!\$)\{(?P<name>[A-Za-z_][A-Za-z0-9_.-]*)\}")

_OPTION = re.compile(r"--(?P<name>[A-Za-z][A-Za-z0-9_.-]*)")


def fill(command: Sequence[str], params: Mapping[str, str]) -> list[str]:
    """The command with every `{name}` of a parameter replaced; other braces stay as they are."""
    return [_PLACE.sub(lambda found: params.get(found["name"], found[0]), word) for word in command]


def in_place(command: Sequence[str], name: str) -> bool:
    """Whether the command has `{name}`."""
    return any(found["name"] == name for word in command for found in _PLACE.finditer(word))


def with_option(command: Sequence[str], name: str, value: str) -> list[str] | None:
    """The command with another value of its option `--name`, as argparse reads it; None if it has none.

    Hyphens and underscores are one, as in the names that the recorder gives. The last of several counts.
    UsageError for a flag, several values of one option, and an option in a script: what their new words are
    is not known.
    """
    found: list[str] | None = None
    words = {part.partition("=")[0] for word in command if " " in word for part in word.split()}
    if any(_is_option(word, name) for word in words):
        raise UsageError(
            f"{name}={value}: --{name} stands in a script; submit that with {{{name}}} in place of the value"
        )
    for index, word in enumerate(command):
        option, equals, _ = word.partition("=")
        if not _is_option(option, name):
            continue
        if equals:
            found = [*command[:index], f"{option}={value}", *command[index + 1 :]]
            continue
        values = list(takewhile(_is_value, command[index + 1 :]))
        if not values:
            raise UsageError(f"{name}={value}: {option} has no value in the command that could be another")
        if len(values) > 1 and all(map(_is_number, values)):
            raise UsageError(f"{name}={value}: {option} has several values in the command")
        found = [*command[: index + 1], value, *command[index + 2 :]]
    return found


def _is_option(word: str, name: str) -> bool:
    match = _OPTION.fullmatch(word)
    return match is not None and match["name"].replace("-", "_") == name.replace("-", "_")


def _is_value(word: str) -> bool:
    return not word.startswith("-") or _is_number(word)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
