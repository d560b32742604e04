"""The cluster's nodes, as REST shows them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NodeView(_Model):
    """What a node has and how much of it runs have taken."""

    name: str
    ready: bool
    gpus: int
    gpus_used: int
    cpus: float
    cpus_used: float
    memory: int
    memory_used: int
    runs: list[str]


class NodeList(_Model):
    """All nodes that can run something."""

    items: list[NodeView]
