"""Ending several runs with one request."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from labcluster.models.runs import RunView


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CancelRequest(_Model):
    """Runs and arrays to be ended together; one id that is wrong ends none of them."""

    ids: list[Annotated[str, Field(max_length=100)]] = Field(min_length=1, max_length=1000)
    dry_run: bool = Field(default=False, description="only look them up")


class Cancelled(_Model):
    """What became of one of them."""

    before: RunView = Field(description="as it was when the request came")
    after: RunView | None = Field(description="none: it could not be ended, or was only looked up")
    problem: str | None = Field(default=None, description="why it could not be ended")
    code: int | None = Field(default=None, description="labctl's exit status for that")


class CancelAnswer(_Model):
    """What became of all of them, in the order in which they were named."""

    items: list[Cancelled]
