"""The queue's settings that a cluster of a thousand GPUs, and one whose Kueue is down, depend on."""

from __future__ import annotations

from typing import Any

import pytest
import yaml


@pytest.fixture
def config(rendered: Any) -> dict[str, Any]:
    data = next(
        item["data"] for item in rendered("kueue") if item["metadata"]["name"] == "kueue-manager-config"
    )
    return yaml.safe_load(data["controller_manager_config.yaml"])


def test_limits_are_raised(config: dict[str, Any]) -> None:
    assert config["clientConnection"] == {"qps": 400, "burst": 600}
    assert config["controller"]["groupKindConcurrency"]["Job.batch"] == 20
    assert config["controller"]["groupKindConcurrency"]["Workload.kueue.x-k8s.io"] == 20


def test_jobs_outside_of_projects_never_wait_for_kueue(rendered: Any) -> None:
    scope = {"matchExpressions": [{"key": "labcluster.internal/project", "operator": "Exists"}]}
    for item in rendered("kueue"):
        if item["kind"] not in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"):
            continue
        for webhook in item["webhooks"]:
            groups = {group for rule in webhook["rules"] for group in rule["apiGroups"]}
            if groups != {"kueue.x-k8s.io"}:
                assert webhook["namespaceSelector"] == scope, webhook["name"]


def test_jobs_without_queue_are_left_alone(config: dict[str, Any]) -> None:
    assert config["manageJobsWithoutQueueName"] is False
    assert config["integrations"]["frameworks"] == ["batch/job", "pod"]
