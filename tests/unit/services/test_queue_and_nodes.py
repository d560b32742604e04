"""What people are told about waiting runs and about nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from labcluster.models.runs import RunState

PodOf = Callable[..., dict[str, Any]]


def occupy(lab: Any, gpus: int, project: str = "vision") -> None:
    run = lab.submit(gpus=gpus, project=project)
    lab.store.rows[run.id] = run.model_copy(update={"state": RunState.RUNNING})


def reason(lab: Any, run: Any) -> str:
    lab.reconciler.reconcile_once()
    return lab.row(run).reason or ""


def test_project_at_its_maximum_is_the_reason(lab: Any) -> None:
    occupy(lab, 4)
    run = lab.submit(gpus=2)
    lab.cluster.job(run)
    lab.store.rows["vision-1"] = lab.store.rows["vision-1"].model_copy(update={"job_uid": None})
    lab.cluster.jobs["project-vision", "run-vision-1"]["spec"]["suspend"] = False
    assert reason(lab, run) == "waits: needs 2 GPUs, project vision uses 4 of 4 that it may have"


def test_full_cluster_is_the_reason(lab: Any) -> None:
    occupy(lab, 4, "shared")
    occupy(lab, 3, "shared")
    for number in (1, 2):
        lab.cluster.jobs["project-shared", f"run-shared-{number}"]["spec"]["suspend"] = False
    run = lab.submit(gpus=2)
    assert reason(lab, run) == "waits: needs 2 GPUs, 1 of 8 in the cluster is free"


def test_otherwise_kueue_is_quoted(lab: Any) -> None:
    run = lab.submit(gpus=0)
    message = "couldn't assign flavors to pod set main: insufficient unused quota for cpu"
    condition = {"type": "QuotaReserved", "status": "False", "message": message}
    lab.cluster.workloads[run.id] = {"status": {"conditions": [condition]}}
    assert reason(lab, run) == "waits: insufficient unused quota for cpu"


def test_queue_shows_those_at_work_first_then_by_submission(lab: Any) -> None:
    waiting = [lab.submit(), lab.submit()]
    occupy(lab, 1)
    items = lab.runs.queue()
    assert [item.run for item in items] == ["vision-3", waiting[0].id, waiting[1].id]
    assert [item.position for item in items] == [None, 1, 2]


def test_nodes_show_what_all_their_pods_take(lab: Any, pod_of: PodOf) -> None:
    run = lab.submit(gpus=3)
    done = pod_of(run, phase="Succeeded")
    other = {
        "metadata": {"name": "hub"},
        "spec": {
            "nodeName": "gpu1",
            "containers": [{"resources": {"requests": {"cpu": "500m", "memory": "1Gi"}}}],
            "initContainers": [{"resources": {"limits": {"cpu": "2"}}}],
        },
        "status": {"phase": "Running"},
    }
    lab.cluster.pod_list = [pod_of(run, phase="Running"), other, done]
    first, second = lab.runs.nodes()
    assert (first.name, first.gpus, first.gpus_used, first.runs) == ("gpu1", 4, 3, ["vision-1"])
    assert (first.cpus_used, first.memory_used) == (3.0, 5 * 2**30)
    assert (second.gpus_used, second.runs) == (0, [])


def test_control_plane_is_not_for_runs_and_cordoned_nodes_are_not_ready(lab: Any) -> None:
    lab.cluster.add_node("management", gpus=0)
    taint = {"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}
    lab.cluster.node_list[-1]["spec"]["taints"] = [taint]
    lab.cluster.node_list[0]["spec"]["unschedulable"] = True
    assert [(node.name, node.ready) for node in lab.runs.nodes()] == [("gpu1", False), ("gpu2", True)]
