"""The table of named attacks on a bare apiserver: each is refused, by the rule that is there for it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from labcluster.adapters.kube import KubeApi
from labcluster.errors import LabclusterError, NotAllowedError
from members import CARELESS, JOB_CONTROLLER, REGISTRY, create, job, pod

from tests import attacks
from tests.attacks import HARDENED, QUEUED, TEMPLATE, fill, put

IMAGE = f"{REGISTRY}/common/python-ml:1"
LOCKED = {"securityContext": HARDENED, "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}]}
TABLE = attacks.attacks(REGISTRY)
MERGE = "application/merge-patch+json"
VISION = "namespaces/project-vision"


@pytest.mark.parametrize(("rule", "item"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_attack_of_a_member_is_refused_by_its_rule(lab: KubeApi, rule: str, item: dict[str, Any]) -> None:
    with pytest.raises(NotAllowedError, match=re.escape(f"[{rule}]")) as refusal:
        create(lab, item, "ada")
    assert "ValidatingAdmissionPolicy" not in refusal.value.detail


def test_plain_manifests_of_a_member_are_fine(lab: KubeApi) -> None:
    for item in (attacks.job(REGISTRY), attacks.pod(REGISTRY), attacks.service()):
        assert create(lab, item, "ada")["metadata"]["labels"]["labcluster.internal/user"] == "ada"


@pytest.mark.parametrize("kind", [item["kind"] for item in attacks.others(REGISTRY)])
def test_attack_in_any_other_kind_is_refused_by_the_same_rule(lab: KubeApi, kind: str) -> None:
    escaped = []
    for rule, path, value in TEMPLATE:
        if path == "metadata.labels" and any(key.startswith("labcluster.internal/") for key in value):
            continue  # the platform's to set; people make none of these kinds
        item = next(item for item in attacks.others(REGISTRY) if item["kind"] == kind)
        place = attacks.TEMPLATES.get(kind, "spec.template")
        if path == "metadata.labels":
            value = {**value, **QUEUED, "app": "mine"}
        put(item, f"{place}.{path}", fill(value, REGISTRY))
        try:
            create(lab, item, None)
        except LabclusterError as error:
            if f"[{rule}]" in error.detail or not error.detail.startswith("["):
                continue
            escaped.append((rule, path, error.detail))
        else:
            escaped.append((rule, path, "accepted"))
    assert escaped == []


def test_attack_in_a_pod_is_refused_whoever_makes_it(lab: KubeApi) -> None:
    """By the rule, or by a plugin that is asked before the policies."""
    escaped = []
    for rule, path, value in TEMPLATE:
        if path.startswith("metadata.") and any(
            "example" in key or "k8s.io" in key or path.endswith("labels") for key in value
        ):
            continue  # what controllers set themselves; the templates that they go by were verified
        value = fill(value, REGISTRY)
        for item, user in (
            (pod({path: value}), JOB_CONTROLLER),
            (put(attacks.pod(REGISTRY), path, value), "ada"),
        ):
            try:
                create(lab, item, user)
            except LabclusterError:
                continue
            escaped.append((rule, path, user))
    assert escaped == []


@pytest.mark.parametrize(
    ("verb", "path", "body"),
    [
        ("POST", f"/api/v1/{VISION}/configmaps", {"metadata": {"name": "x"}}),
        ("POST", f"/api/v1/{VISION}/secrets", {"metadata": {"name": "x"}}),
        ("POST", f"/api/v1/{VISION}/serviceaccounts", {"metadata": {"name": "x"}}),
        ("POST", f"/api/v1/{VISION}/serviceaccounts/default/token", {"spec": {"audiences": ["x"]}}),
        ("POST", f"/api/v1/{VISION}/endpoints", {"metadata": {"name": "x"}}),
        ("PATCH", f"/api/v1/{VISION}/configmaps/labcluster-members", {"data": {"ada": "0 0 0"}}),
        ("PATCH", f"/api/v1/{VISION}/configmaps/labcluster-passwd", {"data": {"passwd": ""}}),
        ("DELETE", f"/api/v1/{VISION}/configmaps/labcluster-members", None),
        ("PATCH", f"/apis/batch/v1/{VISION}/jobs/mine", {"spec": {"suspend": False}}),
        ("PATCH", f"/apis/batch/v1/{VISION}/jobs/mine", {"spec": {"parallelism": 2}}),
        ("PATCH", f"/apis/batch/v1/{VISION}/jobs/mine/status", {"status": {"active": 3}}),
        ("PATCH", f"/api/v1/{VISION}/pods/mine", {"metadata": {"labels": {"a": "b"}}}),
        ("PATCH", f"/api/v1/{VISION}/pods/mine/status", {"status": {"podIP": "10.0.0.1"}}),
        (
            "PATCH",
            f"/api/v1/{VISION}/pods/mine/ephemeralcontainers",
            {"spec": {"ephemeralContainers": [{"name": "x", "image": IMAGE, **LOCKED}]}},
        ),
        (
            "PATCH",
            f"/api/v1/{VISION}/pods/mine/resize",
            {"spec": {"containers": [{"name": "run", "resources": {"limits": {"cpu": "2"}}}]}},
        ),
        (
            "POST",
            f"/api/v1/{VISION}/pods/mine/binding",
            {"metadata": {"name": "mine"}, "target": {"kind": "Node", "name": "management"}},
        ),
        ("POST", f"/api/v1/{VISION}/pods/mine/eviction", {"metadata": {"name": "mine"}}),
        ("POST", f"/api/v1/{VISION}/pods/mine/exec?command=id", None),
        ("POST", f"/api/v1/{VISION}/pods/mine/attach", None),
        ("POST", f"/api/v1/{VISION}/pods/mine/portforward", None),
        ("GET", f"/api/v1/{VISION}/pods/mine/proxy", None),
    ],
)
def test_what_a_careless_role_allows_ends_at_the_policies(
    lab: KubeApi, own_things: None, verb: str, path: str, body: Any
) -> None:
    path, _, command = path.partition("?")
    query = {"dryRun": "All"} if body is not None or verb == "DELETE" else {}
    if command:
        query["command"] = "id"
    content = "application/json"
    if verb == "PATCH":
        content = "application/strategic-merge-patch+json" if "pods/" in path else MERGE
    if verb == "POST" and body is not None:
        kinds = {"configmaps": "ConfigMap", "secrets": "Secret", "serviceaccounts": "ServiceAccount"}
        kinds |= {"endpoints": "Endpoints", "binding": "Binding"}
        last = path.rsplit("/", 1)[1]
        if last in kinds:
            body = {"apiVersion": "v1", "kind": kinds[last], **body}
    with pytest.raises(NotAllowedError, match=r"\[(access|node)/(kinds|shell|binding)\]"):
        lab.request(verb, path, query=query, body=body, content_type=content, user="ada", group=CARELESS)


@pytest.fixture(scope="module")
def own_things(lab: KubeApi) -> Any:
    """A Job, a Pod and a Service of ada's, kept, all named `mine`."""
    for item in (
        attacks.job(REGISTRY, "mine"),
        put(attacks.pod(REGISTRY, "mine"), "spec.containers.0.resources", {"limits": {"cpu": "1"}}),
        attacks.service("mine"),
    ):
        lab.create(attacks.collection(item), item, user="ada")
    yield
    for kind in ("/apis/batch/v1/{}/jobs", "/api/v1/{}/pods", "/api/v1/{}/services"):
        lab.delete(f"{kind.format(VISION)}/mine")


@pytest.mark.parametrize("path", ["/apis/batch/v1/{}/jobs", "/api/v1/{}/pods", "/api/v1/{}/services"])
def test_member_removes_his_own_things_and_nobody_elses(lab: KubeApi, own_things: None, path: str) -> None:
    thing = f"{path.format(VISION)}/mine"
    with pytest.raises(NotAllowedError, match=r"\[access/own-things\] mine belongs to ada"):
        lab.request("DELETE", thing, query={"dryRun": "All"}, user="eve")
    removed = lab.request("DELETE", thing, query={"dryRun": "All"}, user="ada")
    assert removed["apiVersion"]


def test_whole_collection_is_not_removed_by_a_careless_role_either(lab: KubeApi, own_things: None) -> None:
    with pytest.raises(NotAllowedError, match=r"\[access/own-things\]"):
        lab.request("DELETE", f"/api/v1/{VISION}/pods", query={"dryRun": "All"}, user="eve", group=CARELESS)


@pytest.mark.parametrize(
    "user",
    [
        "bo",
        "system:serviceaccount:project-vision:default",
        "system:serviceaccount:default:hub",
        "system:node:gpu1",
    ],
)
def test_nobody_but_the_platform_acts_for_a_member(lab: KubeApi, user: str) -> None:
    item = put(job(), "metadata.labels", {**QUEUED, "labcluster.internal/user": "ada"})
    with pytest.raises(NotAllowedError, match=r"\[identity/own-name\]"):
        create(lab, item, user, CARELESS)


@pytest.mark.parametrize("user", ["system:serviceaccount:labcluster:hub", JOB_CONTROLLER])
def test_platform_acts_for_members_and_is_checked_as_strictly(lab: KubeApi, user: str) -> None:
    labels = {**QUEUED, "labcluster.internal/user": "eve"}
    made = create(lab, put(job(), "metadata.labels", labels), user, CARELESS)
    assert made["spec"]["template"]["spec"]["securityContext"]["runAsUser"] == 20002
    bad = put(job(), "spec.template.spec.hostPID", True)
    with pytest.raises(NotAllowedError, match=r"\[node/namespaces\]"):
        create(lab, put(bad, "metadata.labels", labels), user, CARELESS)


def test_portal_alone_names_runs(lab: KubeApi) -> None:
    item = job(name="run-vision-7", labels={**QUEUED, "labcluster.internal/run": "vision-7"})
    with pytest.raises(NotAllowedError, match=r"\[identity/"):
        create(lab, item, "ada")
    assert create(lab, item, "ada", "labcluster:portal")["metadata"]["name"] == "run-vision-7"


def test_queue_alone_starts_jobs(lab: KubeApi) -> None:
    assert create(lab, put(job(), "spec.suspend", False), "ada")["spec"]["suspend"] is True


def test_pod_without_a_job_waits_at_the_gate(lab: KubeApi) -> None:
    made = create(lab, attacks.pod(REGISTRY), "ada")
    assert made["spec"]["schedulingGates"] == [{"name": "kueue.x-k8s.io/admission"}]
    assert "schedulingGates" not in create(lab, pod({}), JOB_CONTROLLER)["spec"]
    # A pod of another controller is not let through because a controller made it.
    of_set = pod({"metadata.labels": {**QUEUED, "labcluster.internal/user": "ada"}})
    of_set["metadata"]["ownerReferences"][0] |= {"apiVersion": "apps/v1", "kind": "ReplicaSet"}
    maker = "system:serviceaccount:kube-system:replicaset-controller"
    assert create(lab, of_set, maker)["spec"]["schedulingGates"]


def test_asking_for_no_gpu_does_not_show_any(lab: KubeApi) -> None:
    none = {"limits": {"nvidia.com/gpu": 0}}
    made = create(lab, job(lambda j: put(j, "spec.template.spec.containers.0.resources", none)), "ada")
    assert made["spec"]["template"]["spec"]["containers"][0]["env"] == [
        {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}
    ]


def test_service_of_a_member_leads_to_his_own_pods(lab: KubeApi) -> None:
    item = put(attacks.service(), "spec.selector", {"labcluster.internal/user": "eve"})
    assert create(lab, item, "ada")["spec"]["selector"] == {"labcluster.internal/user": "ada"}
