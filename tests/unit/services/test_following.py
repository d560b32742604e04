"""The reconciler: every run ends in the right state, with a sentence, whatever was interrupted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from job_fakes import RUNNING, admit, ended, finish, follow
from labcluster.errors import NotAllowedError, NotFoundError, UnreachableError
from labcluster.models.runs import RunState

PodOf = Callable[..., dict[str, Any]]


def test_run_that_has_its_gpus_is_starting_then_running(lab: Any, pod_of: PodOf) -> None:
    run = lab.submit()
    admit(lab, run)
    assert follow(lab, run).state is RunState.STARTING
    lab.cluster.pod_list = [pod_of(run, phase="Pending")]
    assert follow(lab, run).node == "gpu1"
    lab.cluster.pod_list = [pod_of(run, state=RUNNING)]
    row = follow(lab, run)
    assert (row.state, row.started_at.isoformat()) == (RunState.RUNNING, "2026-11-21T08:00:05+00:00")


def test_finished_run_has_end_and_exit_code(lab: Any, pod_of: PodOf) -> None:
    run = lab.submit()
    finish(lab, run, "Complete")
    lab.cluster.pod_list = [pod_of(run, state=ended(0))]
    row = follow(lab, run)
    assert (row.state, row.exit_code, row.reason) == (RunState.SUCCEEDED, 0, None)
    assert row.finished_at.isoformat() == "2026-11-21T08:01:05+00:00"


def test_unschedulable_pod_says_so(lab: Any, pod_of: PodOf) -> None:
    run = lab.submit()
    admit(lab, run)
    unbound = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available. no new claims"}
    lab.cluster.pod_list = [pod_of(run, node=None, phase="Pending", conditions=[unbound])]
    row = follow(lab, run)
    assert (row.state, row.reason) == (
        RunState.STARTING,
        "no node has room for it now: 0/3 nodes are available",
    )


def test_image_that_cannot_be_pulled_does_not_hold_gpus_for_ever(lab: Any, pod_of: PodOf) -> None:
    run = lab.submit()
    admit(lab, run)
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling"}}
    bound = {"type": "PodScheduled", "status": "True", "lastTransitionTime": lab.clock().isoformat()}
    lab.cluster.pod_list = [pod_of(run, state=waiting, phase="Pending", conditions=[bound])]
    row = follow(lab, run)
    assert row.state is RunState.STARTING
    assert "cannot be pulled: Back-off pulling" in (row.reason or "")
    lab.clock.advance(700)
    assert follow(lab, run).state is RunState.FAILED
    assert lab.cluster.job(run) is None
    assert lab.cluster.deleted_by == [None]  # ada may be gone


@pytest.mark.parametrize(("code", "state"), [(0, RunState.SUCCEEDED), (3, RunState.FAILED)])
def test_end_of_the_command_is_told_before_kubernetes_tells_it_of_the_job(
    lab: Any, pod_of: PodOf, code: int, state: RunState
) -> None:
    run = lab.submit()
    admit(lab, run)
    lab.cluster.pod_list = [pod_of(run, state=ended(code))]
    row = follow(lab, run)
    assert (row.state, row.exit_code) == (state, code)
    follow(lab, run)
    assert lab.cluster.job(run) is not None, "its pod still has the log"


@pytest.mark.parametrize("why", ["deadline", "deleted", "disrupted", "unknown"])
def test_command_that_was_ended_with_its_pod_is_judged_by_the_job(lab: Any, pod_of: PodOf, why: str) -> None:
    run = lab.submit()
    job = admit(lab, run)
    pod = pod_of(run, state=ended(143, reason="ContainerStatusUnknown" if why == "unknown" else "Error"))
    if why == "deadline":
        job["status"] = {"conditions": [{"type": "FailureTarget", "status": "True"}]}
    if why == "deleted":
        pod["metadata"]["deletionTimestamp"] = lab.clock().isoformat()
    if why == "disrupted":
        pod["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True", "reason": "x"}]
    lab.cluster.pod_list = [pod]
    assert follow(lab, run).state is RunState.RUNNING


def test_pod_that_is_refused_is_told_and_does_not_hold_gpus_for_ever(lab: Any) -> None:
    run = lab.submit()
    admit(lab, run)["status"] = {"startTime": lab.clock().isoformat()}
    assert follow(lab, run).reason is None
    lab.clock.advance(20)
    lab.cluster.complaints[run.job_name] = "[image/registry] images must come from here"
    assert follow(lab, run).reason == "its pod is refused: [image/registry] images must come from here"
    lab.clock.advance(700)
    row = follow(lab, run)
    assert (row.state, row.reason) == (
        RunState.FAILED,
        "its pod is refused: [image/registry] images must come from here",
    )
    assert lab.cluster.job(run) is None


def test_crash_between_row_and_job_is_made_good_once(lab: Any) -> None:
    run = lab.submit()
    lab.cluster.jobs.clear()
    lab.store.rows[run.id] = lab.row(run).model_copy(update={"job_uid": None})
    follow(lab, run)
    assert lab.cluster.job(run) is None, "the request that accepted it may still be at it"
    lab.clock.advance(10)
    follow(lab, run)
    follow(lab, run)
    assert lab.cluster.created_by == ["ada", "ada"]
    assert lab.row(run).job_uid == "uid-run-vision-1"


def test_job_made_before_a_crash_is_taken_up(lab: Any) -> None:
    run = lab.submit()
    lab.store.rows[run.id] = lab.row(run).model_copy(update={"job_uid": None})
    assert follow(lab, run).job_uid == "uid-run-vision-1"
    assert lab.cluster.created_by == ["ada"]


def test_nothing_is_made_again_while_the_view_is_stale(lab: Any) -> None:
    run = lab.submit()
    lab.cluster.jobs.clear()
    lab.clock.advance(10)
    lab.cluster.is_fresh = False
    assert follow(lab, run).state is RunState.QUEUED


def test_job_removed_behind_our_back_is_never_run_twice(lab: Any) -> None:
    run = lab.submit()
    lab.cluster.jobs.clear()
    lab.clock.advance(10)
    row = follow(lab, run)
    assert row.state is RunState.LOST
    assert "removed from the cluster" in (row.reason or "")
    assert lab.cluster.created_by == ["ada"]


@pytest.mark.parametrize(
    ("failure", "state", "says"),
    [
        (UnreachableError("no answer"), RunState.QUEUED, "the queue does not answer now: no answer"),
        (NotAllowedError("image x is not allowed"), RunState.FAILED, "the cluster refused it: image x"),
        (NotFoundError("namespaces not found"), RunState.FAILED, "project vision is gone"),
    ],
)
def test_job_that_cannot_be_made_later_ends_or_waits(
    lab: Any, failure: Exception, state: RunState, says: str
) -> None:
    lab.cluster.failures = [UnreachableError("down")]
    run = lab.submit()
    lab.clock.advance(10)
    lab.cluster.failures = [failure]
    row = follow(lab, run)
    assert row.state is state
    assert says in (row.reason or "")


def test_cancel_that_lost_its_second_half_is_finished(lab: Any) -> None:
    run = lab.submit()
    lab.cluster.failures = [UnreachableError("down")]
    assert lab.runs.cancel(lab.ada, run.id).state is RunState.CANCELLED
    assert lab.cluster.job(run) is not None
    follow(lab, run)
    assert lab.cluster.job(run) is None


def test_event_makes_its_run_be_looked_at_at_once(lab: Any) -> None:
    run = lab.submit()
    stop = threading.Event()
    thread = threading.Thread(target=lab.reconciler.run, args=(stop, 60.0))
    thread.start()
    try:
        done = threading.Event()
        while not done.wait(0.01):
            finish(lab, run, "Complete")
            for listener in lab.cluster.listeners:
                listener(run.id)
            if lab.row(run).state is RunState.SUCCEEDED:
                done.set()
    finally:
        stop.set()
        lab.reconciler.notice(run.id)
        thread.join(5)
    assert not thread.is_alive()


def test_loop_outlives_a_database_that_is_away(lab: Any) -> None:
    run = lab.submit()
    finish(lab, run, "Complete")
    lab.store.broken = UnreachableError("the run database does not answer")
    stop = threading.Event()
    thread = threading.Thread(target=lab.reconciler.run, args=(stop, 0.01))
    thread.start()
    try:
        thread.join(0.1)
        lab.store.broken = None
        for _ in range(500):
            if lab.row(run).state is RunState.SUCCEEDED:
                break
            thread.join(0.01)
    finally:
        stop.set()
        thread.join(5)
    assert lab.row(run).state is RunState.SUCCEEDED
