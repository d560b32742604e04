"""Times and sizes in Slurm's and Kubernetes' forms."""

from __future__ import annotations

import pytest
from labcluster.cli.quantities import parse_memory, parse_time, show_bytes, show_seconds
from labcluster.errors import UsageError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30m", 1800),
        ("2h", 7200),
        ("1h30m", 5400),
        ("90s", 90),
        ("2d", 172_800),
        ("1D2H", 93_600),
        ("10", 600),
        ("10:30", 630),
        ("1:00:00", 3600),
        ("1-0", 86_400),
        ("1-02:30", 95_400),
        ("1-00:00:00", 86_400),
    ],
)
def test_times(text: str, seconds: int) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "1.5h", "h", "-5", "1m2h", "1:2:3:4", "0", "0s", "1-", "٣h x"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(UsageError, match="--time"):
        parse_time(text)


@pytest.mark.parametrize(
    ("text", "quantity"),
    [("8G", "8Gi"), ("8Gi", "8Gi"), ("8GiB", "8Gi"), ("8gb", "8Gi"), ("512M", "512Mi"), ("1.5G", "1572864Ki"),
     ("008G", "8Gi"), ("1T", "1Ti"), (" 4 G ", "4Gi")],
)  # fmt: skip
def test_sizes(text: str, quantity: str) -> None:
    assert parse_memory(text) == quantity


@pytest.mark.parametrize("text", ["", "8", "0G", "G", "-1G", "8X", "8Gx", "1e3G"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="--memory"):
        parse_memory(text)


def test_durations_for_people() -> None:
    shown = [show_seconds(value) for value in (-1, 0.84, 9.96, 59.4, 61, 3599, 7260, 90_000)]
    assert shown == ["0.0s", "0.8s", "10s", "59s", "1m 01s", "59m 59s", "2h 01m", "1d 01h"]


def test_memory_for_people() -> None:
    shown = [show_bytes(value) for value in (0, 512, 1536, 5.5 * 2**30, 700 * 2**30, 2048 * 2**30)]
    assert shown == ["0 B", "512 B", "1.5 KiB", "5.5 GiB", "700 GiB", "2048 GiB"]
