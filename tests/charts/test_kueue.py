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


def test_a_run_that_gets_only_some_of_its_pods_gives_its_quota_back(
    config: dict[str, Any], rendered: Any
) -> None:
    wait = config["waitForPodsReady"]
    assert wait["blockAdmission"] is False, "one slow image would hold up the whole queue"
    settings = next(
        item["data"]["controller.json"] for item in rendered("portal") if item["kind"] == "ConfigMap"
    )
    image_wait = yaml.safe_load(settings)["jobs"]["image_wait_seconds"]
    assert int(wait["timeout"].removesuffix("m")) * 60 > image_wait
    assert "backoffLimitCount" not in wait["requeuingStrategy"], "it would be given up in silence"


def test_priorities_are_those_that_submit_offers(rendered: Any) -> None:
    found = {
        item["metadata"]["name"]: item["value"]
        for item in rendered("queues")
        if item["kind"] == "WorkloadPriorityClass"
    }
    assert sorted(found, key=lambda name: found[name]) == [
        "labcluster-low",
        "labcluster-normal",
        "labcluster-interactive",
    ]
