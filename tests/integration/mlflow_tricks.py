"""Ways around the walls between projects, as `mlflow_probes` has the doors: nobody has a right to any."""

from __future__ import annotations

import json

from mlflow_probes import SOURCE, Probe

_ABSOLUTE = "{root}/workspaces/vision/{artifacts}/secret.txt"

TRICKS: list[Probe] = [
    *(
        ("GET", f"/{api}/2.0/mlflow-artifacts/artifacts/{path}", None)
        for api in ("api", "ajax-api")
        for path in (
            "workspaces/vision/{artifacts}/secret.txt",
            "../vision/{artifacts}/secret.txt",
            "..%2Fvision%2F{artifacts}/secret.txt",
            "%2e%2e/vision/{artifacts}/secret.txt",
            "%252e%252e/vision/{artifacts}/secret.txt",
            "{own_artifacts}/../../../../vision/{artifacts}/secret.txt",
            "{own_artifacts}/%2e%2e/%2e%2e/%2e%2e/%2e%2e/vision/{artifacts}/secret.txt",
            "{own_artifacts}/..%5c..%5c..%5c..%5cvision/{artifacts}/secret.txt",
            f"/{_ABSOLUTE}",
            f"%2F{_ABSOLUTE}",
            f"file:%2F%2F{_ABSOLUTE}",
            "workspaces/speech/../vision/{artifacts}/secret.txt",
        )
    ),
    *(
        ("GET", f"/api/2.0/mlflow-artifacts/artifacts?path={path}", None)
        for path in (
            "..",
            "../..",
            "%2e%2e",
            "/",
            "workspaces",
            "workspaces/vision",
            "../vision",
            "..%2fvision",
            "%252e%252e%252fvision",
            "workspaces/vision/{artifacts}",
            "{root}/workspaces/vision",
        )
    ),
    *(
        ("GET", f"/api/2.0/mlflow/artifacts/list?run_id={{own_run}}&path={path}", None)
        for path in ("..", "../../../../vision/{artifacts}", "%2e%2e%2f%2e%2e", "{root}/workspaces/vision")
    ),
    *(
        ("GET", f"/get-artifact?run_uuid={{own_run}}&path={path}", None)
        for path in (
            "../../../../vision/{artifacts}/secret.txt",
            "..%2f..%2f..%2f..%2fvision/{artifacts}/secret.txt",
            "%252e%252e/%252e%252e/%252e%252e/%252e%252e/vision/{artifacts}/secret.txt",
            _ABSOLUTE,
            f"file://{_ABSOLUTE}",
        )
    ),
    *(
        ("PUT", f"/api/2.0/mlflow-artifacts/artifacts/{path}", b"planted")
        for path in (
            "workspaces/vision/{artifacts}/planted.txt",
            "../vision/{artifacts}/planted.txt",
            "..%2fvision/{artifacts}/planted.txt",
            "%252e%252e/vision/{artifacts}/planted.txt",
            "{own_artifacts}/../../../../vision/{artifacts}/planted.txt",
        )
    ),
    *(
        ("DELETE", f"/api/2.0/mlflow-artifacts/artifacts/{path}", None)
        for path in ("workspaces/vision", "..", "%2e%2e", "../vision", "..%2fvision", "%252e%252e%252fvision")
    ),
    (
        "POST",
        "/ajax-api/2.0/mlflow/upload-artifact?run_uuid={own_run}&path=../../../../vision/x.txt",
        b"planted",
    ),
    # Artifacts that lie elsewhere than MLflow puts them.
    *(
        (
            "POST",
            "/api/2.0/mlflow/experiments/create",
            {"name": f"elsewhere-{number}", "artifact_location": place},
        )
        for number, place in enumerate(
            (
                "file:///tmp/planted",
                "{root}/workspaces/vision",
                "mlflow-artifacts:/workspaces/vision/{experiment}",
                "mlflow-artifacts:/../vision/{experiment}",
                "http://127.0.0.1/x",
                "s3://bucket/x",
            )
        )
    ),
    # Models whose files are somebody else's.
    ("POST", "/api/2.0/mlflow/registered-models/create", {"name": "thief"}),
    *(
        ("POST", "/api/2.0/mlflow/model-versions/create", {"name": "thief", "source": source, **run})
        for run in ({}, {"run_id": "{own_run}"}, {"run_id": "{run}"})
        for source in (
            SOURCE,
            "{root}/workspaces/vision/{artifacts}/model",
            "file://{root}/workspaces/vision/{artifacts}/model",
            "mlflow-artifacts:/../vision/{artifacts}/model",
            "mlflow-artifacts:/{artifacts}/model",
            "runs:/{run}/model",
            "models:/{model}/1",
            "models:/{logged}",
            "mlflow-artifacts:/workspaces/speech/../vision/{artifacts}/model",
        )
    ),
    *(
        ("GET", f"/model-versions/get-artifact?name=thief&version={version}&path=MLmodel", None)
        for version in range(1, 28)
    ),
    *(
        ("GET", f"/api/2.0/mlflow/model-versions/get?name=thief&version={version}", None)
        for version in range(1, 28)
    ),
    # The attacker's own things, tied to the victim's.
    (
        "POST",
        "/api/2.0/mlflow/runs/log-model",
        {"run_id": "{own_run}", "model_json": json.dumps({"run_id": "{run}"})},
    ),
    (
        "POST",
        "/api/2.0/mlflow/runs/outputs",
        {"run_id": "{own_run}", "models": [{"model_id": "{logged}", "step": 1}]},
    ),
    (
        "POST",
        "/api/2.0/mlflow/runs/log-inputs",
        {"run_id": "{own_run}", "models": [{"model_id": "{logged}"}]},
    ),
    (
        "POST",
        "/api/2.0/mlflow/runs/log-batch",
        {
            "run_id": "{own_run}",
            "metrics": [{"key": "m", "value": 1, "timestamp": 1, "step": 0, "model_id": "{logged}"}],
        },
    ),
    ("POST", "/api/2.0/mlflow/runs/search", {"experiment_ids": ["{own_experiment}", "{experiment}"]}),
    (
        "POST",
        "/api/2.0/mlflow/logged-models/search",
        {"experiment_ids": ["{own_experiment}", "{experiment}"]},
    ),
    (
        "GET",
        "/ajax-api/2.0/mlflow/metrics/get-history-bulk?run_id={own_run}&run_id={run}&metric_key=loss",
        None,
    ),
    ("POST", "/api/2.0/mlflow/traces/link-to-run", {"run_id": "{own_run}", "trace_ids": ["{trace}"]}),
    ("POST", "/api/2.0/mlflow/traces/link-to-run", {"run_id": "{run}", "trace_ids": ["{trace}"]}),
    ("POST", "/api/3.0/mlflow/datasets/{dataset}/add-experiments", {"experiment_ids": ["{own_experiment}"]}),
    ("POST", "/api/3.0/mlflow/datasets/create", {"name": "thief", "experiment_ids": ["{experiment}"]}),
    ("POST", "/api/3.0/mlflow/review-queues/items/add", {"queue_id": "{queue}", "trace_ids": ["{trace}"]}),
    ("GET", "/api/2.0/mlflow/registered-models/search?max_results=1000", None),
    ("GET", "/api/2.0/mlflow/model-versions/search?filter=run_id%3D'{run}'", None),
    ("POST", "/api/2.0/mlflow/experiments/search", {"max_results": 1000, "view_type": "ALL"}),
    ("GET", "/api/2.0/mlflow/experiments/search?max_results=1000&view_type=ALL", None),
    ("POST", "/api/2.0/mlflow/runs/search", {"experiment_ids": [], "filter": "", "max_results": 1000}),
    ("POST", "/api/3.0/mlflow/datasets/search", {"experiment_ids": [], "max_results": 100}),
    ("GET", "/api/3.0/mlflow/workspaces", None),
    ("GET", "/api/3.0/mlflow/workspaces/vision", None),
    ("POST", "/v1/traces", b"\n\x00"),
    # Whose server it is.
    ("GET", "/api/2.0/mlflow/users/list", None),
    ("GET", "/api/2.0/mlflow/users/get?username=ada@vision", None),
    ("POST", "/api/2.0/mlflow/users/create", {"username": "mallory", "password": "mallorymallory"}),
    ("PATCH", "/api/2.0/mlflow/users/update-admin", {"username": "bo@speech", "is_admin": True}),
    (
        "PATCH",
        "/api/2.0/mlflow/users/update-password",
        {"username": "ada@vision", "password": "mallorymallory"},
    ),
    ("DELETE", "/api/2.0/mlflow/users/delete", {"username": "ada@vision"}),
    (
        "POST",
        "/api/3.0/mlflow/users/permissions/grant",
        {
            "username": "bo@speech",
            "resource_type": "experiment",
            "resource_id": "{experiment}",
            "permission": "MANAGE",
        },
    ),
    ("POST", "/api/3.0/mlflow/roles/create", {"name": "x", "workspace": "vision"}),
    ("GET", "/api/3.0/mlflow/roles/list?workspace=vision", None),
    ("POST", "/api/3.0/mlflow/roles/assign", {"username": "bo@speech", "role_id": 1}),
    ("POST", "/api/3.0/mlflow/workspaces", {"name": "mallory"}),
    ("PATCH", "/api/3.0/mlflow/workspaces/vision", {"description": "changed"}),
    ("DELETE", "/api/3.0/mlflow/workspaces/vision?mode=CASCADE", None),
    ("DELETE", "/api/3.0/mlflow/workspaces/speech?mode=SET_DEFAULT", None),
    ("GET", "/signup", None),
    ("GET", "/metrics", None),
    ("GET", "/api/2.0/mlflow/webhooks", None),
    ("POST", "/api/2.0/mlflow/webhooks", {"name": "w", "url": "http://127.0.0.1/", "events": []}),
    ("GET", "/api/3.0/mlflow/gateway/secrets/list", None),
    ("POST", "/ajax-api/2.0/mlflow/gateway-proxy", {"gateway_path": "x", "json_data": {}}),
    ("POST", "/ajax-api/3.0/mlflow/demo/generate", {}),
    ("GET", "/static-files/../../../../../../../../etc/passwd", None),
    ("GET", "/static-files/%2e%2e/%2e%2e/%2e%2e/__init__.py", None),
]
