"""The admission policies on a real apiserver: whose ids pods get, and what is refused by which rule."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from labcluster.adapters.kube import KubeApi
from labcluster.errors import LabclusterError, NotAllowedError
from objects import apply, site

REGISTRY = "registry.lab.internal:5000"
ADA = {
    "runAsUser": 20000,
    "runAsGroup": 30000,
    "supplementalGroups": [30000, 30002],
    "supplementalGroupsPolicy": "Strict",
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
HARDENED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
PASSWD = [
    {"name": "labcluster-passwd", "mountPath": f"/etc/{file}", "subPath": file, "readOnly": True}
    for file in ("passwd", "group")
]
JOB_CONTROLLER = "system:serviceaccount:kube-system:job-controller"
Change = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="session")
def lab(identity: KubeApi) -> KubeApi:
    """ada and eve in vision, bo in speech, all in shared, laid out as the controller does it."""
    for item in site().objects:
        if item["kind"] in ("Namespace", "ConfigMap", "RoleBinding"):
            apply(identity, item)
        if item["kind"] == "Namespace":
            account = {"apiVersion": "v1", "kind": "ServiceAccount"}
            apply(
                identity, {**account, "metadata": {"name": "default", "namespace": item["metadata"]["name"]}}
            )
    # Policies are in force a moment after they were written.
    deadline = time.monotonic() + 20
    while not _in_force(identity):
        assert time.monotonic() < deadline, "the policies do not come into force"
        time.sleep(0.2)
    return identity


def _in_force(api: KubeApi) -> bool:
    try:
        made = create(api, job(), "ada")
        create(api, pod({"metadata.labels": {}}), JOB_CONTROLLER)
    except LabclusterError as error:
        return "[identity/member]" in error.detail and bool(
            made["spec"]["template"]["spec"]["securityContext"]
        )
    return False


def job(change: Change | None = None, **metadata: Any) -> dict[str, Any]:
    """What a member with a plain manifest submits."""
    item = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": "train",
            "namespace": "project-vision",
            "labels": {"kueue.x-k8s.io/queue-name": "default"},
            **metadata,
        },
        "spec": {
            "suspend": True,
            "template": {
                "spec": {
                    "restartPolicy": "Never",
                    "initContainers": [
                        {"name": "prepare", "image": f"{REGISTRY}/labcluster/runner@sha256:{'0' * 64}"}
                    ],
                    "containers": [
                        {
                            "name": "run",
                            "image": f"{REGISTRY}/common/python-ml:1",
                            "resources": {"limits": {"nvidia.com/gpu": 1}},
                            "volumeMounts": [{"name": "lab", "mountPath": "/lab"}],
                        }
                    ],
                    "volumes": [
                        {"name": "lab", "persistentVolumeClaim": {"claimName": "lab"}},
                        {"name": "shm", "emptyDir": {"medium": "Memory"}},
                    ],
                }
            },
        },
    }
    if change:
        change(item)
    return item


def pod(changes: dict[str, Any], user: str = "ada") -> dict[str, Any]:
    """A pod as the Job controller makes it from an admitted Job of `user`, with changes by path."""
    template = copy.deepcopy(job()["spec"]["template"])
    # What Pod Security demands: it is asked first.
    template["spec"]["securityContext"] = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    for container in template["spec"]["containers"] + template["spec"]["initContainers"]:
        container["securityContext"] = dict(HARDENED)
    item = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "p",
            "namespace": "project-vision",
            "labels": {"labcluster.internal/user": user},
            "ownerReferences": [
                {"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "1", "controller": True}
            ],
        },
        # Without this a token is mounted by a plugin that is asked before the policies.
        "spec": {**template["spec"], "automountServiceAccountToken": False},
    }
    for path, value in changes.items():
        put(item, path, value)
    return item


def put(item: Any, path: str, value: Any) -> None:
    """Set item.a.0.b; missing maps on the way are made."""
    *way, last = path.split(".")
    for step in way:
        item = item[int(step)] if isinstance(item, list) else item.setdefault(step, {})
    if isinstance(item, list):
        item.insert(int(last), value)
    else:
        item[last] = value


def create(api: KubeApi, item: dict[str, Any], user: str | None) -> dict[str, Any]:
    """Server-side dry run as `user`, or as an administrator."""
    group, kind = item["apiVersion"], item["kind"].lower() + "s"
    root = f"/api/{group}" if "/" not in group else f"/apis/{group}"
    path = f"{root}/namespaces/{item['metadata']['namespace']}/{kind}"
    return api.request("POST", path, query={"dryRun": "All"}, body=item, user=user)


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


GPU_2 = {"limits": {"nvidia.com/gpu": 2}}
EVERYTHING = {"operator": "Exists"}
# (rule, path below the pod template, what is put there)
ATTACKS: list[tuple[str, str, Any]] = [
    ("identity/uid", "spec.containers.0.securityContext", {"runAsUser": 20002}),
    ("identity/uid", "spec.initContainers.0.securityContext", {"runAsUser": 0}),
    ("identity/gid", "spec.containers.0.securityContext", {"runAsGroup": 30001}),
    ("identity/root", "spec.containers.0.securityContext", {"runAsNonRoot": False}),
    ("identity/service-account", "spec.serviceAccountName", "other"),
    ("node/namespaces", "spec.hostNetwork", True),
    ("node/namespaces", "spec.hostPID", True),
    ("node/namespaces", "spec.hostIPC", True),
    ("node/namespaces", "spec.hostUsers", False),
    ("node/namespaces", "spec.containers.0.ports", [{"containerPort": 80, "hostPort": 80}]),
    (
        "node/privileged",
        "spec.containers.0.securityContext",
        {"privileged": True, "allowPrivilegeEscalation": True},
    ),
    ("node/privileged", "spec.initContainers.0.securityContext", {"allowPrivilegeEscalation": True}),
    (
        "node/capabilities",
        "spec.containers.0.securityContext",
        {"capabilities": {"add": ["NET_RAW"], "drop": ["ALL"]}},
    ),
    ("node/capabilities", "spec.containers.0.securityContext", {"capabilities": {"drop": ["NET_RAW"]}}),
    ("node/confinement", "spec.containers.0.securityContext", {"seccompProfile": {"type": "Unconfined"}}),
    ("node/confinement", "spec.containers.0.securityContext", {"appArmorProfile": {"type": "Unconfined"}}),
    ("node/confinement", "spec.containers.0.securityContext", {"seLinuxOptions": {"type": "spc_t"}}),
    ("node/name", "spec.nodeName", "management"),
    ("node/scheduler", "spec.schedulerName", "mine"),
    ("node/scheduler", "spec.runtimeClassName", "nvidia"),
    ("node/tolerations", "spec.tolerations", [EVERYTHING]),
    (
        "node/tolerations",
        "spec.tolerations",
        [{"key": "node-role.kubernetes.io/control-plane", **EVERYTHING}],
    ),
    ("queue/priority", "spec.priorityClassName", "system-node-critical"),
    ("storage/volumes", "spec.volumes.0", {"name": "x", "hostPath": {"path": "/"}}),
    ("storage/volumes", "spec.volumes.0", {"name": "x", "nfs": {"server": "files", "path": "/lab"}}),
    ("storage/volumes", "spec.volumes.0", {"name": "x", "persistentVolumeClaim": {"claimName": "other"}}),
    ("storage/volumes", "spec.volumes.0", {"name": "x", "secret": {"secretName": "s"}}),
    ("storage/volumes", "spec.volumes.0", {"name": "x", "configMap": {"name": "labcluster-members"}}),
    ("storage/volumes", "spec.volumes.0", {"name": "x", "csi": {"driver": "d"}}),
    ("storage/volumes", "spec.volumes.0", {"name": "x", "image": {"reference": "r"}}),
    (
        "storage/volumes",
        "spec.volumes.0",
        {"name": "x", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
    ),
    ("storage/secrets", "spec.containers.0.envFrom", [{"secretRef": {"name": "s"}}]),
    (
        "storage/secrets",
        "spec.containers.0.env",
        [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
    ),
    ("image/registry", "spec.containers.0.image", "docker.io/library/debian:12"),
    ("image/registry", "spec.containers.0.image", f"{REGISTRY}/speech/secret:1"),
    ("image/registry", "spec.containers.0.image", f"{REGISTRY}/labcluster/portal:1"),
    ("image/registry", "spec.containers.0.image", f"{REGISTRY}.evil.example/common/x:1"),
    ("gpu/devices", "spec.containers.0.env", [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]),
    ("gpu/devices", "spec.initContainers.0.env", [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "0"}]),
    ("node/annotations", "metadata.annotations", {"cdi.k8s.io/x": "nvidia.com/gpu=all"}),
    ("gpu/maximum", "spec.containers.0.resources", {"limits": {"nvidia.com/gpu": 5}}),
]


@pytest.mark.parametrize(("rule", "path", "value"), ATTACKS)
def test_attack_in_a_job_is_refused_by_its_rule(lab: KubeApi, rule: str, path: str, value: Any) -> None:
    with pytest.raises(NotAllowedError, match=re.escape(f"[{rule}]")) as refusal:
        create(lab, job(lambda item: put(item, f"spec.template.{path}", value)), "ada")
    assert "ValidatingAdmissionPolicy" not in refusal.value.detail


# Some are refused by a plugin that is asked before the policy.
@pytest.mark.parametrize(
    ("rule", "path", "value"), [a for a in ATTACKS if a[0] != "identity/service-account"]
)
def test_attack_in_a_pod_of_a_controller_is_refused_too(
    lab: KubeApi, rule: str, path: str, value: Any
) -> None:
    with pytest.raises(LabclusterError):
        create(lab, pod({path: value}), JOB_CONTROLLER)


@pytest.mark.parametrize(
    ("rule", "path", "value"),
    [
        ("queue/label", "metadata.labels", {}),
        ("queue/label", "metadata.labels", {"kueue.x-k8s.io/queue-name": "speech"}),
        (
            "identity/system-labels",
            "metadata.labels",
            {"kueue.x-k8s.io/queue-name": "default", "kueue.x-k8s.io/prebuilt-workload-name": "w"},
        ),
        ("queue/managed-by", "spec.managedBy", "example.com/mine"),
        ("gpu/maximum", "spec.parallelism", 5),
    ],
)
def test_attack_on_the_queue_is_refused(lab: KubeApi, rule: str, path: str, value: Any) -> None:
    with pytest.raises(NotAllowedError, match=re.escape(f"[{rule}]")):
        create(lab, job(lambda item: put(item, path, value)), "ada")


def test_project_label_of_another_project_is_replaced(lab: KubeApi) -> None:
    labels = {"kueue.x-k8s.io/queue-name": "default", "labcluster.internal/project": "speech"}
    made = create(lab, job(lambda item: put(item, "metadata.labels", labels)), "ada")
    assert made["metadata"]["labels"]["labcluster.internal/project"] == "vision"


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
