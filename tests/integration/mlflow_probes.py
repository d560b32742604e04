"""Requests for what a project keeps: sent by a member of another one, each must be in vain.

`{run}` and so on are the victim's (mlflow_victim.Victim.ids), `{own_…}` the attacker's own.
"""

from __future__ import annotations

import json
from typing import Any

Probe = tuple[str, str, Any]

_RUN_TAG = {"run_id": "{run}", "key": "k", "value": "changed"}
SOURCE = "mlflow-artifacts:/workspaces/vision/{artifacts}/model"
_TRACE = {
    "trace": {
        "trace_info": {
            "trace_id": "tr-0000000000000000000000000000beef",
            "trace_location": {
                "type": "MLFLOW_EXPERIMENT",
                "mlflow_experiment": {"experiment_id": "{experiment}"},
            },
            "request_time": "2026-11-21T00:00:00Z",
            "state": "OK",
        }
    }
}
_PARAMS = "data { params { key value } }"
_GRAPHQL_RUN = 'query { mlflowGetRun(input: {runId: "{run}"}) { run { info { runName } ' + _PARAMS + " } } }"
_GRAPHQL_EXPERIMENT = (
    'query { mlflowGetExperiment(input: {experimentId: "{experiment}"})'
    " { experiment { name tags { key value } } } }"
)
_GRAPHQL_SEARCH = (
    'mutation { mlflowSearchRuns(input: {experimentIds: ["{experiment}"]}) { runs { ' + _PARAMS + " } } }"
)
_GRAPHQL_FILES = 'query { mlflowListArtifacts(input: {runId: "{run}"}) { files { path } } }'

#: What its own members get, each with a 200 (the control), and nobody else.
READS: list[Probe] = [
    ("GET", "/api/2.0/mlflow/experiments/get?experiment_id={experiment}", None),
    ("GET", "/ajax-api/2.0/mlflow/experiments/get?experiment_id={experiment}", None),
    ("GET", "/api/2.0/mlflow/experiments/get-by-name?experiment_name={name}", None),
    ("GET", "/api/2.0/mlflow/runs/get?run_id={run}", None),
    ("GET", "/api/2.0/mlflow/runs/get?run_uuid={run}", None),
    ("POST", "/api/2.0/mlflow/runs/search", {"experiment_ids": ["{experiment}"]}),
    (
        "POST",
        "/ajax-api/2.0/mlflow/runs/search",
        {"experiment_ids": ["{experiment}"], "run_view_type": "ALL"},
    ),
    ("POST", "/ajax-api/2.0/mlflow/experiments/search-datasets", {"experiment_ids": ["{experiment}"]}),
    ("GET", "/api/2.0/mlflow/metrics/get-history?run_id={run}&metric_key=loss", None),
    ("GET", "/ajax-api/2.0/mlflow/metrics/get-history-bulk?run_id={run}&metric_key=loss", None),
    ("GET", "/ajax-api/2.0/mlflow/metrics/get-history-bulk-interval?run_ids={run}&metric_key=loss", None),
    ("GET", "/api/2.0/mlflow/artifacts/list?run_id={run}", None),
    ("GET", "/api/2.0/mlflow/artifacts/list?run_id={run}&path=model", None),
    ("GET", "/get-artifact?run_uuid={run}&path=secret.txt", None),
    ("GET", "/get-artifact?run_id={run}&path=model/MLmodel", None),
    ("GET", "/api/2.0/mlflow-artifacts/artifacts/{artifacts}/secret.txt", None),
    ("GET", "/ajax-api/2.0/mlflow-artifacts/artifacts/{artifacts}/secret.txt", None),
    ("GET", "/api/2.0/mlflow-artifacts/artifacts?path={artifacts}", None),
    ("GET", "/api/2.0/mlflow/registered-models/get?name={model}", None),
    ("GET", "/api/2.0/mlflow/registered-models/alias?name={model}&alias=best", None),
    ("POST", "/api/2.0/mlflow/registered-models/get-latest-versions", {"name": "{model}"}),
    ("GET", "/api/2.0/mlflow/model-versions/get?name={model}&version=1", None),
    ("GET", "/api/2.0/mlflow/model-versions/get-download-uri?name={model}&version=1", None),
    ("GET", "/model-versions/get-artifact?name={model}&version=1&path=MLmodel", None),
    ("GET", "/api/2.0/mlflow/model-versions/get?name={prompt}&version=1", None),
    ("GET", "/api/2.0/mlflow/logged-models/{logged}", None),
    ("GET", "/api/2.0/mlflow/logged-models/{logged}/artifacts/directories", None),
    ("POST", "/api/2.0/mlflow/logged-models/search", {"experiment_ids": ["{experiment}"]}),
    ("GET", "/api/3.0/mlflow/traces/{trace}", None),
    ("GET", "/api/2.0/mlflow/traces/{trace}/info", None),
    ("GET", "/api/2.0/mlflow/traces?experiment_ids={experiment}", None),
    (
        "POST",
        "/api/3.0/mlflow/traces/search",
        {
            "locations": [
                {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "{experiment}"}}
            ]
        },
    ),
    ("POST", "/api/3.0/mlflow/traces/batchGetInfos", {"trace_ids": ["{trace}"]}),
    ("GET", "/api/3.0/mlflow/traces/{trace}/assessments/{assessment}", None),
    ("GET", "/api/3.0/mlflow/datasets/{dataset}", None),
    ("GET", "/api/3.0/mlflow/datasets/{dataset}/records", None),
    ("GET", "/api/3.0/mlflow/datasets/{dataset}/experiment-ids", None),
    ("POST", "/api/3.0/mlflow/datasets/search", {"experiment_ids": ["{experiment}"]}),
    ("GET", "/api/3.0/mlflow/issues/{issue}", None),
    ("POST", "/api/3.0/mlflow/issues/search", {"experiment_id": "{experiment}"}),
    ("GET", "/api/3.0/mlflow/label-schemas/get?schema_id={label}", None),
    ("GET", "/api/3.0/mlflow/label-schemas/list?experiment_id={experiment}", None),
    ("GET", "/api/3.0/mlflow/review-queues/get?queue_id={queue}", None),
    ("GET", "/api/3.0/mlflow/review-queues/list?experiment_id={experiment}", None),
    ("GET", "/api/3.0/mlflow/review-queues/items/list?queue_id={queue}", None),
    ("GET", "/api/3.0/mlflow/scorers/list?experiment_id={experiment}", None),
    ("GET", "/api/3.0/mlflow/scorers/get?experiment_id={experiment}&name={name}", None),
    ("GET", "/api/3.0/mlflow/scorers/versions?experiment_id={experiment}&name={name}", None),
    ("POST", "/graphql", {"query": _GRAPHQL_RUN}),
    ("POST", "/graphql", {"query": _GRAPHQL_EXPERIMENT}),
    ("POST", "/graphql", {"query": _GRAPHQL_SEARCH}),
    ("POST", "/graphql", {"query": _GRAPHQL_FILES}),
]

#: The same of writing; what destroys comes last, since the control is sent as well.
WRITES: list[Probe] = [
    ("POST", "/api/2.0/mlflow/experiments/update", {"experiment_id": "{experiment}", "new_name": "stolen"}),
    (
        "POST",
        "/api/2.0/mlflow/experiments/set-experiment-tag",
        {"experiment_id": "{experiment}", "key": "k", "value": "changed"},
    ),
    ("POST", "/api/2.0/mlflow/runs/create", {"experiment_id": "{experiment}", "run_name": "planted"}),
    ("POST", "/api/2.0/mlflow/runs/update", {"run_id": "{run}", "status": "KILLED"}),
    ("POST", "/api/2.0/mlflow/runs/set-tag", _RUN_TAG),
    ("POST", "/ajax-api/2.0/mlflow/runs/set-tag", {**_RUN_TAG, "run_uuid": "{run}"}),
    ("POST", "/api/2.0/mlflow/runs/log-metric", {"run_id": "{run}", "key": "m", "value": 1, "timestamp": 1}),
    ("POST", "/api/2.0/mlflow/runs/log-parameter", {"run_id": "{run}", "key": "p", "value": "v"}),
    (
        "POST",
        "/api/2.0/mlflow/runs/log-batch",
        {"run_id": "{run}", "metrics": [{"key": "m2", "value": 1, "timestamp": 1, "step": 0}]},
    ),
    (
        "POST",
        "/api/2.0/mlflow/runs/log-inputs",
        {
            "run_id": "{run}",
            "datasets": [{"dataset": {"name": "d", "digest": "x", "source_type": "s", "source": "s"}}],
        },
    ),
    (
        "POST",
        "/api/2.0/mlflow/runs/outputs",
        {"run_id": "{run}", "models": [{"model_id": "{logged}", "step": 1}]},
    ),
    ("PUT", "/api/2.0/mlflow-artifacts/artifacts/{artifacts}/planted.txt", b"planted"),
    ("PUT", "/ajax-api/2.0/mlflow-artifacts/artifacts/{artifacts}/secret.txt", b"planted"),
    ("POST", "/ajax-api/2.0/mlflow/upload-artifact?run_uuid={run}&path=planted2.txt", b"planted"),
    ("PATCH", "/api/2.0/mlflow/registered-models/update", {"name": "{model}", "description": "changed"}),
    (
        "POST",
        "/api/2.0/mlflow/registered-models/set-tag",
        {"name": "{model}", "key": "k", "value": "changed"},
    ),
    ("POST", "/api/2.0/mlflow/registered-models/alias", {"name": "{model}", "alias": "x", "version": "1"}),
    (
        "POST",
        "/api/2.0/mlflow/model-versions/create",
        {"name": "{model}", "source": SOURCE, "run_id": "{run}"},
    ),
    (
        "PATCH",
        "/api/2.0/mlflow/model-versions/update",
        {"name": "{model}", "version": "1", "description": "changed"},
    ),
    (
        "POST",
        "/api/2.0/mlflow/model-versions/set-tag",
        {"name": "{model}", "version": "1", "key": "k", "value": "changed"},
    ),
    (
        "POST",
        "/api/2.0/mlflow/model-versions/transition-stage",
        {"name": "{model}", "version": "1", "stage": "Production", "archive_existing_versions": False},
    ),
    ("POST", "/api/2.0/mlflow/logged-models", {"experiment_id": "{experiment}", "name": "planted"}),
    (
        "PATCH",
        "/api/2.0/mlflow/logged-models/{logged}/tags",
        {"tags": [{"key": "k", "value": "changed"}]},
    ),
    (
        "POST",
        "/api/2.0/mlflow/logged-models/{logged}/params",
        {"model_id": "{logged}", "params": [{"key": "k", "value": "v"}]},
    ),
    ("POST", "/api/3.0/mlflow/traces", _TRACE),
    ("PATCH", "/api/3.0/mlflow/traces/{trace}/tags", {"trace_id": "{trace}", "key": "k", "value": "changed"}),
    (
        "POST",
        "/api/3.0/mlflow/traces/{trace}/assessments",
        {
            "assessment": {
                "assessment_name": "b",
                "trace_id": "{trace}",
                "source": {"source_type": "HUMAN", "source_id": "x"},
                "feedback": {"value": 1},
            }
        },
    ),
    ("PATCH", "/api/3.0/mlflow/datasets/{dataset}/tags", {"tags": json.dumps({"k": "changed"})}),
    (
        "POST",
        "/api/3.0/mlflow/datasets/{dataset}/records",
        {"records": json.dumps([{"inputs": {"q": "planted"}}])},
    ),
    ("PATCH", "/api/3.0/mlflow/issues/{issue}", {"issue_id": "{issue}", "description": "changed"}),
    ("POST", "/api/3.0/mlflow/issues", {"experiment_id": "{experiment}", "name": "i", "description": "d"}),
    ("PATCH", "/api/3.0/mlflow/label-schemas/update", {"schema_id": "{label}", "instruction": "changed"}),
    ("POST", "/api/3.0/mlflow/review-queues/update", {"queue_id": "{queue}", "name": "changed"}),
    (
        "POST",
        "/api/3.0/mlflow/review-queues/create",
        {"experiment_id": "{experiment}", "name": "planted", "queue_type": "CUSTOM"},
    ),
    ("POST", "/api/2.0/mlflow/runs/delete-tag", {"run_id": "{run}", "key": "k"}),
    (
        "POST",
        "/api/2.0/mlflow/experiments/delete-experiment-tag",
        {"experiment_id": "{experiment}", "key": "k"},
    ),
    ("DELETE", "/api/2.0/mlflow-artifacts/artifacts/{artifacts}/secret.txt", None),
    ("DELETE", "/api/2.0/mlflow/registered-models/alias", {"name": "{model}", "alias": "best"}),
    ("DELETE", "/api/2.0/mlflow/model-versions/delete", {"name": "{model}", "version": "1"}),
    ("POST", "/api/2.0/mlflow/registered-models/rename", {"name": "{model}", "new_name": "stolen"}),
    ("DELETE", "/api/2.0/mlflow/registered-models/delete", {"name": "{prompt}"}),
    ("DELETE", "/api/2.0/mlflow/logged-models/{logged}", None),
    ("DELETE", "/api/3.0/mlflow/traces/{trace}/assessments/{assessment}", None),
    (
        "POST",
        "/api/3.0/mlflow/traces/delete-traces",
        {"experiment_id": "{experiment}", "request_ids": ["{trace}"]},
    ),
    ("DELETE", "/api/3.0/mlflow/datasets/{dataset}", None),
    ("DELETE", "/api/3.0/mlflow/label-schemas/delete", {"schema_id": "{label}"}),
    ("POST", "/api/3.0/mlflow/review-queues/delete", {"queue_id": "{queue}"}),
    ("DELETE", "/api/3.0/mlflow/scorers/delete", {"experiment_id": "{experiment}", "name": "{name}"}),
    ("POST", "/api/2.0/mlflow/runs/delete", {"run_id": "{run}"}),
    ("POST", "/api/2.0/mlflow/runs/restore", {"run_id": "{run}"}),
    ("POST", "/api/2.0/mlflow/experiments/delete", {"experiment_id": "{experiment}"}),
    ("POST", "/api/2.0/mlflow/experiments/restore", {"experiment_id": "{experiment}"}),
]
