#!/usr/bin/env python3
"""Train a small network on two spirals, and go on where an earlier attempt was stopped.

    python3 train.py                                      on a laptop
    labctl submit --requeue --follow -- python3 train.py    on the cluster; preempted, it goes on by itself

After every epoch all that the training is made of goes to checkpoint.npz in the run's directory: weights,
momentum, the epoch, the state of the random numbers. A later attempt of the run works in the same directory,
finds it, and ends with the very numbers that an undisturbed run ends with. SIGTERM (preemption, drain, time
limit, labctl cancel) lets it finish the epoch and save; SIGKILL at any moment costs the epoch at hand.

Writes into --output (default: the run's artifacts):   model.npz   metrics.json
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

TERMINATED = 128 + signal.SIGTERM
NAMES = ("w1", "b1", "w2", "b2")


class Training:
    """The whole state of a training; saved and loaded, it goes on as if nothing had been."""

    def __init__(self, hidden: int, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        shapes = ((2, hidden), (hidden,), (hidden, 2), (2,))
        self.weights = [self.random.normal(0, 0.5, shape) for shape in shapes]
        self.momentum = [np.zeros(shape) for shape in shapes]
        self.epoch = 0

    def step(self, inputs: np.ndarray, targets: np.ndarray, rate: float) -> None:
        """One epoch of mini-batches, in an order of its own."""
        order = self.random.permutation(len(inputs))
        for rows in np.array_split(order, max(1, len(inputs) // 32)):
            gradients = self._gradients(inputs[rows], targets[rows])
            for weight, momentum, gradient in zip(self.weights, self.momentum, gradients, strict=True):
                momentum *= 0.9
                momentum -= rate * gradient
                weight += momentum
        self.epoch += 1

    def measure(self, inputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """Loss (cross entropy) and accuracy."""
        _, shares = self._forward(inputs)
        loss = -np.log(shares[np.arange(len(targets)), targets] + 1e-12).mean()
        accuracy = (shares.argmax(axis=1) == targets).mean()
        return {"loss": round(float(loss), 6), "accuracy": round(float(accuracy), 6)}

    def save(self, path: Path) -> None:
        """Whole or not at all: whoever reads, sees the old file until the new one is complete."""
        partial = path.with_name(path.name + ".part")
        arrays = dict(zip(NAMES, self.weights, strict=True))
        moving = {f"m_{name}": value for name, value in zip(NAMES, self.momentum, strict=True)}
        state = json.dumps({"epoch": self.epoch, "random": self.random.bit_generator.state})
        with partial.open("wb") as file:
            np.savez(file, **arrays, **moving, state=np.array(state))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Take up what was saved."""
        with np.load(path) as saved:
            self.weights = [saved[name] for name in NAMES]
            self.momentum = [saved[f"m_{name}"] for name in NAMES]
            state = json.loads(str(saved["state"]))
        self.epoch = state["epoch"]
        self.random.bit_generator.state = state["random"]

    def _forward(self, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        w1, b1, w2, b2 = self.weights
        hidden = np.tanh(inputs @ w1 + b1)
        scores = hidden @ w2 + b2
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return hidden, powers / powers.sum(axis=1, keepdims=True)

    def _gradients(self, inputs: np.ndarray, targets: np.ndarray) -> list[np.ndarray]:
        hidden, shares = self._forward(inputs)
        shares[np.arange(len(targets)), targets] -= 1
        shares /= len(targets)
        inner = (shares @ self.weights[2].T) * (1 - hidden**2)
        return [inputs.T @ inner, inner.sum(axis=0), hidden.T @ shares, shares.sum(axis=0)]


def spirals(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points of two interleaved spirals, with noise."""
    random = np.random.default_rng(seed)
    targets = np.arange(count) % 2
    angle = np.sqrt(random.uniform(size=count)) * 2.5 * np.pi
    turned = angle + np.pi * targets
    points = np.stack([angle * np.cos(turned), angle * np.sin(turned)], axis=1) / 4
    return points + random.normal(0, 0.05, points.shape), targets


def arguments() -> argparse.Namespace:
    """The command line; every value that changes the result is on it."""
    run = os.environ.get("LABCLUSTER_RUN_DIR", ".")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=300, help="default 300")
    parser.add_argument("--hidden", type=int, default=32, help="units of the hidden layer (default 32)")
    parser.add_argument("--rate", type=float, default=0.05, help="learning rate (default 0.05)")
    parser.add_argument("--seed", type=int, default=int(os.environ.get("LABCLUSTER_SEED", "0")))
    parser.add_argument(
        "--pause", type=float, default=0.0, help="seconds of rest after each epoch, to watch it"
    )
    parser.add_argument("--checkpoint", type=Path, default=Path(run, "checkpoint.npz"))
    artifacts = os.environ.get("LABCLUSTER_ARTIFACTS_DIR", "artifacts")
    parser.add_argument("--output", type=Path, default=Path(artifacts))
    return parser.parse_args()


def main() -> int:
    """Train to the end, or to where we are told to stop."""
    options = arguments()
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: told.append(number))
    inputs, targets = spirals(1000, options.seed)
    held_out = spirals(400, options.seed + 1)
    training = Training(options.hidden, options.seed)
    if options.checkpoint.exists():
        training.load(options.checkpoint)
        print(f"resumed after epoch {training.epoch} of {options.epochs}", flush=True)
    while training.epoch < options.epochs:
        training.step(inputs, targets, options.rate)
        training.save(options.checkpoint)
        values = training.measure(*held_out)
        print(
            f"labcluster: step={training.epoch} loss={values['loss']} accuracy={values['accuracy']}",
            flush=True,
        )
        if told and training.epoch < options.epochs:
            print(f"told to stop: epoch {training.epoch} is saved", flush=True)
            return TERMINATED
        time.sleep(options.pause)
    options.output.mkdir(parents=True, exist_ok=True)
    np.savez(options.output / "model.npz", **dict(zip(NAMES, training.weights, strict=True)))
    summary = {**training.measure(*held_out), "epochs": training.epoch, "seed": options.seed}
    (options.output / "metrics.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(f"accuracy {summary['accuracy']:.4f} after {training.epoch} epochs; results in {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
