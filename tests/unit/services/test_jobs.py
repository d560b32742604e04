"""The Job of a run: what Kubernetes, Kueue and the admission policies are to see."""

from __future__ import annotations

import json
from typing import Any


def made(lab: Any, **changes: Any) -> dict[str, Any]:
    run = lab.submit(**changes)
    job: dict[str, Any] = lab.cluster.jobs[run.namespace, run.job_name]
    return job


def pod(job: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = job["spec"]["template"]["spec"]
    return spec


def env(container: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container["env"]}


def test_job_waits_in_the_projects_queue_and_is_never_started_twice(lab: Any) -> None:
    job = made(lab, time_seconds=60)
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "default"
    assert (job["spec"]["suspend"], job["spec"]["backoffLimit"]) == (True, 0)
    assert job["spec"]["activeDeadlineSeconds"] == 60
    assert pod(job)["restartPolicy"] == "Never"


def test_every_object_says_whose_it_is(lab: Any) -> None:
    job = made(lab)
    for labels in (job["metadata"]["labels"], job["spec"]["template"]["metadata"]["labels"]):
        assert labels["labcluster.internal/run"] == "vision-1"
        assert labels["labcluster.internal/user"] == "ada"
        assert labels["labcluster.internal/project"] == "vision"
        assert labels["labcluster.internal/kind"] == "batch"


def test_command_reaches_the_program_letter_by_letter(lab: Any) -> None:
    command = ["bash", "-c", 'echo "$(date)" $$ $HOME $(LABCLUSTER_RUN_ID)']
    container = pod(made(lab, command=command, env={"A": "$(B)", "B": "x"}))["containers"][0]
    # Kubernetes turns $$ into $ and leaves everything else of ours alone.
    assert [word.replace("$$", "$") for word in container["command"][3:]] == command
    assert container["command"][:3] == ["/labcluster/labrun", "exec", "--"]
    assert env(container)["A"] == "$$(B)"


def test_run_without_gpus_sees_none(lab: Any) -> None:
    spec = pod(made(lab, gpus=0))
    assert env(spec["containers"][0])["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert "nvidia.com/gpu" not in spec["containers"][0]["resources"]["limits"]


def test_gpus_go_to_the_command_only(lab: Any) -> None:
    spec = pod(made(lab, gpus=2))
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert "NVIDIA_VISIBLE_DEVICES" not in env(spec["containers"][0])
    assert env(spec["initContainers"][0])["NVIDIA_VISIBLE_DEVICES"] == "void"


def test_shared_memory_is_half_of_the_memory(lab: Any) -> None:
    volumes = {v["name"]: v for v in pod(made(lab, memory="4Gi"))["volumes"]}
    assert volumes["shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": str(2 * 2**30)}
    assert volumes["lab"] == {"name": "lab", "persistentVolumeClaim": {"claimName": "lab"}}


def test_containers_have_no_rights_and_bounded_resources(lab: Any) -> None:
    spec = pod(made(lab, cpus=1.5))
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert "runAsUser" not in spec["securityContext"], "the admission policy writes it, from LDAP"
    for container in (*spec["initContainers"], *spec["containers"]):
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["resources"]["limits"].keys() >= {"cpu", "memory"}
    assert spec["containers"][0]["resources"]["requests"]["cpu"] == "1500m"


def test_prepare_gets_the_run_and_the_command_its_directory(lab: Any) -> None:
    spec = pod(made(lab, env={"SEED": "1", "HOME": "/lab/scratch/ada"}))
    run = json.loads(env(spec["initContainers"][0])["LABCLUSTER_RUN"])
    assert run["id"] == "vision-1"
    assert run["directory"] == "/lab/projects/vision/runs/1_0_train"
    assert run["env"]["SEED"] == "1"
    mine = env(spec["containers"][0])
    assert mine["LABCLUSTER_RUN_DIR"] == run["directory"]
    assert mine["LABCLUSTER_ARTIFACTS_DIR"] == run["directory"] + "/artifacts"
    assert (mine["USER"], mine["HOME"], mine["SEED"]) == ("ada", "/lab/scratch/ada", "1")
    assert spec["containers"][0]["workingDir"] == "/lab/home/ada/digits"
