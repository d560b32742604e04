"""A sweep with its arms, which are runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from labcluster.models.runs import Run, RunView
from labcluster.models.sweeps import SweepSpec


@dataclass(frozen=True)
class Sweep:
    """A sweep of which some arms are not settled."""

    project: str
    number: int
    spec: SweepSpec
    arms: Sequence[Run]

    @property
    def id(self) -> str:
        """The name that people use."""
        return f"{self.project}-{self.number}"

    @property
    def seed(self) -> int:
        """What its draws begin with."""
        return self.arms[0].seed or 0


class SweepView(BaseModel):
    """A sweep with its arms."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: RunView
    sweep: SweepSpec
    best: str | None = Field(description="id of the best arm that succeeded")
    arms: list[RunView]
