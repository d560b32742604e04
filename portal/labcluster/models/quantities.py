"""Kubernetes quantities (`4Gi`, `500m`) as numbers, and back."""

from __future__ import annotations

import re

_FACTORS = {
    "m": 1e-3,
    "": 1,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "P": 1e15,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
    "Pi": 2**50,
}
_QUANTITY = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)(?P<unit>m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?")


def parse(text: str | int) -> float:
    """The number that a quantity stands for; ValueError if it is none."""
    match = _QUANTITY.fullmatch(str(text))
    if match is None:
        raise ValueError(f"{text!r} is not a quantity such as 500m, 2, 4Gi")
    return float(match["number"]) * _FACTORS[match["unit"] or ""]


def show_bytes(count: float) -> str:
    """A memory size for people: 4 GiB, 512 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if count >= 10 or count == int(count) else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")


def show_cpus(count: float) -> str:
    """A CPU count as Kubernetes writes it, exact to a thousandth."""
    return str(int(count)) if count == int(count) else f"{round(count * 1000)}m"
