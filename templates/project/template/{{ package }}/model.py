"""Data layer: fit, measure and use the model. Values in, values out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import accuracy_score, f1_score, log_loss
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from .records import Prediction, Record, labels, matrix


class Step(NamedTuple):
    """The model after an epoch, and how good it is."""

    model: Pipeline
    measures: dict[str, float]


def fit(
    train: Sequence[Record], test: Sequence[Record], *, epochs: int, rate: float, seed: int
) -> Iterator[Step]:
    """Train epoch by epoch; yields each with its measures on the records held out."""
    scaler = StandardScaler().fit(matrix(train))
    inputs, targets = scaler.transform(matrix(train)), labels(train)
    classes = np.array(sorted(set(targets)))
    classifier = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=rate, random_state=seed)
    for _ in range(epochs):
        classifier.partial_fit(inputs, targets, classes=classes)
        model = make_pipeline(scaler, classifier)
        yield Step(model, measure(model, test))


def split(records: Sequence[Record], share: float, seed: int) -> tuple[list[Record], list[Record]]:
    """Records to learn from, and a share of them held out; the same for the same seed."""
    order = np.random.default_rng(seed).permutation(len(records))
    held_out = max(1, round(share * len(records)))
    return [records[i] for i in order[held_out:]], [records[i] for i in order[:held_out]]


def measure(model: Pipeline, records: Sequence[Record]) -> dict[str, float]:
    """accuracy, f1 (macro) and loss (cross entropy) on labelled records."""
    truth, inputs = labels(records), matrix(records)
    guessed, shares = model.predict(inputs), model.predict_proba(inputs)
    return {
        "accuracy": round(float(accuracy_score(truth, guessed)), 6),
        "f1": round(float(f1_score(truth, guessed, average="macro")), 6),
        "loss": round(float(log_loss(truth, shares, labels=model.classes_)), 6),
    }


def infer(model: Pipeline, records: Sequence[Record]) -> list[Prediction]:
    """The likeliest label of every record."""
    if not records:
        return []
    shares = model.predict_proba(matrix(records))
    return [
        {
            "id": record["id"],
            "label": str(model.classes_[row.argmax()]),
            "probability": round(float(row.max()), 6),
        }
        for record, row in zip(records, shares, strict=True)
    ]
