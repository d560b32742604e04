"""What a submit must be like, and that nothing is made of a wrong one."""

from __future__ import annotations

from typing import Any

import pytest
from labcluster.errors import (
    ConflictError,
    LabclusterError,
    NotAllowedError,
    NotFoundError,
    UncertainError,
    UnreachableError,
    UsageError,
)
from labcluster.models.callers import Caller
from labcluster.models.runs import RunState

CODE = {"digest": "a" * 64, "root": "/tmp/net"}


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({"project": "nosuch"}, NotFoundError, "no project 'nosuch'; yours are shared, vision"),
        ({"project": "speech"}, NotAllowedError, "ada is no member of project speech"),
        ({"gpus": 9}, ConflictError, "--gpus 9 is more than there is: the largest node has 4 (8 in the"),
        ({"project": "shared", "gpus": 5}, ConflictError, "the largest node has 4"),
        ({"cpus": 9}, ConflictError, "--cpus 9 is more than there is on a node with 1 GPUs"),
        ({"cpus": 0.01}, UsageError, "at least 0.1"),
        ({"memory": "64Gi"}, ConflictError, "--memory 64 GiB is more than there is"),
        ({"memory": "lots"}, UsageError, "write it as 512Mi, 4Gi or 64G"),
        ({"memory": "1Mi"}, UsageError, "at least 64Mi"),
        ({"image": "nosuch"}, NotFoundError, "image 'nosuch' is not in the registry"),
        ({"image": "pyhton-ml"}, NotFoundError, "did you mean python-ml"),
        ({"image": "python-ml:3"}, NotFoundError, "common/python-ml has"),
        ({"image": "speech/asr"}, NotAllowedError, "belongs to 'speech'"),
        ({"image": "labcluster/portal"}, NotAllowedError, "belongs to 'labcluster'"),
        ({"image": "docker.io/library/debian"}, NotAllowedError, "not in this cluster's registry"),
        ({"image": "Bad Name"}, UsageError, "not the name of an image"),
        ({"command": []}, UsageError, "no command given"),
        ({"command": [" "]}, UsageError, "no command given"),
        ({"command": ["a\0b"]}, UsageError, "NUL"),
        ({"command": ["x" * 30_000] * 5}, UsageError, "longer than 128 KiB"),
        ({"workdir": "/home/ada"}, UsageError, "not on the shared tree"),
        ({"workdir": "/lab/../etc"}, UsageError, "not on the shared tree"),
        ({"workdir": "train"}, UsageError, "absolute path"),
        ({"workdir": "/lab/home/bo"}, UsageError, "not one of yours"),
        ({"workdir": "/lab/projects/speech/code"}, UsageError, "not one of yours"),
        ({"workdir": "/lab/home/adam"}, UsageError, "not one of yours"),
        ({"workdir": "/lab/registry"}, UsageError, "not one of yours"),
        ({"name": "a/b"}, UsageError, "name 'a/b'"),
        ({"name": "../up"}, UsageError, "name '../up'"),
        ({"env": {"1A": "x"}}, UsageError, "--env '1A'"),
        ({"env": {"LABCLUSTER_RUN_ID": "x"}}, UsageError, "set by the cluster"),
        ({"env": {"NVIDIA_VISIBLE_DEVICES": "all"}}, UsageError, "set by the cluster"),
        ({"time_seconds": 10**8}, UsageError, "at most 30 days"),
        ({"data": ["/lab/home/bo/set"]}, UsageError, "--data /lab/home/bo/set is not one of yours"),
        ({"data": ["/tmp/set"]}, UsageError, "--data /tmp/set is not on the shared tree"),
        ({"params": {"a": "x\0"}}, UsageError, "--set a: its value has a NUL"),
        ({"params": {f"p{n}": "x" * 5000 for n in range(8)}}, UsageError, "larger than 32 KiB"),
        ({"parent": "speech-1"}, NotFoundError, "no run speech-1 in your projects"),
        ({"parent": "vision-1"}, NotFoundError, "no run vision-1 in your projects"),
        ({"parent": "vision"}, NotFoundError, "no run vision in your projects"),
        ({"code": CODE | {"subdir": "../other"}}, UsageError, "no folder below its root"),
        ({"code": CODE | {"subdir": "a/./b"}}, UsageError, "no folder below its root"),
        ({"code": CODE, "workdir": "net"}, UsageError, "absolute path"),
    ],
)
def test_wrong_request_is_told_in_one_line_and_changes_nothing(
    lab: Any, changes: dict[str, Any], kind: type[LabclusterError], says: str
) -> None:
    with pytest.raises(kind) as caught:
        lab.submit(**changes)
    assert says in caught.value.detail
    assert "\n" not in caught.value.detail
    assert not lab.store.rows
    assert not lab.cluster.jobs


def test_project_maximum_holds_although_the_cluster_has_more(lab: Any) -> None:
    lab.cluster.join("tiny", "ada", 20001, 30009, gpus=1, max_gpus=2)
    with pytest.raises(ConflictError, match="project tiny may use at most 2"):
        lab.submit(project="tiny", gpus=3)


def test_only_project_besides_shared_is_the_default(lab: Any) -> None:
    assert lab.submit().id == "vision-1"


def test_ambiguous_default_project_is_asked_for(lab: Any) -> None:
    lab.cluster.join("robots", "ada", 20001, 30004)
    with pytest.raises(UsageError, match="which project\\? you are in robots, shared, vision"):
        lab.submit()


def test_user_without_a_project_is_told_whom_to_ask(lab: Any) -> None:
    with pytest.raises(NotAllowedError, match="ask your administrator"):
        lab.runs.submit(Caller("eve", 20009), lab.request())


def test_image_is_resolved_and_pinned_by_digest(lab: Any) -> None:
    run = lab.submit(image="python-ml")
    assert run.image.endswith("/common/python-ml:1.10"), "1.10 is newer than 1.9"
    job = lab.cluster.jobs["project-vision", "run-vision-1"]
    image = job["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image == f"registry.lab.internal:5000/common/python-ml@{run.image_digest}"


def test_run_is_named_after_its_script(lab: Any) -> None:
    assert lab.submit(command=["python", "-u", "src/train.py", "--lr", "1"]).name == "train"
    assert lab.submit(command=["/usr/bin/env"]).name == "env"


def test_same_key_gives_the_same_run_even_if_it_could_not_be_made_now(lab: Any) -> None:
    first = lab.submit(idempotency_key="same-key-1")
    lab.cluster.node_list.clear()
    again, created = lab.runs.submit(lab.ada, lab.request(idempotency_key="same-key-1"))
    assert (again.id, created) == (first.id, False)
    assert len(lab.cluster.created_by) == 1


def test_same_key_for_another_request_is_a_conflict(lab: Any) -> None:
    lab.submit(idempotency_key="same-key-1")
    with pytest.raises(ConflictError):
        lab.submit(idempotency_key="same-key-1", gpus=2)


def test_job_is_made_under_the_users_name(lab: Any) -> None:
    lab.submit()
    assert lab.cluster.created_by == ["ada"]


def test_what_the_cluster_refuses_is_not_accepted(lab: Any) -> None:
    lab.cluster.refusal = NotAllowedError("this image is not allowed")
    with pytest.raises(NotAllowedError, match="this image"):
        lab.submit()
    assert not lab.store.rows


def test_refusal_after_acceptance_ends_the_run_with_its_sentence(lab: Any) -> None:
    lab.cluster.failures = [NotAllowedError("she has left the project")] * 2
    run = lab.submit()
    lab.clock.advance(10)
    lab.reconciler.reconcile_once()
    assert lab.row(run).state is RunState.FAILED
    assert "she has left the project" in lab.row(run).reason


def test_silent_cluster_does_not_keep_a_run_from_being_accepted(lab: Any) -> None:
    lab.cluster.refusal = UnreachableError("the Kubernetes API does not answer")
    assert lab.row(lab.submit()).job_uid == "uid-run-vision-1"


def test_restarting_queue_is_waited_for_briefly(lab: Any) -> None:
    webhook = UnreachableError('failed calling webhook "mjob.kb.io": connection refused')
    lab.cluster.failures = [webhook, webhook]
    run = lab.submit()
    assert lab.row(run).job_uid == "uid-run-vision-1"
    assert len(lab.slept) == 2


@pytest.mark.parametrize("message", ["the Kubernetes API does not answer", "failed calling webhook"])
def test_run_stays_accepted_when_its_job_cannot_be_made_now(lab: Any, message: str) -> None:
    lab.cluster.failures = [UnreachableError(message)] * 50
    run = lab.submit()
    assert (run.state, lab.row(run).job_uid) == (RunState.QUEUED, None)
    assert sum(lab.slept) < 2.0
    lab.cluster.failures.clear()
    lab.clock.advance(10)
    lab.reconciler.reconcile_once()
    assert lab.row(run).job_uid == "uid-run-vision-1"
    assert lab.cluster.created_by == ["ada"]


def test_database_away_means_nothing_was_accepted(lab: Any) -> None:
    lab.store.broken = UnreachableError("the run database does not answer")
    with pytest.raises(UnreachableError):
        lab.submit()
    assert not lab.cluster.jobs


def test_administrator_does_not_submit(lab: Any) -> None:
    with pytest.raises(NotAllowedError, match="submit as a member"):
        lab.runs.submit(lab.admin, lab.request())


def test_commit_whose_answer_stays_unknown_is_not_called_refused(lab: Any) -> None:
    lab.store.lose_answers = 1
    add = lab.store.add

    def add_and_die(*given: Any) -> Any:
        try:
            return add(*given)
        finally:
            lab.store.broken = UnreachableError("the run database does not answer")

    lab.store.add = add_and_die
    with pytest.raises(UncertainError):
        lab.submit()


def test_commit_whose_answer_was_lost_is_found_again(lab: Any) -> None:
    lab.store.lose_answers = 1
    run = lab.submit()
    assert list(lab.store.rows) == [run.id]
    assert lab.row(run).job_uid == "uid-run-vision-1"


def test_every_run_has_a_seed_and_members_of_an_array_have_different_ones(lab: Any) -> None:
    first, second = lab.submit(), lab.submit()
    assert first.seed is not None
    assert first.seed != second.seed
    lab.submit(seed=2**31 - 2, array="1-3")
    assert [row.seed for row in lab.store.members("vision", 3)] == [2**31 - 1, 0, 1]


def test_check_draws_no_seed(lab: Any) -> None:
    assert lab.runs.check(lab.ada, lab.request()).seed is None


def test_run_from_captured_code_may_be_submitted_anywhere(lab: Any) -> None:
    run = lab.submit(code=CODE, workdir="/tmp/net/")
    assert (run.workdir, run.code.digest) == ("/tmp/net", "a" * 64)


def test_rerun_knows_its_parent(lab: Any) -> None:
    first = lab.submit(array="0-1")
    assert lab.submit(parent=first.id).parent == "vision-1.0"
    assert lab.submit(parent="vision-1").parent == "vision-1"


def test_same_key_means_the_same_run_although_the_code_changed(lab: Any) -> None:
    first = lab.submit(code=CODE, idempotency_key="key-again")
    again = lab.submit(code=CODE | {"digest": "b" * 64}, idempotency_key="key-again")
    assert (again.id, again.code.digest) == (first.id, "a" * 64)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": -1},
        {"seed": 2**31},
        {"params": {"a b": "x"}},
        {"params": {"1": "x"}},
        {"code": CODE | {"digest": "../../etc/passwd"}},
        {"code": {"digest": "a" * 64}},
    ],
)
def test_what_no_labctl_sends_is_refused(lab: Any, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        lab.request(**changes)
