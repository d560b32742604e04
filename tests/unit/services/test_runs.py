"""Who may see, end and read what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from labcluster.errors import ConflictError, NotAllowedError, NotFoundError, UsageError
from labcluster.models.runs import RunState

PodOf = Callable[..., dict[str, Any]]

RUNNING = {"running": {"startedAt": "2026-11-21T08:00:05Z"}}
ENDED = {"terminated": {"exitCode": 0, "startedAt": "2026-11-21T08:00:05Z"}}


def stamped(*lines: str) -> list[bytes]:
    return [f"2026-11-21T08:00:{n:02d}.000000000Z {line}\n".encode() for n, line in enumerate(lines)]


def start(lab: Any, pod: dict[str, Any]) -> None:
    lab.cluster.pod_list = [pod]


def test_runs_of_foreign_projects_are_not_there(lab: Any) -> None:
    run = lab.submit()
    with pytest.raises(NotFoundError, match="no run vision-1 in your projects"):
        lab.runs.get(lab.bo, run.id)
    everything = {"project": None, "user": None, "states": None, "limit": 10}
    assert lab.runs.find(lab.bo, **everything) == []
    assert [r.id for r in lab.runs.find(lab.admin, **everything)] == ["vision-1"]
    with pytest.raises(NotAllowedError):
        lab.runs.find(lab.bo, **{**everything, "project": "vision"})


@pytest.mark.parametrize("name", ["vision", "vision-", "-1", "vision-1.x", "a b-1", "../x-1"])
def test_what_is_no_run_id_is_said_to_be_none(lab: Any, name: str) -> None:
    with pytest.raises(UsageError):
        lab.runs.get(lab.ada, name)


def test_only_owner_and_administrator_cancel(lab: Any) -> None:
    run = lab.submit(project="shared")
    with pytest.raises(NotAllowedError, match="belongs to ada"):
        lab.runs.cancel(lab.bo, run.id)
    assert lab.runs.cancel(lab.admin, run.id).reason == "cancelled by labadmin"
    assert lab.cluster.deleted_by == ["ada"], "the Job goes in its owner's name"


def test_cancel_again_changes_nothing(lab: Any) -> None:
    run = lab.submit()
    first = lab.runs.cancel(lab.ada, run.id)
    lab.clock.advance(60)
    assert lab.runs.cancel(lab.ada, run.id) == first
    assert first.state is RunState.CANCELLED


def test_whoami_lists_projects_and_their_shares(lab: Any) -> None:
    me = lab.runs.whoami(lab.ada)
    assert [(p.name, p.gpus, p.max_gpus) for p in me.projects] == [("shared", 4, 8), ("vision", 4, 4)]
    assert lab.runs.whoami(lab.admin).projects == []


def test_log_of_a_waiting_run_says_what_it_waits_for(lab: Any) -> None:
    run = lab.submit()
    lab.reconciler.reconcile_once()
    with pytest.raises(ConflictError, match="vision-1 has no log yet, it is queued: accepted"):
        lab.runs.logs(lab.ada, run.id, follow=False)


def test_log_is_read_in_the_readers_name_without_its_times(lab: Any, pod_of: PodOf) -> None:
    run = lab.submit()
    start(lab, pod_of(run, state=ENDED))
    lab.logs.streams = {"run-vision-1-x7": [stamped("epoch 1", "epoch 2")]}
    assert list(lab.runs.logs(lab.ada, run.id, follow=False)) == [b"epoch 1\n", b"epoch 2\n"]
    assert lab.logs.opened == [("run-vision-1-x7", "ada", None)]


def test_followed_log_goes_on_after_a_lost_connection(lab: Any, pod_of: PodOf) -> None:
    run = lab.submit()
    start(lab, pod_of(run, state=RUNNING))
    lines = stamped("a", "b", "c")
    lab.logs.streams = {"run-vision-1-x7": [lines[:2], lines]}
    tail = iter(lab.runs.logs(lab.ada, run.id, follow=True))
    assert [next(tail), next(tail), next(tail)] == [b"a\n", b"b\n", b"c\n"]
    start(lab, pod_of(run, state=ENDED))
    assert list(tail) == []
    assert lab.logs.opened[1][2] == "2026-11-21T08:00:01.000000000Z"


def test_following_a_run_that_is_cancelled_before_it_starts_ends(lab: Any) -> None:
    run = lab.submit()
    tail = lab.runs.logs(lab.ada, run.id, follow=True)
    lab.runs.cancel(lab.ada, run.id)
    assert list(tail) == []


def test_log_of_a_gone_pod_is_pointed_to(lab: Any) -> None:
    run = lab.submit()
    update = {"state": RunState.SUCCEEDED, "started_at": lab.clock(), "finished_at": lab.clock()}
    lab.store.rows[run.id] = run.model_copy(update=update)
    with pytest.raises(NotFoundError, match=r"/lab/projects/vision/runs/1_0_train/stdout\.log"):
        lab.runs.logs(lab.ada, run.id, follow=True)


def test_run_that_never_started_has_no_log(lab: Any) -> None:
    run = lab.submit()
    lab.runs.cancel(lab.ada, run.id)
    with pytest.raises(ConflictError, match="never started \\(cancelled by ada\\)"):
        lab.runs.logs(lab.ada, run.id, follow=True)
