"""Every way to end has its state, its sentence, and its place in the queue again or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from job_fakes import RUNNING, admit, disrupted, ended, finish, follow
from labcluster.models.runs import Run, RunState

PodOf = Callable[..., dict[str, Any]]


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (ended(3), "ended with exit code 3"),
        (ended(127), "command not found: python"),
        (ended(126), "command cannot be executed: python"),
        (ended(139), "ended by SIGSEGV"),
        (ended(137), "ended by SIGKILL, perhaps out of memory"),
        (ended(137, reason="OOMKilled"), "out of memory: it used more than its --memory 4Gi"),
        (
            ended(128, reason="StartError", message='runc: chdir to cwd ("/lab/x"): no such file'),
            "its working directory /lab/home/ada/digits does not exist or is not readable for ada",
        ),
        (ended(128, reason="StartError", message="exec format error"), "could not be started: exec format"),
    ],
)
def test_failed_run_says_why(lab: Any, pod_of: PodOf, state: dict[str, Any], says: str) -> None:
    run = lab.submit()
    finish(lab, run, "Failed", reason="BackoffLimitExceeded")
    lab.cluster.pod_list = [pod_of(run, state=state)]
    row = follow(lab, run)
    assert row.state is RunState.FAILED
    assert row.exit_code == state["terminated"]["exitCode"]
    assert says in (row.reason or "")


WARNED = '{"ended_by": "time_limit"}'


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (0, "stopped at its time limit of 1:01:01: it was warned and ended"),
        (143, "stopped at its time limit of 1:01:01: it was warned and ended"),
        (3, "stopped at its time limit of 1:01:01: it was warned and ended (ended with exit code 3)"),
        (137, "stopped at its time limit of 1:01:01: it did not end when it was warned, and was killed"),
    ],
)
@pytest.mark.parametrize("said_of_job", [True, False])
def test_time_limit_is_its_own_state(
    lab: Any, pod_of: PodOf, code: int, says: str, said_of_job: bool
) -> None:
    run = lab.submit(time_seconds=3661)
    admit(lab, run)
    if said_of_job:
        finish(lab, run, "Failed" if code else "Complete", reason="BackoffLimitExceeded")
    lab.cluster.pod_list = [pod_of(run, state=ended(code, message=WARNED))]
    row = follow(lab, run)
    assert (row.state, row.reason, row.exit_code) == (RunState.TIMED_OUT, says, code)


def test_what_a_program_writes_as_its_last_word_is_not_believed(lab: Any, pod_of: PodOf) -> None:
    for words in ('"time_limit"', "{", "[]", '{"ended_by": 1}'):
        run = lab.submit()
        admit(lab, run)
        lab.cluster.pod_list = [pod_of(run, state=ended(0, message=words))]
        assert follow(lab, run).state is RunState.SUCCEEDED


def test_cluster_steps_in_where_the_time_limit_was_not_kept(lab: Any) -> None:
    run = lab.submit(time_seconds=3661)
    finish(lab, run, "Failed", reason="DeadlineExceeded")
    row = follow(lab, run)
    assert row.state is RunState.TIMED_OUT
    assert row.reason == "stopped by the cluster: it did not end by itself at its time limit of 1:01:01"


def test_prepare_that_failed_is_told_in_its_own_words(lab: Any, pod_of: PodOf) -> None:
    run = lab.submit()
    finish(lab, run, "Failed", reason="BackoffLimitExceeded")
    init = [{"name": "prepare", "state": {"terminated": {"exitCode": 1, "message": "disk is full\n"}}}]
    lab.cluster.pod_list = [pod_of(run, initContainerStatuses=init)]
    assert follow(lab, run).reason == "it could not be prepared: disk is full"


FULL = "Pod ephemeral local storage usage exceeds the total limit of containers 20Gi. "


LOW = "The node was low on resource: memory."


REFUSED = (
    "Allocate failed due to no healthy devices present; cannot allocate unhealthy devices nvidia.com/gpu"
)


# What the cluster does to a run: the pod's status, the state, what is said, whether it may be tried again.
BLOWS: dict[str, tuple[dict[str, Any], RunState, str, bool]] = {
    "lost node": (
        disrupted("DeletionByTaintManager"),
        RunState.LOST,
        "node gpu1 was lost while it ran",
        True,
    ),
    "removed node": (disrupted("DeletionByPodGC"), RunState.LOST, "node gpu1 was removed", True),
    "drained": (disrupted("EvictionByEvictionAPI"), RunState.FAILED, "node gpu1 was drained", True),
    "shut down": (disrupted("TerminationByKubelet"), RunState.FAILED, "node gpu1 shut down", True),
    "short of memory": (
        disrupted("TerminationByKubelet", reason="Evicted", message=LOW, phase="Failed"),
        RunState.FAILED,
        "evicted from gpu1: The node was low on resource",
        True,
    ),
    "full disk of its own": (
        disrupted("TerminationByKubelet", reason="Evicted", message=FULL, phase="Failed"),
        RunState.FAILED,
        "it wrote too much to the node's own disk; write to /lab instead",
        False,
    ),
    "refused by kubelet": (
        {"reason": "UnexpectedAdmissionError", "message": REFUSED, "phase": "Failed"},
        RunState.LOST,
        "node gpu1 could not take it: Allocate failed",
        True,
    ),
    "restarted node": (
        {"state": ended(255, reason="Unknown"), "phase": "Failed"},
        RunState.LOST,
        "node gpu1 was restarted while it ran",
        True,
    ),
    "out of memory": ({"state": ended(137, reason="OOMKilled")}, RunState.FAILED, "out of memory", False),
}


@pytest.mark.parametrize("name", BLOWS)
@pytest.mark.parametrize("requeue", [False, True])
@pytest.mark.parametrize("seen_late", [False, True])
def test_what_the_cluster_does_to_a_running_run(
    lab: Any, pod_of: PodOf, name: str, requeue: bool, seen_late: bool
) -> None:
    status, state, says, again = BLOWS[name]
    run = lab.submit(requeue=requeue)
    admit(lab, run)
    lab.cluster.pod_list = [pod_of(run, state=RUNNING)]
    assert follow(lab, run).state is RunState.RUNNING
    finish(lab, run, "Failed", reason="BackoffLimitExceeded")
    pod = pod_of(run, **status)
    lab.cluster.pod_list, lab.cluster.gone_pods = ([], [pod]) if seen_late else ([pod], [])
    lab.cluster.lingering = {run.job_name}
    row = follow(lab, run)
    assert says in (row.reason or "")
    if again and requeue:
        assert (row.state, row.attempt, row.job_uid) == (RunState.QUEUED, 2, None)
        assert (row.started_at, row.finished_at, row.node, row.exit_code) == (None, None, None, None)
        assert lab.cluster.deleted_by == [None]
    else:
        assert (row.state, row.attempt) == (state, 1)
        assert ("--requeue" in (row.reason or "")) == again


@pytest.mark.parametrize("name", [name for name, blow in BLOWS.items() if blow[3] and "state" not in blow[0]])
def test_what_the_cluster_does_before_the_command_began_costs_nothing(
    lab: Any, pod_of: PodOf, name: str
) -> None:
    run = lab.submit()
    finish(lab, run, "Failed", reason="BackoffLimitExceeded")
    lab.cluster.pod_list = [pod_of(run, **BLOWS[name][0])]
    row = follow(lab, run)
    assert (row.state, row.attempt) == (RunState.QUEUED, 2)


def preempt(lab: Any, run: Run, job: dict[str, Any], reason: str = "InCohortReclamation") -> None:
    job["spec"]["suspend"] = True
    lab.cluster.pod_list = []
    lab.cluster.workloads[run.id] = {
        "status": {
            "conditions": [
                {"type": "Evicted", "status": "True", "reason": "Preempted"},
                {"type": "Preempted", "status": "True", "reason": reason},
            ]
        }
    }


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        ("InCohortReclamation", "preempted: another project took back what it had lent"),
        ("InCohortFairSharing", "preempted: another project had less than its share"),
        ("InClusterQueue", "preempted: its project needed the place for a run of higher priority"),
        ("SomethingNew", "preempted by the queue"),
    ],
)
def test_preempted_run_ends_or_waits_again(lab: Any, pod_of: PodOf, reason: str, says: str) -> None:
    for requeue in (False, True):
        run = lab.submit(requeue=requeue)
        job = admit(lab, run)
        lab.cluster.pod_list = [pod_of(run, state=RUNNING)]
        assert follow(lab, run).state is RunState.RUNNING
        preempt(lab, run, job, reason)
        row = follow(lab, run)
        assert (row.reason or "").startswith(says)
        assert (row.state, row.attempt) == ((RunState.QUEUED, 2) if requeue else (RunState.FAILED, 1))
        assert lab.cluster.job(run) is None


def test_suspended_run_waits_for_the_news_of_why(lab: Any, pod_of: PodOf) -> None:
    run = lab.submit()
    job = admit(lab, run)
    lab.cluster.pod_list = [pod_of(run, state=RUNNING)]
    follow(lab, run)
    job["spec"]["suspend"] = True
    assert follow(lab, run).state is RunState.RUNNING
    since = {"type": "Suspended", "status": "True", "lastTransitionTime": lab.clock().isoformat()}
    job["status"] = {"conditions": [since]}
    assert follow(lab, run).state is RunState.RUNNING
    lab.clock.advance(11)
    row = follow(lab, run)
    assert row.state is RunState.FAILED
    assert (row.reason or "").startswith("put back by the queue: an administrator stopped the queue")


def test_place_taken_before_the_command_began_costs_nothing(lab: Any, pod_of: PodOf) -> None:
    run = lab.submit()
    job = admit(lab, run)
    lab.cluster.pod_list = [pod_of(run, phase="Pending")]
    assert follow(lab, run).state is RunState.STARTING
    preempt(lab, run, job)
    row = follow(lab, run)
    assert (row.state, row.node, row.started_at, row.attempt) == (RunState.QUEUED, None, None, 1)
    assert (row.reason or "").startswith("had to give its place back, waits")
    assert lab.cluster.job(run) is not None


def test_run_whose_pods_are_being_taken_away_is_not_called_refused(lab: Any, pod_of: PodOf) -> None:
    run = lab.submit()
    admit(lab, run)["status"] = {"startTime": lab.clock().isoformat()}
    lab.cluster.pod_list = [pod_of(run, state=RUNNING)]
    follow(lab, run)
    lab.clock.advance(3600)
    lab.cluster.pod_list = []
    row = follow(lab, run)
    assert (row.state, row.reason) == (RunState.RUNNING, None)
