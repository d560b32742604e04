#!/usr/bin/env python3
"""Train a classifier of handwritten digits on scikit-learn's bundled data.

    python3 train.py                                    on a laptop, results in ./artifacts
    labctl submit --gpus 1 --follow -- python3 train.py   on the cluster, results in the run's directory

Writes into $LABCLUSTER_ARTIFACTS_DIR, or --output:
    metrics.json           the numbers of the finished model on the held-out digits
    confusion-matrix.png   which digit was taken for which
    model.joblib           the model: joblib.load(...).predict(images)
and, inside a run, appends one line an epoch to metrics.jsonl in the run's directory.

The model is a small neural network. scikit-learn computes on the CPU; the script still prints which GPU
devices it was given, as any training should, so that its log says what it ran on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import joblib
import numpy as np
import sklearn
from sklearn.datasets import load_digits
from sklearn.metrics import ConfusionMatrixDisplay, accuracy_score, f1_score, log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

CLASSES = np.arange(10)


def arguments() -> argparse.Namespace:
    """The command line; every value that changes the result is on it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=30, help="passes over the data (default 30)")
    parser.add_argument("--hidden", type=int, default=64, help="units of the hidden layer (default 64)")
    parser.add_argument("--learning-rate", type=float, default=0.001, help="default 0.001")
    parser.add_argument("--batch-size", type=int, default=32, help="default 32")
    parser.add_argument("--test-share", type=float, default=0.25, help="held out for the test (default 0.25)")
    parser.add_argument("--seed", type=int, default=0, help="of the split and of the weights (default 0)")
    parser.add_argument(
        "--output", type=Path, default=Path(os.environ.get("LABCLUSTER_ARTIFACTS_DIR", "artifacts")),
        help="folder of the results (default: $LABCLUSTER_ARTIFACTS_DIR, else ./artifacts)",
    )  # fmt: skip
    options = parser.parse_args()
    if options.epochs < 1 or options.hidden < 1 or options.batch_size < 1:
        parser.error("--epochs, --hidden and --batch-size must be at least 1")
    if not 0 < options.test_share < 1:
        parser.error("--test-share must be between 0 and 1")
    return options


def gpus() -> list[str]:
    """The GPU devices that this process may open."""
    return sorted(str(path) for path in Path("/dev").glob("nvidia[0-9]*"))


class MetricsFile:
    """metrics.jsonl of the run: one JSON object a line, readable while the run goes on."""

    def __init__(self, run_directory: str | None) -> None:
        path = Path(run_directory, "metrics.jsonl") if run_directory else None
        self._file = path.open("a", encoding="utf-8") if path else None

    def write(self, step: int, **values: float) -> None:
        """One step's values."""
        if self._file is not None:
            self._file.write(json.dumps({"step": step, "time": round(time.time(), 3), **values}) + "\n")
            self._file.flush()


def draw_confusion(path: Path, truth: np.ndarray, predicted: np.ndarray, accuracy: float) -> None:
    """The picture of which digit was taken for which."""
    # Before matplotlib is imported: it wants a folder of its own, and HOME may not be there to write to.
    with tempfile.TemporaryDirectory(prefix="matplotlib-") as scratch:
        os.environ.setdefault("MPLCONFIGDIR", scratch)
        import matplotlib

        matplotlib.use("Agg")  # no display in a pod
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(figsize=(6, 5.4), layout="constrained")
        ConfusionMatrixDisplay.from_predictions(truth, predicted, ax=axes, cmap="Blues", colorbar=False)
        axes.set_title(f"handwritten digits, accuracy {accuracy:.3f}")
        figure.savefig(path, dpi=120)
        pyplot.close(figure)


def main() -> int:
    """Train, report, save."""
    options = arguments()
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"train.py: {options.output} cannot be made: {error.strerror}", file=sys.stderr)
        return 1
    print(f"python {platform.python_version()}, scikit-learn {sklearn.__version__}, on {platform.node()}")
    visible = os.environ.get("NVIDIA_VISIBLE_DEVICES", "-")
    print(f"GPU devices: {' '.join(gpus()) or 'none'}  (NVIDIA_VISIBLE_DEVICES: {visible})")

    digits = load_digits()
    train_x, test_x, train_y, test_y = train_test_split(
        digits.data, digits.target, test_size=options.test_share, random_state=options.seed,
        stratify=digits.target,
    )  # fmt: skip
    print(f"{len(train_x)} images to learn from, {len(test_x)} held out, 8 x 8 pixels, 10 classes")

    scaler = StandardScaler().fit(train_x)
    train_scaled, test_scaled = scaler.transform(train_x), scaler.transform(test_x)
    network = MLPClassifier(
        hidden_layer_sizes=(options.hidden,), learning_rate_init=options.learning_rate,
        batch_size=min(options.batch_size, len(train_x)), random_state=options.seed,
    )  # fmt: skip
    metrics = MetricsFile(os.environ.get("LABCLUSTER_RUN_DIR"))
    began = time.monotonic()
    for epoch in range(1, options.epochs + 1):
        network.partial_fit(train_scaled, train_y, classes=CLASSES)
        values = {
            "train_loss": round(float(network.loss_), 6),
            "test_loss": round(
                float(log_loss(test_y, network.predict_proba(test_scaled), labels=CLASSES)), 6
            ),
            "test_accuracy": round(float(network.score(test_scaled, test_y)), 6),
        }
        metrics.write(epoch, **values)
        print(
            f"epoch {epoch:3}/{options.epochs}  train loss {values['train_loss']:.4f}"
            f"  test loss {values['test_loss']:.4f}  test accuracy {values['test_accuracy']:.4f}",
            flush=True,
        )

    predicted = network.predict(test_scaled)
    summary = {
        "accuracy": round(float(accuracy_score(test_y, predicted)), 6),
        "f1_macro": round(float(f1_score(test_y, predicted, average="macro")), 6),
        "test_loss": values["test_loss"],
        "epochs": options.epochs,
        "seed": options.seed,
        "seconds": round(time.monotonic() - began, 3),
    }
    (options.output / "metrics.json").write_text(json.dumps(summary, indent=2) + "\n")
    draw_confusion(options.output / "confusion-matrix.png", test_y, predicted, summary["accuracy"])
    joblib.dump(make_pipeline(scaler, network), options.output / "model.joblib")
    print(f"accuracy {summary['accuracy']:.4f} on {len(test_x)} new digits; results in {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
