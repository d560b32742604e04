"""Arrays, dependencies and several submits in one: what is accepted, held, ended and queued again."""

from __future__ import annotations

from typing import Any

import pytest
from labcluster.errors import ConflictError, LabclusterError, NotAllowedError, NotFoundError, UsageError
from labcluster.models.runs import BulkRequest, RunArray, RunState
from labcluster.services.arrays import parse_array, parse_indices


@pytest.mark.parametrize(
    ("text", "indices", "parallel"),
    [
        ("0-4", (0, 1, 2, 3, 4), None),
        ("0-4%2", (0, 1, 2, 3, 4), 2),
        ("7", (7,), None),
        ("1,3,5-9:2", (1, 3, 5, 7, 9), None),
        (" 3, 1 ,3 ", (1, 3), None),
        ("0-2%9", (0, 1, 2), None),
    ],
)
def test_indexes_are_slurms(text: str, indices: tuple[int, ...], parallel: int | None) -> None:
    array = parse_array(text, 1000)
    assert (array.indices, array.parallel) == (indices, parallel)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not ''"),
        ("a", "not 'a'"),
        ("1-", "not '1-'"),
        ("-1", "not '-1'"),
        ("5-1", "ends before it begins"),
        ("0-9:0", "the step"),
        ("0-9%", "after % stands"),
        ("0-9%0", "after % stands"),
        ("0-9%x", "after % stands"),
        ("1000000", "at most 999999"),
        ("0-999999", "at most 1000 members"),
        (",".join(f"{n}-{n + 400}" for n in (0, 1000, 2000)), "at most 1000 members"),
    ],
)
def test_wrong_indexes_are_told(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_array(text, 1000)


def test_option_that_is_wrong_is_named() -> None:
    with pytest.raises(UsageError, match="--index 3;4"):
        parse_indices("--index", "3;4", 10)


def made(lab: Any) -> list[str]:
    """Indexes of the members that have a Job, in order."""
    return sorted(name.rsplit("-", 1)[1] for _, name in lab.cluster.jobs)


def settle(lab: Any) -> None:
    """Let the reconciler see a later moment."""
    lab.clock.advance(10)
    lab.reconciler.reconcile_once()


def finish(lab: Any, run_id: str, state: RunState = RunState.SUCCEEDED) -> None:
    """A run ends; its Job is kept for a while, as Kubernetes does."""
    run = lab.store.rows[run_id]
    update = {"state": state, "finished_at": lab.clock(), "exit_code": 0}
    lab.store.rows[run_id] = run.model_copy(update=update)
    done = {"type": "Complete", "status": "True"}
    lab.cluster.jobs[run.namespace, run.job_name]["status"] = {"conditions": [done]}


def test_array_gets_no_more_jobs_than_its_limit(lab: Any) -> None:
    first = lab.submit(array="0-9%3")
    assert (first.id, first.job_name, first.array_size) == ("vision-1.0", "run-vision-1-0", 10)
    settle(lab)
    assert made(lab) == ["0", "1", "2"]
    held = lab.store.rows["vision-1.7"]
    assert held.reason == "waits for its array, of which 3 may run at once"
    finish(lab, "vision-1.1")
    settle(lab)
    assert made(lab) == ["0", "1", "2", "3"]


def test_array_without_a_limit_is_made_whole(lab: Any) -> None:
    lab.submit(array="5-9")
    settle(lab)
    assert made(lab) == ["5", "6", "7", "8", "9"]


def test_member_that_is_queued_again_takes_the_next_free_place(lab: Any) -> None:
    lab.submit(array="0-5%2")
    finish(lab, "vision-1.0", RunState.FAILED)
    settle(lab)
    assert made(lab) == ["0", "1", "2"]
    lab.runs.requeue(lab.ada, "vision-1.0")
    settle(lab)
    row = lab.store.rows["vision-1.0"]
    assert (row.state, row.attempt) == (RunState.QUEUED, 2)
    active = [run for run in lab.store.active() if run.job_uid]
    assert sorted(run.trial for run in active) == [1, 2]
    finish(lab, "vision-1.1")
    settle(lab)
    settle(lab)
    assert lab.store.rows["vision-1.0"].job_uid
    assert not lab.store.rows["vision-1.3"].job_uid


def test_array_is_looked_at_as_a_whole_and_by_member(lab: Any) -> None:
    lab.submit(array="3-5")
    whole = lab.runs.look(lab.ada, "vision-1")
    assert isinstance(whole, RunArray)
    assert (whole.summary.total, whole.state) == (3, RunState.QUEUED)
    assert lab.runs.look(lab.ada, "vision-1.4").array_index == 4
    assert [run.trial for run in lab.runs.members(lab.ada, "vision-1", None)] == [3, 4, 5]
    with pytest.raises(UsageError, match=r"is an array: name a member, such as vision-1\.3"):
        lab.runs.logs(lab.ada, "vision-1", follow=False)
    for nobody in ("vision-1.0", "vision-1.9"):
        with pytest.raises(NotFoundError):
            lab.runs.look(lab.ada, nobody)
    single = lab.submit()
    with pytest.raises(NotFoundError):
        lab.runs.look(lab.ada, f"{single.id}.0")
    with pytest.raises(NotFoundError):
        lab.runs.look(lab.bo, "vision-1")


def test_members_are_cancelled_by_index_and_the_others_stay(lab: Any) -> None:
    lab.submit(array="0-9%3")
    lab.runs.cancel(lab.ada, "vision-1", "1,7-9")
    whole = lab.runs.cancel(lab.ada, "vision-1.0")
    assert whole.state is RunState.CANCELLED
    assert made(lab) == ["2"]
    counts = lab.runs.look(lab.ada, "vision-1").summary.counts
    assert counts == {RunState.QUEUED: 5, RunState.CANCELLED: 5}
    with pytest.raises(NotFoundError, match="has no member 12"):
        lab.runs.cancel(lab.ada, "vision-1", "3,12")
    assert lab.runs.cancel(lab.ada, "vision-1").state is RunState.CANCELLED
    assert made(lab) == []


def test_only_its_owner_ends_an_array_or_queues_it_again(lab: Any) -> None:
    lab.submit(project="shared", array="0-1")
    for act in (lab.runs.cancel, lab.runs.requeue):
        with pytest.raises(NotAllowedError, match="belongs to ada"):
            act(lab.bo, "shared-1")
    single = lab.submit()
    with pytest.raises(UsageError, match="is no array"):
        lab.runs.cancel(lab.ada, single.id, "1")


def test_queued_again_are_members_that_did_not_succeed(lab: Any) -> None:
    lab.submit(array="0-3")
    finish(lab, "vision-1.0")
    finish(lab, "vision-1.1", RunState.FAILED)
    lab.runs.cancel(lab.ada, "vision-1.2")
    lab.runs.requeue(lab.ada, "vision-1")
    assert [run.attempt for run in lab.store.members("vision", 1)] == [1, 2, 2, 2]
    lab.runs.requeue(lab.ada, "vision-1", "0")
    assert lab.store.rows["vision-1.0"].attempt == 2


def test_run_after_another_waits_whatever_way_that_ends(lab: Any) -> None:
    before = lab.submit()
    run = lab.submit(after=[before.id])
    settle(lab)
    assert lab.row(run).reason == "waits until vision-1 has ended"
    assert (run.namespace, run.job_name) not in lab.cluster.jobs
    finish(lab, before.id, RunState.FAILED)
    settle(lab)
    assert lab.row(run).job_uid


def test_chain_goes_on_only_if_it_succeeds(lab: Any) -> None:
    before = lab.submit()
    run = lab.submit(after=["vision-1:ok"])
    last = lab.submit(after=[f"{run.id}:ok"])
    settle(lab)
    assert lab.row(run).reason == "waits until vision-1 has succeeded"
    finish(lab, before.id, RunState.FAILED)
    settle(lab)
    settle(lab)
    assert lab.row(run).state is RunState.CANCELLED
    assert lab.row(run).reason == "cancelled: it was to run after vision-1 had succeeded, which failed"
    assert lab.row(last).state is RunState.CANCELLED


def test_array_is_waited_for_to_its_last_member(lab: Any) -> None:
    lab.submit(array="0-1")
    run = lab.submit(after=["vision-1:ok"])
    finish(lab, "vision-1.0")
    settle(lab)
    assert not lab.row(run).job_uid
    finish(lab, "vision-1.1")
    settle(lab)
    assert lab.row(run).job_uid


@pytest.mark.parametrize(
    ("after", "kind", "says"),
    [
        ("vision-99", NotFoundError, "no run vision-99 in your projects"),
        ("nosuch-1", NotFoundError, "no run nosuch-1"),
        ("speech-1", NotAllowedError, "ada is no member of project speech"),
        ("vision-1.0", NotFoundError, "no run vision-1.0"),
        ("vision-1:maybe", UsageError, "write it as vision-12"),
        ("vision-1:ok", ConflictError, "vision-1 had succeeded, which was cancelled"),
    ],
)
def test_what_can_never_be_waited_for_is_refused(
    lab: Any, after: str, kind: type[LabclusterError], says: str
) -> None:
    lab.runs.cancel(lab.ada, lab.submit().id)
    with pytest.raises(kind, match=says):
        lab.submit(after=[after])


def bulk(lab: Any, *changes: dict[str, Any], key: str = "bulk-key-1") -> Any:
    """Several submits in one."""
    request = BulkRequest(items=[lab.request(**change) for change in changes], idempotency_key=key)
    return lab.runs.submit_all(lab.ada, request)


def test_several_are_accepted_in_their_order_and_only_once(lab: Any) -> None:
    changes = ({"name": "a"}, {"name": "b", "array": "0-2"}, {"name": "c", "project": "shared"})
    runs, created = bulk(lab, *changes)
    assert created
    assert [run.id for run in runs] == ["vision-1", "vision-2.0", "shared-1"]
    again, created = bulk(lab, *changes)
    assert ([run.id for run in again], created) == ([run.id for run in runs], False)
    with pytest.raises(ConflictError):
        bulk(lab, {"name": "z"})


def test_one_wrong_line_accepts_nothing_and_is_named(lab: Any) -> None:
    with pytest.raises(NotFoundError, match="line 3: image 'nosuch'"):
        bulk(lab, {}, {}, {"image": "nosuch"})
    lab.cluster.refusal = NotAllowedError("this image is not allowed")
    with pytest.raises(NotAllowedError, match="line 1: this image is not allowed"):
        bulk(lab, {}, {})
    assert not lab.store.rows


def test_runs_of_one_shape_are_judged_once_until_something_is_refused(lab: Any) -> None:
    judged = []
    create = lab.cluster.create

    def count(job: Any, user: str, *, dry_run: bool = False) -> str:
        if dry_run:
            judged.append(job["metadata"]["name"])
        return str(create(job, user, dry_run=dry_run))

    lab.cluster.create = count
    for number in range(5):
        lab.submit(command=["python", f"{number}.py"], env={"SEED": str(number)})
    assert len(judged) == 1
    lab.submit(gpus=2)
    lab.submit(env={"OTHER": "1"})
    assert len(judged) == 3, "another shape is judged anew"
    lab.cluster.failures = [NotAllowedError("the rules have changed")]
    lab.submit(env={"SEED": "6"})
    lab.submit(env={"SEED": "7"})
    assert len(judged) == 4, "what passed before counts no more after a refusal"
    lab.cluster.join("vision", "ada", 20001, 30001, gpus=2, max_gpus=2)
    lab.submit(env={"SEED": "8"})
    assert len(judged) == 5, "the facts about the project have changed"


def test_queue_shows_an_array_as_one_row_and_what_is_held_without_a_place(lab: Any) -> None:
    lab.submit(array="0-9%3")
    lab.submit(priority="interactive")
    lab.submit(after=["vision-2"])
    settle(lab)
    items = {item.run: item for item in lab.runs.queue()}
    assert list(items) == ["vision-2", "vision-1", "vision-3"]
    assert [item.position for item in items.values()] == [1, 2, None]
    assert items["vision-1"].members == {RunState.QUEUED: 10}
    assert items["vision-1"].reason.startswith("10 queued of 10")


def test_gang_is_checked_against_all_nodes_together(lab: Any) -> None:
    assert lab.submit(nodes=2, gpus=2).nodes == 2
    with pytest.raises(ConflictError, match="--gpus 3 on --nodes 2: project vision may use at most"):
        lab.submit(nodes=2, gpus=3)
    with pytest.raises(ConflictError, match="--nodes 40 is more than there is: the cluster has room for"):
        lab.submit(nodes=40, gpus=0)
    with pytest.raises(UsageError, match="each member of an array runs on one node"):
        lab.submit(nodes=2, array="0-3")


def test_member_that_still_ends_keeps_its_place(lab: Any) -> None:
    lab.submit(array="0-9%2")
    job = lab.cluster.jobs["project-vision", "run-vision-1-0"]
    lab.runs.cancel(lab.ada, "vision-1.0")
    ending = {**job, "metadata": {**job["metadata"], "deletionTimestamp": "2026-11-21T08:00:30Z"}}
    lab.cluster.jobs["project-vision", "run-vision-1-0"] = ending
    settle(lab)
    assert made(lab) == ["0", "1"], "its pod has its grace period"
    del lab.cluster.jobs["project-vision", "run-vision-1-0"]
    settle(lab)
    assert made(lab) == ["1", "2"]


def test_large_array_is_made_in_portions(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labcluster.services.following._MAKING_SECONDS", -1.0)
    lab.submit(array="0-49")
    settle(lab)
    assert len(made(lab)) == 20, "what the portal made itself, and none in a portion of no time"
    monkeypatch.setattr("labcluster.services.following._MAKING_SECONDS", 60.0)
    settle(lab)
    assert len(made(lab)) == 50
