"""Runs on several nodes: all of it or nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from job_fakes import RUNNING, admit, disrupted, ended, follow
from labcluster.errors import NotFoundError
from labcluster.models.runs import Run, RunState

PodOf = Callable[..., dict[str, Any]]


def gang_of(lab: Any, **changes: Any) -> Run:
    run: Run = lab.submit(nodes=2, **changes)
    admit(lab, run)
    return run


def test_gang_runs_when_all_of_it_does(lab: Any, pod_of: PodOf) -> None:
    run = gang_of(lab)
    lab.cluster.pod_list = [pod_of(run, state=RUNNING)]
    assert follow(lab, run).state is RunState.STARTING
    unbound = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}
    waiting = pod_of(run, rank=1, node=None, phase="Pending", conditions=[unbound])
    lab.cluster.pod_list = [pod_of(run, state=RUNNING), waiting]
    row = follow(lab, run)
    assert (row.state, row.started_at) == (RunState.STARTING, None)
    assert row.reason == "rank 1: no node has room for it now: 0/3 nodes are available"
    later = {"running": {"startedAt": "2026-11-21T08:00:09Z"}}
    lab.cluster.pod_list = [pod_of(run, state=RUNNING), pod_of(run, rank=1, node="gpu2", state=later)]
    row = follow(lab, run)
    assert (row.state, row.node) == (RunState.RUNNING, "gpu1,gpu2")
    assert row.started_at.isoformat() == "2026-11-21T08:00:09+00:00"


def test_gang_succeeds_when_all_of_it_has(lab: Any, pod_of: PodOf) -> None:
    run = gang_of(lab)
    lab.cluster.pod_list = [pod_of(run, state=ended(0)), pod_of(run, rank=1, state=RUNNING)]
    assert follow(lab, run).state is RunState.RUNNING
    lab.cluster.pod_list = [pod_of(run, state=ended(0)), pod_of(run, rank=1, state=ended(0))]
    assert follow(lab, run).state is RunState.SUCCEEDED


def test_gang_fails_with_the_first_that_does(lab: Any, pod_of: PodOf) -> None:
    run = gang_of(lab)
    after = ended(4)
    after["terminated"]["finishedAt"] = "2026-11-21T08:01:06Z"
    lab.cluster.pod_list = [pod_of(run, state=after), pod_of(run, rank=1, node="gpu2", state=ended(3))]
    row = follow(lab, run)
    assert (row.state, row.exit_code) == (RunState.FAILED, 3)
    assert row.reason == "rank 1 on gpu2: ended with exit code 3"


@pytest.mark.parametrize("requeue", [False, True])
def test_gang_is_lost_with_one_of_its_nodes(lab: Any, pod_of: PodOf, requeue: bool) -> None:
    run = gang_of(lab, requeue=requeue)
    pods = [pod_of(run, state=RUNNING), pod_of(run, rank=1, node="gpu2", state=RUNNING)]
    lab.cluster.pod_list = pods
    follow(lab, run)
    pods[1]["status"] |= disrupted("DeletionByTaintManager")
    row = follow(lab, run)
    assert row.state is (RunState.QUEUED if requeue else RunState.LOST)
    assert "node gpu2 was lost" in (row.reason or "")


def test_only_the_pods_of_one_gang_may_reach_one_another(lab: Any) -> None:
    run = gang_of(lab)
    follow(lab, run)
    follow(lab, run)
    (policy,) = lab.cluster.policies
    mine = {"podSelector": {"matchLabels": {"labcluster.internal/run": run.id}}}
    assert (policy["metadata"]["namespace"], policy["metadata"]["name"]) == (run.namespace, run.job_name)
    assert policy["metadata"]["ownerReferences"][0]["uid"] == lab.row(run).job_uid
    assert policy["spec"] == {
        **mine,
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [mine]}],
        "egress": [{"to": [mine]}],
    }
    single = lab.submit()
    follow(lab, single)
    assert len(lab.cluster.policies) == 1


def test_each_pod_of_a_gang_has_its_own_log(lab: Any, pod_of: PodOf) -> None:
    run = gang_of(lab)
    lab.cluster.pod_list = [pod_of(run, state=RUNNING), pod_of(run, rank=1, state=RUNNING)]
    name = lab.cluster.pod_list[1]["metadata"]["name"]
    lab.logs.streams = {name: [[b"2026-11-21T08:00:05Z one\n"]]}
    assert list(lab.runs.logs(lab.ada, run.id, follow=False, rank=1)) == [b"one\n"]
    with pytest.raises(NotFoundError, match="has no rank 2"):
        lab.runs.logs(lab.ada, run.id, follow=False, rank=2)
