"""A next attempt never runs beside the one before, and no dead node keeps what it had."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from job_fakes import RUNNING, admit, disrupted, finish, follow
from labcluster.models.runs import RunState

PodOf = Callable[..., dict[str, Any]]


def test_next_attempt_gets_its_job_when_the_last_ones_pods_are_gone(lab: Any, pod_of: PodOf) -> None:
    run = lab.submit(requeue=True)
    lab.clock.advance(10)
    finish(lab, run, "Failed", reason="BackoffLimitExceeded")
    lab.cluster.pod_list = [pod_of(run, **disrupted("EvictionByEvictionAPI"))]
    lab.cluster.lingering = {run.job_name}
    follow(lab, run)
    row = follow(lab, run)
    assert row.reason == "attempt 2 waits until the one before it has ended"
    assert lab.cluster.created_by == ["ada"]
    lab.cluster.jobs.clear()
    lab.cluster.pod_list = []
    row = follow(lab, run)
    job = lab.cluster.job(run)
    assert (row.state, row.job_uid) == (RunState.QUEUED, "uid-run-vision-1")
    assert job["metadata"]["annotations"]["labcluster.internal/attempt"] == "2"
    env = {
        entry["name"]: entry.get("value") for entry in job["spec"]["template"]["spec"]["containers"][0]["env"]
    }
    assert env["LABCLUSTER_ATTEMPT"] == "2"


def test_job_of_an_earlier_attempt_that_outlived_a_crash_is_removed(lab: Any) -> None:
    run = lab.submit(requeue=True)
    admit(lab, run)
    lab.store.requeue([run], "again")
    follow(lab, run)
    assert (lab.cluster.job(run), lab.cluster.deleted_by) == (None, [None])
    lab.clock.advance(10)
    follow(lab, run)
    assert lab.row(run).state is RunState.QUEUED
    assert lab.cluster.created_by == ["ada", "ada"]


def test_run_that_always_loses_its_node_is_given_up(lab: Any, pod_of: PodOf) -> None:
    run = lab.submit(requeue=True)
    lab.store.rows[run.id] = run = lab.row(run).model_copy(update={"attempt": 10})
    finish(lab, run, "Failed", reason="BackoffLimitExceeded")
    lab.cluster.job(run)["metadata"]["annotations"]["labcluster.internal/attempt"] = "10"
    lab.cluster.pod_list = [pod_of(run, **disrupted("DeletionByTaintManager"))]
    row = follow(lab, run)
    assert row.state is RunState.LOST
    assert (row.reason or "").endswith("at attempt 10: it is not tried again")


def test_lost_node_is_told_although_its_pod_never_ends(lab: Any, pod_of: PodOf) -> None:
    run = lab.submit()
    job = admit(lab, run)
    lab.cluster.pod_list = [pod_of(run, state=RUNNING)]
    follow(lab, run)
    job["status"] = {"conditions": [{"type": "FailureTarget", "status": "True"}]}
    pod = pod_of(run, state=RUNNING, **disrupted("DeletionByTaintManager"))
    pod["metadata"]["deletionTimestamp"] = lab.clock().isoformat()
    lab.cluster.pod_list = [pod]
    assert follow(lab, run).state is RunState.LOST
    assert lab.cluster.job(run) is None


def silence(lab: Any, node: str) -> None:
    for item in lab.cluster.node_list:
        if item["metadata"]["name"] == node:
            since = lab.clock().isoformat()
            item["status"]["conditions"] = [
                {"type": "Ready", "status": "Unknown", "lastTransitionTime": since}
            ]


def test_pod_of_a_silent_node_is_taken_off_the_books_after_a_time(lab: Any, pod_of: PodOf) -> None:
    run = lab.submit()
    pod = pod_of(run, state=RUNNING)
    pod["metadata"]["deletionTimestamp"] = lab.clock().isoformat()
    lab.cluster.pod_list = [pod]
    lab.clock.advance(400)
    follow(lab, run)
    assert lab.cluster.released == [], "its node answers: it is still there"
    silence(lab, "gpu1")
    lab.clock.advance(200)
    follow(lab, run)
    assert lab.cluster.released == [], "the node may only be restarting"
    lab.clock.advance(101)
    follow(lab, run)
    assert lab.cluster.released == [pod["metadata"]["name"]]


def test_pod_whose_node_is_no_more_is_taken_off_the_books(lab: Any, pod_of: PodOf) -> None:
    run = lab.submit()
    mine, system = pod_of(run, node="gone"), pod_of(run, node="gone")
    for pod in (mine, system):
        pod["metadata"]["deletionTimestamp"] = lab.clock().isoformat()
    system["metadata"] = {**system["metadata"], "namespace": "kube-system", "name": "not-ours"}
    unscheduled = pod_of(run, node=None)
    unscheduled["metadata"] |= {"name": "nowhere", "deletionTimestamp": lab.clock().isoformat()}
    lab.cluster.pod_list = [system, unscheduled, mine]
    lab.clock.advance(11)
    follow(lab, run)
    assert lab.cluster.released == [mine["metadata"]["name"]]
