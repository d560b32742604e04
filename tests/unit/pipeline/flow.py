"""A pipeline for the tests: rows -> weights (heavy) -> score (heavy) -> summary."""

from __future__ import annotations

import os

import luigi
from labcluster.pipeline import Needs, Task

SCALE = 1.0


def scaled(value: float) -> float:
    """What Score uses of this module."""
    return value * SCALE


class Rows(Task):
    """Light, and needed by both heavy tasks."""

    seed = luigi.IntParameter(default=0)

    def run(self) -> None:
        """Three numbers."""
        self.report(rows=3)
        self.dump([float(self.seed), 2.0, 3.0])


class Weights(Task):
    """Heavy."""

    seed = luigi.IntParameter(default=0)
    rate = luigi.FloatParameter(default=0.5)
    epochs = 2
    needs = Needs(gpus=1, memory="8G", time="2h")

    def requires(self) -> Rows:
        """The numbers."""
        return Rows(seed=self.seed)

    def run(self) -> None:
        """Fails where the test wants it."""
        if os.environ.get("FLOW_FAILS"):
            raise RuntimeError("no luck")
        for epoch in range(self.epochs):
            self.report(step=epoch, loss=self.rate / (epoch + 1))
        self.dump(sum(self.load()) * self.rate)


class Score(Task):
    """Heavy too, after Weights."""

    rate = luigi.FloatParameter(default=0.5)
    needs = Needs(cpus=4)
    uses = (scaled,)

    def requires(self) -> dict[str, Task]:
        """Both."""
        return {"weights": Weights(rate=self.rate), "rows": Rows()}

    def run(self) -> None:
        """One number."""
        self.dump(scaled(self.load("weights")) + len(self.load("rows")))


class Summary(Task):
    """The final one."""

    rate = luigi.FloatParameter(default=0.5)

    def requires(self) -> Score:
        """The score."""
        return Score(rate=self.rate)

    def run(self) -> None:
        """A table of numbers: the result."""
        self.dump({"score": self.load(), "rate": self.rate})
