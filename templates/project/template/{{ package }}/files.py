"""Path layer: reads and writes what the data layer works on; every path is given."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import joblib
from sklearn.pipeline import Pipeline

from . import model as models
from .records import Prediction, Record

MODEL, METRICS, PREDICTIONS = "model.joblib", "metrics.json", "predictions.jsonl"


def artifacts() -> Path:
    """The one folder for what is made: the run's own on the cluster, else ./artifacts."""
    return Path(os.environ.get("LABCLUSTER_ARTIFACTS_DIR", "artifacts"))


def read_records(directory: Path) -> list[Record]:
    """All records of a folder's *.jsonl, in the order of names; FileNotFoundError if there is none."""
    files = sorted(directory.glob("*.jsonl"))
    if not files:
        raise FileNotFoundError(f"{directory} has no .jsonl file")
    return [
        cast(Record, json.loads(line)) for file in files for line in file.read_text().splitlines() if line
    ]


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """JSON Lines; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in lines))


def save_model(model: Pipeline, output: Path) -> None:
    """The model, into its place in the folder; a crash leaves the old one whole."""
    output.mkdir(parents=True, exist_ok=True)
    partial = output / f"{MODEL}.part"
    joblib.dump(model, partial)
    partial.replace(output / MODEL)


def load_model(output: Path) -> Pipeline:
    """The model of a folder; only of one you trust: joblib files can run code."""
    return joblib.load(output / MODEL)


def write_metrics(measures: Mapping[str, float], output: Path, name: str = METRICS) -> None:
    """Final numbers as one JSON object."""
    output.mkdir(parents=True, exist_ok=True)
    (output / name).write_text(json.dumps(dict(measures), indent=2, sort_keys=True) + "\n")


def predict(directory: str | Path, output: str | Path | None = None) -> list[Prediction]:
    """Predictions for every record of a folder, by the model of `output` (default: the artifacts)."""
    model = load_model(artifacts() if output is None else Path(output))
    return models.infer(model, read_records(Path(directory)))
