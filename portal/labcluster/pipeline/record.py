"""The record of a pipeline: a line a task in a file, metrics on standard output, and MLflow if there is one.

Nothing here may end a pipeline: what cannot be recorded is said once, and the work goes on.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labcluster.adapters.mlflow_client import MlflowClient
from labcluster.errors import LabclusterError

FILE = "pipeline.jsonl"


@dataclass(frozen=True)
class Entry:
    """One task that was done, was there already (`cached`) or failed."""

    task: str
    id: str
    state: str
    params: dict[str, str]
    inputs: list[str]
    outputs: list[str]
    code: str
    finished: float
    seconds: float = 0.0
    error: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)


class Record:
    """What this process knows of the pipeline it runs."""

    def __init__(self) -> None:
        self.root: str | None = None
        self.folder: Path | None = None
        self.entries: list[Entry] = []
        self._began: dict[str, float] = {}
        self._points: dict[str, list[tuple[str, float, int]]] = {}
        self._client = MlflowClient.from_environment()
        self._parent = os.environ.get("MLFLOW_RUN_ID")
        self._experiment = os.environ.get("MLFLOW_EXPERIMENT_ID", "0")

    def begin(self, root: str, name: str, workspace: Path) -> None:
        """Say which task is wanted in the end; entries go to the run's artifacts, else to the workspace."""
        self.root = root
        self.folder = Path(os.environ.get("LABCLUSTER_ARTIFACTS_DIR") or workspace)
        if self._client is not None and self._parent is None:
            self._parent = self._tell(lambda client: client.create_run(self._experiment, name, {}))

    def began(self, task: str, name: str) -> None:
        """A task begins."""
        self._began[task] = time.time()
        print(f"{name} begins", flush=True)

    def metrics(self, task: str, name: str, step: int, values: dict[str, float]) -> None:
        """Metrics of a task; those of all but the final one carry their task's name."""
        numbers = {key: float(value) for key, value in values.items() if math.isfinite(value)}
        self._points.setdefault(task, []).extend((key, value, step) for key, value in numbers.items())
        prefix = "" if self.root in (None, task) else f"{name}."
        line = {
            "labcluster": "metric",
            "step": step,
            **{prefix + key: value for key, value in numbers.items()},
        }
        print(json.dumps(line), flush=True)

    def ended(self, entry: Entry) -> None:
        """A task was done, was there already, or failed."""
        points = self._points.pop(entry.id, [])
        began = self._began.pop(entry.id, entry.finished)
        entry = dataclasses.replace(
            entry,
            seconds=round(max(0.0, entry.finished - began), 3),
            metrics={key: value for key, value, _ in points},
        )
        self.entries.append(entry)
        how = {"done": f"done in {entry.seconds:.1f} s", "cached": "was there already"}
        print(f"{entry.task} {how.get(entry.state) or f'failed: {entry.error}'}", flush=True)
        self._write(entry)
        self._tell(lambda client: self._send(client, entry, points))

    def result(self, numbers: dict[str, float]) -> None:
        """The numbers that the final task gave: the run's metrics, and result.json."""
        print(json.dumps({"labcluster": "metric", "step": 0, **numbers}), flush=True)
        if self.folder is not None:
            (self.folder / "result.json").write_text(json.dumps(numbers, indent=2) + "\n")
        self._tell_parent([(key, value, 0) for key, value in numbers.items()])

    def _tell_parent(
        self, points: list[tuple[str, float, int]], params: dict[str, str] | None = None
    ) -> None:
        # In a run of the cluster the recorder takes the final task's metrics from standard output.
        if self._parent and "LABCLUSTER_RUN_ID" not in os.environ:
            parent = self._parent
            self._tell(lambda client: client.log(parent, params=params, metrics=points))

    def finish(self, succeeded: bool) -> None:
        """The pipeline is over; a run that was begun for it ends."""
        if self._client is not None and self._parent and "MLFLOW_RUN_ID" not in os.environ:
            parent = self._parent
            self._tell(lambda client: client.end_run(parent, "FINISHED" if succeeded else "FAILED"))

    def _write(self, entry: Entry) -> None:
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / FILE).open("a") as file:
                file.write(json.dumps(dataclasses.asdict(entry), sort_keys=True) + "\n")
        except OSError as error:
            _warn(f"{self.folder / FILE} cannot be written: {error.strerror}")

    def _send(self, client: MlflowClient, entry: Entry, points: list[tuple[str, float, int]]) -> None:
        tags = {
            "labcluster.task": entry.id,
            "labcluster.state": entry.state,
            "labcluster.code": entry.code,
            "labcluster.inputs": json.dumps(entry.inputs),
            "labcluster.outputs": json.dumps(entry.outputs),
        }
        if self._parent:
            tags["mlflow.parentRunId"] = self._parent
        if entry.error:
            tags["labcluster.error"] = entry.error
        run = client.create_run(self._experiment, entry.task, tags, entry.finished - entry.seconds)
        client.log(run, params=entry.params, metrics=[*points, ("seconds", entry.seconds, 0)])
        client.end_run(run, "FAILED" if entry.state == "failed" else "FINISHED")
        if entry.id == self.root:
            self._tell_parent(points, entry.params)

    def _tell(self, what: Any) -> Any:
        if self._client is None:
            return None
        try:
            return what(self._client)
        except LabclusterError as error:
            _warn(f"{error.detail}; the pipeline goes on and is recorded in {FILE} only")
            self._client = None
            return None


def _warn(text: str) -> None:
    print(f"labcluster.pipeline: {text}", file=sys.stderr, flush=True)


@functools.cache
def record() -> Record:
    """The record of this process."""
    return Record()
