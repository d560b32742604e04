"""What is said about a release that is not ready."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from labcluster.adapters.rollout import NotReadyError, Part, Rollout, pod_faults, unready
from labcluster.errors import NotFoundError, UnreachableError

Json = dict[str, Any]

DEPLOYMENT = Part("Deployment", "labcluster", "web")
READY: Json = {
    "metadata": {"generation": 2},
    "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}},
    "status": {"observedGeneration": 2, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1},
}


def deployment(**status: int) -> Json:
    return {**READY, "status": {**READY["status"], **status}}


class Stream:
    def __init__(self, text: str) -> None:
        self.text = text

    def stream(self, amt: int) -> list[bytes]:
        return [self.text.encode()]

    def release_conn(self) -> None: ...


class Api:
    """A cluster of fixed answers."""

    def __init__(self, objects: Mapping[str, Json], pods: Sequence[Json] = (), events: Sequence[Json] = ()):
        self.objects, self.pods, self.events = objects, pods, events
        self.queries: list[Json] = []

    def get(self, path: str) -> Json:
        if path not in self.objects:
            raise NotFoundError(path)
        return self.objects[path]

    def list(self, path: str, *, query: Json) -> list[Json]:
        return list(self.pods) if path.endswith("/pods") else list(self.events)

    def open(self, path: str, *, query: Json, idle_timeout: float) -> Stream:
        self.queries.append(query)
        return Stream("starting\nno such database\n")


@pytest.mark.parametrize(
    ("item", "why"),
    [
        (READY, ""),
        (deployment(observedGeneration=1), "its change is not seen yet"),
        (deployment(updatedReplicas=0), "0 of 1 pods are of the new version"),
        (deployment(availableReplicas=0), "0 of 1 pods are ready"),
        (deployment(replicas=2), "1 pods of the old version are left"),
    ],
)
def test_deployment_is_ready_when_only_new_pods_work(item: Json, why: str) -> None:
    assert unready(item, "Deployment") == why


def test_daemonset_needs_a_pod_on_every_node() -> None:
    item = {
        "metadata": {"generation": 1},
        "status": {
            "observedGeneration": 1,
            "desiredNumberScheduled": 2,
            "updatedNumberScheduled": 2,
            "numberAvailable": 1,
        },
    }
    assert unready(item, "DaemonSet") == "1 of 2 pods are ready"


def test_unbound_volume_is_named() -> None:
    assert "Pending" in unready({"metadata": {}, "status": {"phase": "Pending"}}, "PersistentVolumeClaim")


def test_deleted_part_is_missing() -> None:
    rollout = Rollout(Api({DEPLOYMENT.path: READY}))  # type: ignore[arg-type]
    gone = Part("Service", "labcluster", "web")
    assert rollout.missing([DEPLOYMENT, gone]) == [gone]


def test_ready_parts_are_not_waited_for() -> None:
    rollout = Rollout(Api({DEPLOYMENT.path: READY}))  # type: ignore[arg-type]
    assert rollout.wait([DEPLOYMENT], seconds=0) is None


def test_failure_names_pod_reason_event_and_log() -> None:
    pod = {
        "metadata": {"name": "web-1"},
        "spec": {"nodeName": "management"},
        "status": {
            "containerStatuses": [
                {
                    "name": "main",
                    "ready": False,
                    "restartCount": 3,
                    "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}},
                    "lastState": {"terminated": {"exitCode": 2, "reason": "Error"}},
                }
            ]
        },
    }
    event = {"reason": "BackOff", "message": "restarting failed container", "lastTimestamp": "2026-11-21"}
    api = Api({DEPLOYMENT.path: deployment(availableReplicas=0)}, [pod], [event])
    with pytest.raises(NotReadyError) as caught:
        Rollout(api).wait([DEPLOYMENT], seconds=0)  # type: ignore[arg-type]
    said = caught.value.detail
    for words in (
        "Deployment labcluster/web: 0 of 1 pods are ready",
        "pod web-1 on management",
        "container main: CrashLoopBackOff: back-off 40s, ended with 2 (Error)",
        "| no such database",
        "event BackOff: restarting failed container",
    ):
        assert words in said
    assert api.queries[0]["previous"] == "true"


def test_deployment_without_pods_is_said_so() -> None:
    with pytest.raises(NotReadyError, match="no pod was made for it"):
        Rollout(Api({DEPLOYMENT.path: deployment(updatedReplicas=0)})).wait(  # type: ignore[arg-type]
            [DEPLOYMENT], seconds=0
        )


def test_unschedulable_pod_says_why() -> None:
    condition = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}
    assert pod_faults({"status": {"conditions": [condition]}}) == [
        ("", "not scheduled: 0/3 nodes are available")
    ]


def test_ready_pod_has_no_faults() -> None:
    status = {"name": "main", "ready": True, "state": {"running": {}}, "lastState": {}}
    assert pod_faults({"status": {"containerStatuses": [status]}}) == []


def test_api_server_that_restarts_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api({DEPLOYMENT.path: READY})
    answers = iter([UnreachableError("the API does not answer"), READY])

    def get(path: str) -> Json:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(api, "get", get)
    monkeypatch.setattr("time.sleep", lambda _: None)
    Rollout(api).wait([DEPLOYMENT], seconds=5)  # type: ignore[arg-type]
    assert next(answers, None) is None
