"""The portal's Jobs on a real apiserver, with the admission policies in force."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from labcluster.adapters.kube import MERGE, KubeApi, KubeJobs
from labcluster.adapters.view import KubeView
from labcluster.errors import NotAllowedError
from labcluster.models.runs import Run, RunState
from labcluster.models.settings import JobSettings, RecordSettings
from labcluster.services.delivery import delivery_job
from labcluster.services.jobs import gang_policy, job
from objects import apply, site

REGISTRY = "registry.lab.internal:5000"
JOBS = "/apis/batch/v1/namespaces/project-vision/jobs"
RECORD = RecordSettings(portal_url="https://portal.labcluster.svc", ca_file=Path("/ca.crt"), ca="-----BEGIN")
SETTINGS = JobSettings(
    runner_image=f"{REGISTRY}/labcluster/runner:1@sha256:{'0' * 64}",
    record=RECORD,
)


def run(number: int, user: str = "ada", **changes: object) -> Run:
    return Run.model_validate(
        {
            "project": "vision",
            "number": number,
            "name": "train",
            "user": user,
            "uid": 20000,
            "gid": 30000,
            "image": f"{REGISTRY}/common/python-ml:1",
            "image_digest": f"sha256:{'1' * 64}",
            "command": ["python", "train.py"],
            "workdir": "/lab/home/ada",
            "gpus": 1,
            "cpus": 1.5,
            "memory": "4Gi",
            "time_seconds": 60,
            "env": {"A": "$(B)"},
            "state": RunState.QUEUED,
            "submitted_at": datetime(2026, 11, 21, tzinfo=UTC),
        }
        | changes
    )


def until(check: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 20
    while not check():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def collect(api: KubeApi, number: int) -> None:
    """What the garbage collector does, which does not run here, when the pods of a deleted Job are gone."""
    path = f"{JOBS}/run-vision-{number}"
    assert api.get(path)["metadata"]["deletionTimestamp"]
    api.request("PATCH", path, body={"metadata": {"finalizers": None}}, content_type=MERGE)


@pytest.fixture(scope="module")
def jobs(identity: KubeApi) -> Iterator[KubeJobs]:
    """ada in vision, and policies that are in force."""
    for item in site().objects:
        if item["kind"] in ("Namespace", "ConfigMap", "RoleBinding"):
            apply(identity, item)
    jobs = KubeJobs(identity)

    def in_force() -> bool:
        """Policies take effect a moment after they were written: both must have."""
        try:
            jobs.create(job(run(900, gpus=5), SETTINGS, REGISTRY), "ada")
        except NotAllowedError:
            jobs.create(job(run(901), SETTINGS, REGISTRY), "ada")
            made = identity.get(f"{JOBS}/run-vision-901")
            jobs.delete("project-vision", "run-vision-901", "ada")
            return "runAsUser" in made["spec"]["template"]["spec"]["securityContext"]
        jobs.delete("project-vision", "run-vision-900", "ada")
        return False

    until(in_force, "the policies do not come into force")
    yield jobs


def test_job_runs_under_the_users_own_ids_and_is_made_once(identity: KubeApi, jobs: KubeJobs) -> None:
    first = run(1)
    uid = jobs.create(job(first, SETTINGS, REGISTRY), "ada")
    assert jobs.create(job(first, SETTINGS, REGISTRY), "ada") == uid
    made = identity.get(f"{JOBS}/run-vision-1")
    security = made["spec"]["template"]["spec"]["securityContext"]
    assert (security["runAsUser"], security["runAsGroup"]) == (20000, 30000)
    assert security["supplementalGroupsPolicy"] == "Strict"
    jobs.delete("project-vision", "run-vision-1", "ada")
    jobs.delete("project-vision", "run-vision-1", "ada")
    assert jobs.exists("project-vision", "run-vision-1"), "it stays until its pods are gone"
    collect(identity, 1)
    until(lambda: not jobs.exists("project-vision", "run-vision-1"), "the Job does not go away")


def test_nobody_gets_a_job_in_a_foreign_project(jobs: KubeJobs) -> None:
    for user in ("bo", "nosuch"):
        with pytest.raises(NotAllowedError):
            jobs.create(job(run(2), SETTINGS, REGISTRY), user)
    assert not jobs.exists("project-vision", "run-vision-2")


def test_job_in_another_members_name_is_the_makers_own(identity: KubeApi, jobs: KubeJobs) -> None:
    jobs.create(job(run(5, user="ada"), SETTINGS, REGISTRY), "eve")
    made = identity.get(f"{JOBS}/run-vision-5")
    assert made["spec"]["template"]["spec"]["securityContext"]["runAsUser"] == 20002
    assert made["metadata"]["labels"]["labcluster.internal/user"] == "eve"


def test_job_of_an_earlier_attempt_is_never_taken_for_the_next_ones(jobs: KubeJobs) -> None:
    jobs.create(job(run(6), SETTINGS, REGISTRY), "ada")
    with pytest.raises(NotAllowedError, match="in the way"):
        jobs.create(job(run(6, attempt=2), SETTINGS, REGISTRY), "ada")


def test_gang_is_accepted_and_its_pods_are_let_reach_one_another(identity: KubeApi, jobs: KubeJobs) -> None:
    gang = run(7, nodes=2, priority="low", requeue=True)
    uid = jobs.create(job(gang, SETTINGS, REGISTRY), "ada")
    for _ in range(2):
        jobs.allow(gang_policy(gang, uid))
    path = "/apis/networking.k8s.io/v1/namespaces/project-vision/networkpolicies/run-vision-7"
    assert identity.get(path)["metadata"]["ownerReferences"][0]["uid"] == uid


def test_recorder_is_beside_the_command_and_the_pods_token_is_for_the_portal_only(
    identity: KubeApi, jobs: KubeJobs
) -> None:
    jobs.create(job(run(8), SETTINGS, REGISTRY), "ada")
    spec = identity.get(f"{JOBS}/run-vision-8")["spec"]["template"]["spec"]
    assert [(c["name"], c.get("restartPolicy")) for c in spec["initContainers"]] == [
        ("prepare", None),
        ("record", "Always"),
    ]
    (token,) = (v["projected"]["sources"] for v in spec["volumes"] if "projected" in v)
    assert [source["serviceAccountToken"]["audience"] for source in token] == ["labcluster"]
    assert spec["automountServiceAccountToken"] is False


def test_records_are_delivered_under_their_users_own_ids(identity: KubeApi, jobs: KubeJobs) -> None:
    made = delivery_job([run(9), run(10)], 1, SETTINGS)
    uid = jobs.create(made, "ada")
    assert jobs.create(made, "ada") == uid
    spec = identity.get(f"{JOBS}/deliver-vision-9-1")["spec"]["template"]["spec"]
    assert (spec["securityContext"]["runAsUser"], spec["securityContext"]["runAsGroup"]) == (20000, 30000)
    with pytest.raises(NotAllowedError):
        jobs.create(delivery_job([run(11)], 1, SETTINGS), "bo")


def test_pod_that_is_gone_already_counts_as_released(identity: KubeApi, jobs: KubeJobs) -> None:
    path = "/api/v1/namespaces/project-vision/pods"
    jobs.release_pod("project-vision", "no-such-pod")
    assert identity.list(path) == []


def test_refusal_of_a_policy_is_its_sentence_alone(jobs: KubeJobs) -> None:
    with pytest.raises(NotAllowedError) as caught:
        jobs.create(job(run(3, gpus=5), SETTINGS, REGISTRY), "ada")
    assert caught.value.detail.startswith("[gpu/maximum] 5 GPUs are asked for")


def test_watches_see_members_and_jobs(identity: KubeApi, jobs: KubeJobs) -> None:
    view = KubeView(identity, follow_jobs=True)
    view.start()
    until(lambda: view.memberships("ada"), "members are not seen")
    assert view.memberships("ada")["vision"].uid == 20000
    told: list[str] = []
    view.subscribe(told.append)
    seen = run(4)
    jobs.create(job(seen, SETTINGS, REGISTRY), "ada")
    until(lambda: view.job(seen), "the Job is not seen")
    assert "vision-4" in told
    jobs.delete("project-vision", "run-vision-4", "ada")
    collect(identity, 4)
    until(lambda: view.job(seen) is None, "the Job's end is not seen")
    view.stop()
