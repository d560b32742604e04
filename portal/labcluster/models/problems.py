"""What REST answers instead of what was asked for."""

from __future__ import annotations

from pydantic import BaseModel


class Problem(BaseModel):
    """An RFC 9457 problem document; `code` is labctl's exit status."""

    type: str
    title: str
    status: int
    detail: str
    code: int
