"""A run's parameters in its command: `python train.py --lr {lr}`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

# ${lr} is the shell's.
_PLACE = re.compile(r"(?<!\$)\{(?P<name>[A-Za-z_][A-Za-z0-9_.-]*)\}")


def fill(command: Sequence[str], params: Mapping[str, str]) -> list[str]:
    """The command with every `{name}` of a parameter replaced; other braces stay as they are."""
    return [_PLACE.sub(lambda found: params.get(found["name"], found[0]), word) for word in command]
