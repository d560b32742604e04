"""Times and memory sizes as people who know Slurm or Kubernetes write them."""

from __future__ import annotations

import re

from labcluster.errors import UsageError

_SUFFIXED = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", re.IGNORECASE)
_SLURM = re.compile(r"(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>\d+))?(?::(?P<third>\d+))?")
_MEMORY = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[KMGT])(?:i?B?)", re.IGNORECASE)


def parse_time(text: str) -> int:
    """Seconds of `90s`, `30m`, `1h30m`, `2d`, and of Slurm's `MM`, `MM:SS`, `HH:MM:SS`, `D-HH[:MM[:SS]]`."""
    text = text.strip()
    seconds = 0
    if text and (suffixed := _SUFFIXED.fullmatch(text)):
        days, hours, minutes, rest = (int(part or 0) for part in suffixed.groups())
        seconds = days * 86400 + hours * 3600 + minutes * 60 + rest
    elif slurm := _SLURM.fullmatch(text):
        parts = [int(part) for part in (slurm["first"], slurm["second"], slurm["third"]) if part]
        if slurm["days"]:
            hours, minutes, rest = [*parts, 0, 0][:3]
            seconds = int(slurm["days"]) * 86400 + hours * 3600 + minutes * 60 + rest
        elif len(parts) == 3:
            seconds = parts[0] * 3600 + parts[1] * 60 + parts[2]
        else:
            seconds = parts[0] * 60 + (parts[1] if len(parts) == 2 else 0)
    else:
        raise UsageError(f"--time {text!r} is not a time: write 30m, 2h, 1h30m or 1-00:00:00")
    if seconds < 1:
        raise UsageError(f"--time {text}: at least one second is needed")
    return seconds


def parse_memory(text: str) -> str:
    """The Kubernetes quantity of `8G`, `8Gi`, `8GiB` or `512M`; all of them count in powers of 1024."""
    match = _MEMORY.fullmatch(text.strip())
    if match is None or float(match["number"]) == 0:
        raise UsageError(f"--memory {text!r} is not a size: write 512M, 8G or 1.5G")
    number, unit = match["number"], match["unit"].upper()
    if "." in number:  # a quantity must be a whole number of something
        factor = {"K": 1, "M": 2**10, "G": 2**20, "T": 2**30}[unit]
        return f"{max(1, round(float(number) * factor))}Ki"
    return f"{int(number)}{unit}i"


def show_seconds(seconds: float) -> str:
    """A duration for people: 0.8s, 42s, 3m 05s, 2h 07m, 4d 03h."""
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02}m"
    return f"{whole // 86400}d {whole % 86400 // 3600:02}h"


def show_bytes(count: float) -> str:
    """A memory size for people."""
    units = ["B", "KiB", "MiB", "GiB"]
    while count >= 1024 and len(units) > 1:
        count /= 1024
        units.pop(0)
    unit = units[0]
    return f"{count:.0f} {unit}" if count >= 10 or count == int(count) else f"{count:.1f} {unit}"
