"""Where the code of a run comes from, as the run table knows it; the capsule itself is on the tree."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

#: A seed fits into every library's 32 bits with a sign.
MAX_SEED = 2**31 - 1

# What MLflow takes as a parameter's name, without the signs that would be hard to type.
Parameter = Annotated[str, Field(max_length=200, pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*$")]
ParameterValue = Annotated[str, Field(max_length=6000)]


class CodeRef(BaseModel):
    """The capsule that a run works from, and enough of it to be shown in a list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    digest: str = Field(
        pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the capsule in the project's store"
    )
    commit: str | None = Field(None, max_length=64, pattern=r"^[0-9a-f]+$")
    branch: str | None = Field(None, max_length=300, description="none: HEAD was detached, or it was no git")
    remote: str | None = Field(None, max_length=1000, description="without secrets")
    dirty: bool = Field(default=False, description="whether anything differed from the commit")
    subdir: str = Field("", max_length=1000, description="where below the root the command starts")
    root: str = Field(max_length=1000, description="what was captured, as it was called at submit")


def member_seed(seed: int, index: int) -> int:
    """The seed of a member of an array: replicas that all drew the same numbers would be worth one."""
    return (seed + index) % (MAX_SEED + 1)
