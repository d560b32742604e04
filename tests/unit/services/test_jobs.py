"""The Job of a run: what Kubernetes, Kueue and the admission policies are to see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from labcluster.models.settings import JobSettings, RecordSettings
from labcluster.services import jobs
from labcluster.services.nodes import pod_amount


def made(lab: Any, **changes: Any) -> dict[str, Any]:
    run = lab.submit(**changes)
    job: dict[str, Any] = lab.cluster.jobs[run.namespace, run.job_name]
    return job


def pod(job: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = job["spec"]["template"]["spec"]
    return spec


def env(container: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}


def test_job_waits_in_the_projects_queue_and_is_never_started_twice(lab: Any) -> None:
    job = made(lab, time_seconds=60)
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "default"
    assert (job["spec"]["suspend"], job["spec"]["backoffLimit"]) == (True, 0)
    assert pod(job)["restartPolicy"] == "Never"


@pytest.mark.parametrize(("limit", "warning"), [(86400, 30), (300, 30), (60, 6), (5, 1)])
def test_time_limit_is_labruns_and_the_clusters_only_after_it(lab: Any, limit: int, warning: int) -> None:
    job = made(lab, time_seconds=limit)
    mine = env(pod(job)["containers"][0])
    assert (mine["LABCLUSTER_TIME_SECONDS"], mine["LABCLUSTER_WARNING_SECONDS"]) == (str(limit), str(warning))
    assert job["spec"]["activeDeadlineSeconds"] == limit + 3600
    assert "activeDeadlineSeconds" not in made(lab)["spec"]


def test_priority_is_kueues(lab: Any) -> None:
    for priority in ("interactive", "normal", "low"):
        labels = made(lab, priority=priority)["metadata"]["labels"]
        assert labels["kueue.x-k8s.io/priority-class"] == f"labcluster-{priority}"


def test_gang_is_one_indexed_job_whose_pods_know_one_another(lab: Any) -> None:
    job = made(lab, nodes=2, gpus=2)
    spec = job["spec"]
    assert (spec["completions"], spec["parallelism"], spec["completionMode"]) == (2, 2, "Indexed")
    assert spec["backoffLimit"] == 0, "one that fails ends all"
    assert spec["template"]["metadata"]["labels"]["labcluster.internal/gang"] == "true"
    assert pod(job)["subdomain"] == "runs"
    for container in (pod(job)["containers"][0], pod(job)["initContainers"][0]):
        mine = env(container)
        assert (mine["MASTER_ADDR"], mine["MASTER_PORT"]) == ("run-vision-1-0.runs", "29500")
        assert (mine["WORLD_SIZE"], mine["LABCLUSTER_NODES"]) == ("2", "2")
        assert mine["NCCL_SOCKET_IFNAME"] == mine["GLOO_SOCKET_IFNAME"] == "eth0"
        index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
        for name in ("NODE_RANK", "RANK"):
            (found,) = (entry for entry in container["env"] if entry["name"] == name)
            assert found["valueFrom"] == {"fieldRef": {"fieldPath": index}}


def test_run_on_one_node_is_no_gang(lab: Any) -> None:
    job = made(lab)
    assert "completionMode" not in job["spec"]
    assert "subdomain" not in pod(job)
    assert "MASTER_ADDR" not in env(pod(job)["containers"][0])
    assert "labcluster.internal/gang" not in job["spec"]["template"]["metadata"]["labels"]


def test_run_stays_with_a_silent_node_for_as_long_as_the_site_says(lab: Any) -> None:
    seconds = {
        (toleration["key"], toleration["effect"]): toleration["tolerationSeconds"]
        for toleration in pod(made(lab))["tolerations"]
    }
    assert seconds == {
        ("node.kubernetes.io/not-ready", "NoExecute"): 300,
        ("node.kubernetes.io/unreachable", "NoExecute"): 300,
    }


def test_node_disk_is_limited_and_not_queued_for(lab: Any) -> None:
    resources = pod(made(lab))["containers"][0]["resources"]
    assert resources["limits"]["ephemeral-storage"] == "20Gi"
    assert resources["requests"]["ephemeral-storage"] == "0"


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


def test_parameters_take_their_places_in_the_command_and_other_braces_stay(lab: Any) -> None:
    command = ["bash", "-c", "train --lr={lr} --name {name} ${lr} {x} {{lr}} '{}'"]
    run = lab.submit(command=command, params={"lr": "0.1", "name": "$a"}, seed=7)
    assert run.command == tuple(command), "the table keeps the places, so that a rerun can fill them anew"
    spec = pod(lab.cluster.jobs[run.namespace, run.job_name])
    words = spec["containers"][0]["command"][3:]
    filled = "train --lr=0.1 --name $a ${lr} {x} {0.1} '{}'"
    assert [word.replace("$$", "$") for word in words] == ["bash", "-c", filled]
    assert spec["initContainers"][0]["command"] == ["/labrun", "prepare", "--", *words]
    mine = env(spec["containers"][0])
    assert json.loads(mine["LABCLUSTER_PARAMS"].replace("$$", "$")) == {"lr": "0.1", "name": "$a"}
    assert mine["LABCLUSTER_SEED"] == "7"


def test_run_with_code_starts_in_its_own_copy(lab: Any) -> None:
    code = {"digest": "a" * 64, "root": "/lab/home/ada/net", "subdir": "src/net"}
    spec = pod(made(lab, code=code, workdir="/lab/home/ada/net/src/net"))
    container = spec["containers"][0]
    assert container["workingDir"] == "/lab/projects/vision/runs/1_0_train/code/src/net"
    assert env(container)["LABCLUSTER_SUBMIT_DIR"] == "/lab/home/ada/net/src/net"
    plain = pod(made(lab, code=code | {"subdir": ""}, workdir="/tmp/net"))["containers"][0]
    assert plain["workingDir"] == "/lab/projects/vision/runs/2_0_train/code"


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


def recorded(lab: Any, **changes: Any) -> dict[str, Any]:
    """The pod of a run at a site with MLflow."""
    record = RecordSettings(
        portal_url="https://portal.labcluster.svc", ca_file=Path("/ca.crt"), ca="-----BEGIN"
    )
    settings = JobSettings(runner_image="registry:5000/labcluster/runner:1", record=record)
    return pod(jobs.job(lab.submit(**changes), settings, "registry:5000"))


def test_recorder_is_a_sidecar_that_asks_for_little(lab: Any) -> None:
    spec = recorded(lab, cpus=2, gpus=1)
    prepare, recorder = spec["initContainers"]
    assert (prepare["name"], recorder["name"], recorder["restartPolicy"]) == ("prepare", "record", "Always")
    assert recorder["command"] == ["/labrun", "record"]
    assert recorder["resources"]["requests"] == {"cpu": "10m", "memory": "40Mi"}
    assert "nvidia.com/gpu" not in recorder["resources"]["limits"]
    mine = env(recorder)
    assert (mine["NVIDIA_VISIBLE_DEVICES"], mine["LABCLUSTER_CA"]) == ("void", "-----BEGIN")
    assert mine["LABCLUSTER_RUN_DIR"] == env(spec["containers"][0])["LABCLUSTER_RUN_DIR"]
    assert env(spec["containers"][0])["LABCLUSTER_PORTAL"] == "https://portal.labcluster.svc"
    assert env(prepare)["LABCLUSTER_CA"] == "-----BEGIN"
    assert spec["containers"][0]["env"][-1]["valueFrom"] == {"fieldRef": {"fieldPath": "spec.nodeName"}}


@pytest.mark.parametrize(("limit", "good"), [(None, 31 * 86400), (60, 86400), (5 * 86400, 5 * 86400 + 7200)])
def test_pod_proves_itself_to_the_portal_and_to_nobody_else(lab: Any, limit: int | None, good: int) -> None:
    spec = recorded(lab, time_seconds=limit)
    (volume,) = (v for v in spec["volumes"] if v["name"] == "token")
    (source,) = volume["projected"]["sources"]
    assert source == {
        "serviceAccountToken": {"audience": "labcluster", "path": "token", "expirationSeconds": good}
    }
    assert spec["automountServiceAccountToken"] is False
    prepare, recorder = spec["initContainers"]
    for container in (recorder, spec["containers"][0]):
        assert {
            "name": "token",
            "mountPath": "/var/run/secrets/labcluster/token",
            "readOnly": True,
        } in container["volumeMounts"]
    assert "token" not in [mount["name"] for mount in prepare["volumeMounts"]]


def test_without_a_portal_to_record_to_there_is_no_sidecar(lab: Any) -> None:
    spec = pod(made(lab))
    assert [container["name"] for container in spec["initContainers"]] == ["prepare"]
    assert "token" not in [volume["name"] for volume in spec["volumes"]]


def test_sidecars_count_beside_the_command(lab: Any) -> None:
    amount = pod_amount({"spec": recorded(lab, cpus=2, memory="1Gi", gpus=1)})
    assert (amount.gpus, round(amount.cpus, 3), amount.memory) == (1, 2.01, 2**30 + 40 * 2**20)
