"""Runs as MLflow has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class RecordedRun:
    """What MLflow has of a run."""

    id: str
    status: str
    tags: Mapping[str, str] = field(default_factory=dict)
