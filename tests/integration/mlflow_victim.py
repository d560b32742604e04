"""One of everything that MLflow keeps, in a project whose secret nobody outside may see or change."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa

#: Stands in everything that the victim keeps.
SECRET = "vision-secret-4711"

# The server's own books of who has asked.
_ACCOUNTS = {"users", "roles", "role_permissions", "user_role_assignments", "workspaces"}


@dataclass
class Victim:
    """Names and ids of what ada keeps in vision."""

    ids: dict[str, str] = field(default_factory=dict)

    def fill(self, text: str) -> str:
        """`{run}` and so on, replaced."""
        for name, value in self.ids.items():
            text = text.replace(f"{{{name}}}", value)
        return text


def make(client: httpx.Client, name: str = "victim") -> Victim:
    """Make one of everything through the REST interface."""

    def post(path: str, body: dict[str, Any], version: str = "2.0") -> dict[str, Any]:
        return _sent(client.post(f"/api/{version}/mlflow/{path}", json=body))

    v = Victim()
    tag = [{"key": "k", "value": SECRET}]
    v.ids["name"] = name
    v.ids["experiment"] = post("experiments/create", {"name": v.ids["name"], "tags": tag})["experiment_id"]
    run = post("runs/create", {"experiment_id": v.ids["experiment"], "run_name": SECRET, "tags": tag})["run"]
    v.ids["run"] = run["info"]["run_id"]
    v.ids["artifacts"] = f"{v.ids['experiment']}/{v.ids['run']}/artifacts"
    post(
        "runs/log-batch",
        {
            "run_id": v.ids["run"],
            "metrics": [{"key": "loss", "value": 0.125, "timestamp": 1, "step": 1}],
            "params": [{"key": "lr", "value": SECRET}],
        },
    )
    dataset = {"name": SECRET, "digest": "d1", "source_type": "x", "source": SECRET}
    post("runs/log-inputs", {"run_id": v.ids["run"], "datasets": [{"dataset": dataset}]})
    upload(client, f"{v.ids['artifacts']}/secret.txt", SECRET.encode())
    upload(client, f"{v.ids['artifacts']}/model/MLmodel", f"model: {SECRET}".encode())
    _registry(v, post, tag)
    _traces(v, post)
    _rest(v, post)
    return v


def _registry(v: Victim, post: Any, tag: list[dict[str, str]]) -> None:
    v.ids["model"] = v.ids["name"]
    post("registered-models/create", {"name": v.ids["model"], "description": SECRET, "tags": tag})
    made = {"experiment_id": v.ids["experiment"], "name": SECRET, "source_run_id": v.ids["run"]}
    logged = post("logged-models", made)["model"]["info"]
    v.ids["logged"] = logged["model_id"]
    source = f"mlflow-artifacts:/workspaces/vision/{v.ids['artifacts']}/model"
    body = {"name": v.ids["model"], "source": source, "run_id": v.ids["run"], "description": SECRET}
    post("model-versions/create", body)
    post("registered-models/alias", {"name": v.ids["model"], "alias": "best", "version": "1"})
    prompt = [{"key": "mlflow.prompt.is_prompt", "value": "true"}]
    v.ids["prompt"] = f"prompt-{v.ids['name']}"
    post("registered-models/create", {"name": v.ids["prompt"], "tags": prompt})
    text = [*prompt, {"key": "mlflow.prompt.text", "value": SECRET}]
    post("model-versions/create", {"name": v.ids["prompt"], "source": "prompt-template", "tags": text})


def _traces(v: Victim, post: Any) -> None:
    v.ids["trace"] = f"tr-{uuid.uuid4().hex}"
    place = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": v.ids["experiment"]}}
    info = {
        "trace_id": v.ids["trace"],
        "trace_location": place,
        "request_preview": SECRET,
        "request_time": "2026-11-21T00:00:00Z",
        "state": "OK",
        "tags": {"k": SECRET},
    }
    post("traces", {"trace": {"trace_info": info}}, "3.0")
    source = {"source_type": "HUMAN", "source_id": SECRET}
    found = {
        "assessment_name": "a",
        "trace_id": v.ids["trace"],
        "source": source,
        "feedback": {"value": SECRET},
    }
    made = post(f"traces/{v.ids['trace']}/assessments", {"assessment": found}, "3.0")
    v.ids["assessment"] = made["assessment"]["assessment_id"]


def _rest(v: Victim, post: Any) -> None:
    experiment = v.ids["experiment"]
    found = post(
        "datasets/create",
        {"name": v.ids["name"], "experiment_ids": [experiment], "tags": json.dumps({"k": SECRET})},
        "3.0",
    )
    v.ids["dataset"] = found["dataset"]["dataset_id"]
    record = [{"inputs": {"q": SECRET}, "expectations": {"a": SECRET}}]
    post(f"datasets/{v.ids['dataset']}/records", {"records": json.dumps(record)}, "3.0")
    issue = {"experiment_id": experiment, "name": SECRET, "description": SECRET}
    v.ids["issue"] = post("issues", issue, "3.0")["issue"]["issue_id"]
    label = {
        "experiment_id": experiment, "name": v.ids["name"], "type": "FEEDBACK", "instruction": SECRET,
        "input": {"text": {}},
    }  # fmt: skip
    v.ids["label"] = post("label-schemas/create", label, "3.0")["label_schema"]["schema_id"]
    queue = {"experiment_id": experiment, "name": v.ids["name"], "queue_type": "CUSTOM"}
    v.ids["queue"] = post("review-queues/create", queue, "3.0")["review_queue"]["queue_id"]
    scorer = json.dumps(
        {"name": SECRET, "instructions_judge_pydantic_data": {"instructions": SECRET, "model": "x"}}
    )
    post(
        "scorers/register",
        {"experiment_id": experiment, "name": v.ids["name"], "serialized_scorer": scorer},
        "3.0",
    )


def upload(client: httpx.Client, path: str, content: bytes) -> None:
    """Put an artifact at a place below the project's artifacts."""
    answer = client.put(f"/api/2.0/mlflow-artifacts/artifacts/{path}", content=content)
    assert answer.status_code == 200, answer.text


def _sent(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, f"{answer.request.url}: {answer.status_code} {answer.text}"
    found: dict[str, Any] = answer.json()
    return found


Rows = dict[str, set[str]]


def rows(database: str) -> Rows:
    """Every row of every table but those of accounts."""
    pool = sa.create_engine(database)
    with pool.connect() as connection:
        tables = sa.inspect(connection).get_table_names()
        found = {
            table: {
                json.dumps(dict(row), default=repr, sort_keys=True)
                for row in connection.execute(sa.text(f'SELECT * FROM "{table}"')).mappings()
            }
            for table in tables
            if table not in _ACCOUNTS and not table.startswith("alembic")
        }
    pool.dispose()
    return found


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
