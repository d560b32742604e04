"""Sweeps: one command with many sets of parameters, of which each is an arm and a run of its own."""

from __future__ import annotations

import itertools
import math
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from labcluster.models.code import Parameter, ParameterValue

#: How many arms may run at once where nothing is said.
PARALLEL = 4
#: How many arms there are where nothing is said and the space is no grid.
ARMS = 20


class Sampler(StrEnum):
    """How the parameters of an arm are chosen."""

    GRID = "grid"
    RANDOM = "random"
    TPE = "tpe"


class Goal(StrEnum):
    """Which values of the metric are better."""

    MAX = "max"
    MIN = "min"


class Range(BaseModel):
    """Numbers between two, both included."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: float = Field(allow_inf_nan=False)
    high: float = Field(allow_inf_nan=False)
    integer: bool = Field(default=False, description="whole numbers only")
    log: bool = Field(default=False, description="spread over orders of magnitude")
    step: float | None = Field(None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _sound(self) -> Range:
        if self.low >= self.high:
            raise ValueError(f"{self.low:g}..{self.high:g} has no numbers: the lower one stands first")
        if self.log and (self.low <= 0 or (self.integer and self.low < 1)):
            raise ValueError(f"{self.low:g}..{self.high:g}: log needs a lower end above 0")
        if self.log and self.step is not None:
            raise ValueError("log and a step exclude each other")
        if self.integer and any(not float(n).is_integer() for n in (self.low, self.high, self.step or 1)):
            raise ValueError("whole numbers have whole ends and steps")
        return self

    def points(self) -> list[str] | None:
        """Every value that a grid has; None if there are too many to count."""
        step = self.step or (1 if self.integer and not self.log else None)
        if step is None:
            return None
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        if count > 10_000:
            return None
        return [self.show(self.low + place * step) for place in range(count)]

    def show(self, value: float) -> str:
        """A value as it is put into the command."""
        return str(round(value)) if self.integer else repr(round(value, 12) if self.step else float(value))


Choices = Annotated[list[ParameterValue], Field(min_length=1, max_length=1000)]


class SweepSpec(BaseModel):
    """What to search, and how."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    params: dict[Parameter, Choices | Range] = Field(
        min_length=1, max_length=50, description="values to choose from, or a range, for each `{name}`"
    )
    sampler: Sampler = Sampler.TPE
    arms: int | None = Field(None, ge=1, le=100_000, description="none: the whole grid, else 20")
    parallel: int = Field(PARALLEL, ge=1, le=100_000, description="how many of them may run at once")
    metric: str | None = Field(None, min_length=1, max_length=250, description="what the arms are judged by")
    goal: Goal = Goal.MAX
    stop_early: bool = Field(default=False, description="end arms whose metric falls behind the others'")
    grace: int | None = Field(
        None, ge=1, le=1_000_000_000, description="no arm is ended before this step; none: found by itself"
    )

    @model_validator(mode="after")
    def _sound(self) -> SweepSpec:
        for name, space in self.params.items():
            if isinstance(space, list) and len(set(space)) < len(space):
                raise ValueError(f"{name} has a value twice")
            if self.sampler is Sampler.GRID and isinstance(space, Range) and space.points() is None:
                raise ValueError(f"{name}: a grid needs values, or a range with a step")
        if self.metric is None and (self.sampler is Sampler.TPE or self.stop_early):
            what = "stopping early" if self.stop_early else "tpe"
            raise ValueError(f"{what} needs the metric to judge by: name it, as in --metric accuracy")
        return self

    def grid(self) -> dict[str, list[str]]:
        """The values of every parameter; ranges without a step have none."""
        return {
            name: space.points() or [] if isinstance(space, Range) else list(space)
            for name, space in self.params.items()
        }

    def total(self) -> int:
        """How many arms there are; a grid never has more than it has points."""
        if self.sampler is not Sampler.GRID:
            return self.arms or ARMS
        points = math.prod(len(values) for values in self.grid().values())
        return min(points, self.arms or points)

    def indices(self) -> str:
        """The arms as an array's members are written."""
        total = self.total()
        return f"0-{total - 1}%{self.limit()}" if total > 1 else "0"

    def limit(self) -> int:
        """How many arms may really run at once."""
        return min(self.parallel, self.total())


def batched(values: list[tuple[int, float]], most: int) -> list[tuple[int, float]]:
    """At most so many of the values, evenly chosen, the last among them."""
    if len(values) <= most:
        return values
    places = {round((place + 1) * len(values) / most) - 1 for place in range(most)}
    return list(itertools.compress(values, (place in places for place in range(len(values)))))
