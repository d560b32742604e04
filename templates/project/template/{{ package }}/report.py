"""What the cluster records: a line on standard output, with nothing imported for it."""

from __future__ import annotations

from collections.abc import Mapping


def metrics(step: int, values: Mapping[str, float]) -> None:
    """Print a step's metrics: `labcluster: step=3 loss=0.1 accuracy=0.9`."""
    words = " ".join(f"{key}={value}" for key, value in values.items())
    print(f"labcluster: step={step} {words}", flush=True)
