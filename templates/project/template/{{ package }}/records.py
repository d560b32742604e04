"""Data layer: what a record is, and a small data set that is the same for the same seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

#: Label -> mean of its four features.
_CENTRES = {"red": (0.0, 0.0, 1.0, 2.0), "green": (2.0, 1.0, 0.0, 0.0), "blue": (1.0, 3.0, 2.0, 1.0)}


class Record(TypedDict):
    """One line of a data file; `label` is missing where it is to be inferred."""

    id: str
    features: list[float]
    label: NotRequired[str]


class Prediction(TypedDict):
    """One line of the predictions; `probability` is the model's own, 0 to 1."""

    id: str
    label: str
    probability: float


def sample(count: int, seed: int) -> list[Record]:
    """`count` labelled records, drawn around each label's centre."""
    generator = np.random.default_rng(seed)
    labels = sorted(_CENTRES)
    records: list[Record] = []
    for number in range(count):
        label = labels[number % len(labels)]
        features = generator.normal(_CENTRES[label], 0.7)
        records.append(
            {"id": f"r{number}", "features": [round(float(x), 4) for x in features], "label": label}
        )
    return records


def matrix(records: Sequence[Record]) -> NDArray[np.float64]:
    """The features, one row a record; ValueError where records have different numbers of them."""
    if len({len(record["features"]) for record in records}) > 1:
        raise ValueError("the records have different numbers of features")
    return np.array([record["features"] for record in records], dtype=np.float64)


def labels(records: Sequence[Record]) -> list[str]:
    """The labels; ValueError names the first record without one."""
    missing = [record["id"] for record in records if "label" not in record]
    if missing:
        raise ValueError(f"record {missing[0]} has no label")
    return [record["label"] for record in records]
