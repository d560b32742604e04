"""The admission policies on a real apiserver: whose ids pods get, and what is refused by which rule."""

from __future__ import annotations

import time
from typing import Any

import pytest
from labcluster.adapters.kube import KubeApi
from labcluster.errors import NotAllowedError
from members import JOB_CONTROLLER, REGISTRY, create, job, pod
from objects import apply

from tests.attacks import HARDENED, put

ADA = {
    "runAsUser": 20000,
    "runAsGroup": 30000,
    "supplementalGroups": [30000, 30002],
    "supplementalGroupsPolicy": "Strict",
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
PASSWD = [
    {"name": "labcluster-passwd", "mountPath": f"/etc/{file}", "subPath": file, "readOnly": True}
    for file in ("passwd", "group")
]


def test_job_of_a_member_gets_the_ids_of_ldap(lab: KubeApi) -> None:
    made = create(lab, job(), "ada")
    template = made["spec"]["template"]
    assert template["spec"]["securityContext"] == ADA
    assert template["spec"]["automountServiceAccountToken"] is False
    assert template["spec"]["enableServiceLinks"] is False
    for labels in (made["metadata"]["labels"], template["metadata"]["labels"]):
        assert labels["labcluster.internal/user"] == "ada"
        assert labels["labcluster.internal/project"] == "vision"
    run, prepare = template["spec"]["containers"][0], template["spec"]["initContainers"][0]
    assert (
        run["securityContext"]
        == prepare["securityContext"]
        == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
    )
    assert "env" not in run
    assert prepare["env"] == [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}]


def test_forged_ids_at_the_pod_are_replaced(lab: KubeApi) -> None:
    forged = {"runAsUser": 0, "runAsGroup": 0, "supplementalGroups": [30001], "fsGroup": 30001, "sysctls": []}
    made = create(lab, job(lambda j: put(j, "spec.template.spec.securityContext", forged)), "ada")
    assert made["spec"]["template"]["spec"]["securityContext"] == ADA


def test_name_of_somebody_else_is_replaced_by_ones_own(lab: KubeApi) -> None:
    def forge(item: dict[str, Any]) -> None:
        item["metadata"]["labels"]["labcluster.internal/user"] = "eve"
        put(item, "spec.template.metadata", {"labels": {"labcluster.internal/user": "eve"}})

    made = create(lab, job(forge), "ada")
    assert made["spec"]["template"]["metadata"]["labels"]["labcluster.internal/user"] == "ada"
    assert made["spec"]["template"]["spec"]["securityContext"]["runAsUser"] == 20000


def test_who_is_no_member_is_refused(lab: KubeApi) -> None:
    with pytest.raises(NotAllowedError, match="bo"):
        create(lab, job(), "bo")
    with pytest.raises(NotAllowedError):
        create(lab, job(), "nobody")


def test_members_other_project_gives_the_other_gid(lab: KubeApi) -> None:
    made = create(lab, job(namespace="project-shared"), "ada")
    assert made["spec"]["template"]["spec"]["securityContext"]["runAsGroup"] == 30002


def test_pod_of_a_controller_runs_as_the_user_of_its_label(lab: KubeApi) -> None:
    made = create(lab, pod({}, "eve"), JOB_CONTROLLER)
    assert made["spec"]["securityContext"]["runAsUser"] == 20002


@pytest.mark.parametrize("user", ["", "bo", "root", "nobody"])
def test_pod_without_a_member_is_refused_whoever_makes_it(lab: KubeApi, user: str) -> None:
    with pytest.raises(NotAllowedError, match=r"\[identity/member\]"):
        create(
            lab, pod({"metadata.labels": {"labcluster.internal/user": user} if user else {}}), JOB_CONTROLLER
        )


def test_system_namespaces_are_no_business_of_the_policies(lab: KubeApi) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount"}
    apply(lab, {**account, "metadata": {"name": "default", "namespace": "kube-system"}})
    made = create(lab, pod({"metadata.namespace": "kube-system", "spec.hostNetwork": True}), None)
    assert made["spec"]["hostNetwork"]


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("GET", "/api/v1/namespaces/project-vision/configmaps"),
        ("GET", "/api/v1/namespaces/project-vision/secrets"),
        ("PATCH", "/api/v1/namespaces/project-vision/pods/p"),
        ("PATCH", "/api/v1/namespaces/project-vision/services/s"),
        ("PATCH", "/api/v1/namespaces/project-vision/pods/p/status"),
        ("PATCH", "/api/v1/namespaces/project-vision/pods/p/resize"),
        ("POST", "/api/v1/namespaces/project-vision/pods/p/binding"),
        ("POST", "/api/v1/namespaces/project-vision/bindings"),
        ("POST", "/api/v1/namespaces/project-vision/pods/p/eviction"),
        ("POST", "/api/v1/namespaces/project-vision/persistentvolumeclaims"),
        ("POST", "/api/v1/namespaces/project-vision/configmaps"),
        ("POST", "/api/v1/namespaces/project-vision/endpoints"),
        ("POST", "/api/v1/namespaces/project-vision/serviceaccounts"),
        ("POST", "/apis/discovery.k8s.io/v1/namespaces/project-vision/endpointslices"),
        ("POST", "/apis/apps/v1/namespaces/project-vision/deployments"),
        ("POST", "/apis/batch/v1/namespaces/project-vision/cronjobs"),
        ("POST", "/apis/networking.k8s.io/v1/namespaces/project-vision/networkpolicies"),
        ("POST", "/apis/kueue.x-k8s.io/v1beta2/namespaces/project-vision/workloads"),
        ("POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/project-vision/rolebindings"),
        ("DELETE", "/apis/batch/v1/namespaces/project-vision/jobs"),
        ("DELETE", "/api/v1/namespaces/project-vision/pods"),
        ("POST", "/api/v1/namespaces/project-vision/serviceaccounts/default/token"),
        ("POST", "/api/v1/namespaces/project-vision/pods/p/exec"),
        ("POST", "/api/v1/namespaces/project-vision/pods/p/attach"),
        ("POST", "/api/v1/namespaces/project-vision/pods/p/portforward"),
        ("PATCH", "/api/v1/namespaces/project-vision/pods/p/ephemeralcontainers"),
        ("PATCH", "/apis/batch/v1/namespaces/project-vision/jobs/train"),
        ("PATCH", "/apis/batch/v1/namespaces/project-vision/jobs/train/status"),
        ("GET", "/apis/batch/v1/namespaces/project-speech/jobs"),
        ("GET", "/apis/labcluster.internal/v1/projects"),
        ("GET", "/api/v1/persistentvolumes"),
        ("GET", "/api/v1/nodes"),
    ],
)
def test_member_may_do_nothing_else(lab: KubeApi, verb: str, path: str) -> None:
    with pytest.raises(NotAllowedError, match="forbidden"):
        lab.request(verb, path, body=None if verb == "GET" else {}, user="ada")


def test_project_label_of_another_project_is_replaced(lab: KubeApi) -> None:
    labels = {"kueue.x-k8s.io/queue-name": "default", "labcluster.internal/project": "speech"}
    made = create(lab, job(lambda item: put(item, "metadata.labels", labels)), "ada")
    assert made["metadata"]["labels"]["labcluster.internal/project"] == "vision"


GPU_2 = {"limits": {"nvidia.com/gpu": 2}}


def test_own_ids_and_own_images_said_aloud_are_fine(lab: KubeApi) -> None:
    def say(item: dict[str, Any]) -> None:
        spec = item["spec"]["template"]["spec"]
        spec["containers"][0] |= {"image": f"{REGISTRY}/vision/mine@sha256:{'1' * 64}", "resources": GPU_2}
        spec["containers"][0]["securityContext"] = {"runAsUser": 20000, "runAsGroup": 30000}
        spec["priorityClassName"] = "labcluster-low"

    made = create(lab, job(say), "ada")
    assert made["spec"]["template"]["spec"]["containers"][0]["securityContext"]["runAsUser"] == 20000


def test_job_whose_owner_left_can_be_finished_but_not_be_given_to_others(lab: KubeApi) -> None:
    jobs = "/apis/batch/v1/namespaces/project-vision/jobs"
    lab.create(jobs, job(name="leaver"), user="eve")
    members = "/api/v1/namespaces/project-vision/configmaps/labcluster-members"
    merge = "application/merge-patch+json"
    entry = lab.get(members)["data"]["eve"]
    lab.request("PATCH", members, body={"data": {"eve": None}}, content_type=merge)
    time.sleep(0.5)
    try:
        # As the Job controller and Kueue do it.
        lab.request("PATCH", f"{jobs}/leaver", body={"metadata": {"finalizers": ["x/y"]}}, content_type=merge)
        lab.request("PATCH", f"{jobs}/leaver", body={"spec": {"suspend": False}}, content_type=merge)
        with pytest.raises(NotAllowedError, match=r"\[identity/labels\]"):
            patch = {"metadata": {"labels": {"labcluster.internal/user": "ada"}}}
            lab.request("PATCH", f"{jobs}/leaver", body=patch, content_type=merge)
        with pytest.raises(NotAllowedError, match=r"\[identity/member\]"):
            create(lab, pod({}, "eve"), JOB_CONTROLLER)
    finally:
        lab.request("PATCH", members, body={"data": {"eve": entry}}, content_type=merge)
        lab.request("PATCH", f"{jobs}/leaver", body={"metadata": {"finalizers": None}}, content_type=merge)
        lab.delete(f"{jobs}/leaver")


def test_ephemeral_container_is_verified_as_well(lab: KubeApi) -> None:
    pods = "/api/v1/namespaces/project-vision/pods"
    lab.create(pods, pod({"metadata.name": "target"}), user=JOB_CONTROLLER)
    container = {
        "name": "debug",
        "image": f"{REGISTRY}/common/python-ml:1",
        "securityContext": {"runAsUser": 20002, **HARDENED},
        "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}],
    }
    patch = {"spec": {"ephemeralContainers": [container]}}
    with pytest.raises(NotAllowedError, match=r"\[identity/uid\]"):
        lab.request(
            "PATCH",
            f"{pods}/target/ephemeralcontainers",
            body=patch,
            content_type="application/strategic-merge-patch+json",
        )
    lab.delete(f"{pods}/target")
