"""Verdicts on runs that were run again: whether they came out the same."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Verdict(StrEnum):
    """What became of running a run again from what was kept of it."""

    REPRODUCED = "reproduced"
    DRIFTED = "drifted"
    IMPOSSIBLE = "impossible"


class VerdictRequest(_Model):
    """A verdict to be kept, as `labctl reproduce` found it."""

    again: str | None = Field(
        None, max_length=100, description="the run that repeats it; none: it could not be repeated at all"
    )
    verdict: Verdict
    line: str = Field(min_length=1, max_length=1000, description="why, in one line")
    report: dict[str, Any] = Field(
        default={}, description="metrics, tolerances and differences that it rests on"
    )


class Reproduction(_Model):
    """A verdict that is kept, in short."""

    of: str = Field(description="the run that was to be reproduced")
    again: str | None = Field(description="the run that repeats it")
    verdict: Verdict
    line: str
    by: str = Field(description="who asked for it")
    at: datetime


class ReproductionReport(Reproduction):
    """A verdict with all that it rests on."""

    report: dict[str, Any]

    @property
    def brief(self) -> Reproduction:
        """The same in short."""
        return Reproduction(**self.model_dump(exclude={"report"}))


class ReproductionList(_Model):
    """What is known about reproducing a run."""

    image_there: bool = Field(description="whether the registry still has its very image")
    items: list[ReproductionReport] = Field(description="verdicts on it, and on it as a repetition")
