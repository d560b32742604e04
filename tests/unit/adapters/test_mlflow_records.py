"""What the controller asks MLflow, and how it reads the answers (mlflow 3.17.2's own, shortened)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from labcluster.adapters.recording import MlflowRecords
from labcluster.adapters.sweeps import MlflowMetrics
from labcluster.errors import NotFoundError
from labcluster.models.recording import RecordedRun
from labcluster.models.runs import Run, RunState

END = datetime(2026, 11, 21, 9, tzinfo=UTC)


def run(**changes: Any) -> Run:
    values: dict[str, Any] = {
        "project": "vision",
        "number": 7,
        "name": "digits",
        "user": "ada",
        "uid": 20000,
        "gid": 30000,
        "image": "x",
        "image_digest": "x",
        "command": ["train"],
        "workdir": "/lab",
        "gpus": 0,
        "cpus": 1,
        "memory": "1Gi",
        "time_seconds": None,
        "env": {},
        "state": RunState.FAILED,
        "submitted_at": END,
        "finished_at": END,
    }
    return Run.model_validate(values | changes)


class Api:
    """MLflow of one experiment with one run."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, Any]]] = []
        self.pages: dict[str, dict[str, Any]] = {}

    def get(self, project: str, path: str, params: dict[str, Any]) -> dict[str, Any]:
        self.asked.append((project, path, dict(params)))
        if path == "metrics/get-history":
            return self.pages[params.get("page_token", "")]
        if params["experiment_name"] != "digits":
            raise NotFoundError("MLflow: no such experiment")
        return {"experiment": {"experiment_id": "3"}}

    def post(self, project: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self.asked.append((project, path, body))
        if path != "runs/search" or "'vision-7'" not in body["filter"]:
            return {}
        info = {"run_id": "abc", "status": "RUNNING"}
        return {"runs": [{"info": info, "data": {"tags": [{"key": "a", "value": "b"}, {"key": "c"}]}}]}


def test_run_is_found_by_its_tag_in_the_experiment_of_its_name() -> None:
    api = Api()
    found = MlflowRecords(api).find(run())  # type: ignore[arg-type]
    assert found == RecordedRun("abc", "RUNNING", {"a": "b", "c": ""})
    assert [asked[:2] for asked in api.asked] == [
        ("vision", "experiments/get-by-name"),
        ("vision", "runs/search"),
    ]
    assert api.asked[1][2]["experiment_ids"] == ["3"]


def test_absent_experiment_or_run_is_no_record() -> None:
    records = MlflowRecords(Api())  # type: ignore[arg-type]
    assert records.find(run(name="other")) is None
    assert records.find(run(number=70)) is None


def test_end_is_written_with_its_reason_before_it() -> None:
    api = Api()
    records = MlflowRecords(api)  # type: ignore[arg-type]
    records.finish(run(), RecordedRun("abc", "RUNNING"), "FAILED", {"labcluster.reason": "x" * 9000})
    (_, first, tags), (_, second, status) = api.asked
    assert (first, second) == ("runs/log-batch", "runs/update")
    assert tags == {"run_id": "abc", "tags": [{"key": "labcluster.reason", "value": "x" * 5000}]}
    assert status == {"run_id": "abc", "status": "FAILED", "end_time": int(END.timestamp() * 1000)}


def test_history_of_a_metric_is_by_step_and_whole() -> None:
    api = Api()
    api.pages[""] = {
        "metrics": [{"key": "loss", "value": 0.5, "step": 1}, {"key": "loss", "value": 0.9}],
        "next_page_token": "more",
    }
    api.pages["more"] = {"metrics": [{"key": "loss", "value": "NaN", "step": 2}, {"value": 0.4, "step": 1}]}
    metrics = MlflowMetrics(api)  # type: ignore[arg-type]
    first, second, third = metrics.history(run(), "loss")
    assert (first, second, third[0]) == ((0, 0.9), (1, 0.4), 2)
    assert third[1] != third[1]
    asked = [path for _, path, _ in api.asked]
    assert asked[:3] == ["experiments/get-by-name", "runs/search", "metrics/get-history"]
    assert api.asked[2][2] | {"max_results": 0} == {"run_id": "abc", "metric_key": "loss", "max_results": 0}
    metrics.history(run(), "loss")
    assert [path for _, path, _ in api.asked].count("runs/search") == 1


def test_run_without_a_record_has_no_metrics() -> None:
    assert MlflowMetrics(Api()).history(run(number=70), "loss") == ()  # type: ignore[arg-type]
