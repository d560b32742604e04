from __future__ import annotations

from typing import Any

import pytest
from identity_fakes import directory, member, project
from labcluster.models.members import Directory, Group
from labcluster.models.settings import OutsideNetwork
from labcluster.services.manifests import Capacity
from labcluster.services.namespaces import Plan, node_capacity, plan

PEOPLE = {"ada": 20000, "bo": 20001}
EIGHT_GPUS = Capacity(gpus=8, milli_cpus=4000, memory_kib=2**21)


def made(
    found: Directory | None = None,
    *projects: Any,
    capacity: Capacity = EIGHT_GPUS,
) -> Plan:
    found = found or directory(PEOPLE, vision=(30000, "ada"), shared=(30002, "bo ada"))
    return plan(found, projects or (project("vision", 30000, 2, 6), project("shared", 30002, 0, 8)), capacity)


def one(plan: Plan, kind: str, name: str, namespace: str | None = None) -> dict[str, Any]:
    found = [
        item
        for item in plan.objects
        if (item["kind"], item["metadata"]["name"], item["metadata"].get("namespace"))
        == (kind, name, namespace)
    ]
    assert len(found) == 1, (kind, name, namespace)
    return found[0]


def test_parameters_say_who_runs_under_which_ids() -> None:
    data = one(made(), "ConfigMap", "labcluster-members", "project-shared")["data"]
    assert data == {
        ".images": "",
        ".max-gpus": "8",
        "ada": "20000 30002 30000,30002",
        "bo": "20001 30002 30002",
    }


def test_groups_of_projects_that_are_none_do_not_count() -> None:
    found = directory(PEOPLE, vision=(30000, "ada"), docker=(30007, "ada"))
    data = one(made(found, project("vision", 30000)), "ConfigMap", "labcluster-members", "project-vision")[
        "data"
    ]
    assert data["ada"] == "20000 30000 30000"


def test_members_are_bound_to_the_member_role_by_name() -> None:
    binding = one(made(), "RoleBinding", "labcluster-members", "project-vision")
    assert binding["roleRef"]["name"] == "labcluster-member"
    assert [subject["name"] for subject in binding["subjects"]] == ["ada"]


def test_shells_are_for_the_portals_group_and_for_no_person() -> None:
    binding = one(made(), "RoleBinding", "labcluster-shell", "project-vision")
    assert binding["roleRef"]["name"] == "labcluster-shell"
    assert [(s["kind"], s["name"]) for s in binding["subjects"]] == [("Group", "labcluster:shell")]


def test_portal_may_act_for_members_and_for_nobody_else() -> None:
    rules = one(made(), "ClusterRole", "labcluster-impersonator")["rules"]
    assert [rule["resourceNames"] for rule in rules] == [["ada", "bo"]]


def test_without_members_the_portal_may_act_for_nobody() -> None:
    # A rule with an empty list of names would mean: for everybody, system:masters included.
    assert one(made(directory({})), "ClusterRole", "labcluster-impersonator")["rules"] == []


def test_disabled_member_is_one_nowhere_and_that_is_no_fault() -> None:
    found = directory(PEOPLE, vision=(30000, "ada bo"))
    ada = found.members["ada"].model_copy(update={"disabled": True})
    found = found.model_copy(update={"members": {**found.members, "ada": ada}})
    result = made(found, project("vision", 30000))
    assert result.verdicts["vision"].members == ("bo",)
    assert result.verdicts["vision"].ready
    assert result.faults == ()
    assert one(result, "ClusterRole", "labcluster-impersonator")["rules"][0]["resourceNames"] == ["bo"]


@pytest.mark.parametrize("uid", [0, 999, 10000, 19999, 30000, 65534])
def test_uid_out_of_range_makes_nobody_a_member(uid: int) -> None:
    found = directory({"ada": 20000, "mallory": uid}, vision=(30000, "ada mallory"))
    result = made(found, project("vision", 30000))
    assert "mallory" not in one(result, "ConfigMap", "labcluster-members", "project-vision")["data"]
    assert "mallory" not in one(result, "ConfigMap", "labcluster-passwd", "project-vision")["data"]["passwd"]
    assert result.verdicts["vision"].members == ("ada",)
    assert result.verdicts["vision"].reason == "UnknownMembers"
    assert "uidNumber" in result.faults[0]


def test_uid_of_two_makes_neither_a_member() -> None:
    found = directory({"ada": 20000, "mallory": 20000, "bo": 20001}, vision=(30000, "ada bo mallory"))
    assert made(found, project("vision", 30000)).verdicts["vision"].members == ("bo",)


@pytest.mark.parametrize("name", [".max-gpus", "system:admin", "A", "a b"])
def test_name_that_is_none_makes_nobody_a_member(name: str) -> None:
    found = Directory(
        members={name: member(name, 20000)},
        groups={"vision": Group(name="vision", gid=30000, members=(name,))},
    )
    result = made(found, project("vision", 30000))
    assert result.verdicts["vision"].members == ()
    data = one(result, "ConfigMap", "labcluster-members", "project-vision")["data"]
    assert data == {".images": "", ".max-gpus": "0"}


@pytest.mark.parametrize(
    ("groups", "reason"),
    [
        ({}, "GroupMissing"),
        ({"vision": (30009, "ada")}, "GidMismatch"),
    ],
)
def test_project_whose_group_does_not_fit_has_no_members(
    groups: dict[str, tuple[int, str]], reason: str
) -> None:
    result = made(directory(PEOPLE, **groups), project("vision", 30000))
    assert result.verdicts["vision"].reason == reason
    assert not result.verdicts["vision"].ready
    assert one(result, "RoleBinding", "labcluster-members", "project-vision")["subjects"] == []
    one(result, "Namespace", "project-vision")


def test_gid_of_two_projects_is_usable_for_neither() -> None:
    found = directory(PEOPLE, a=(30000, "ada"), b=(30000, "bo"))
    result = made(found, project("a", 30000), project("b", 30000))
    assert {verdict.reason for verdict in result.verdicts.values()} == {"GidNotUsable"}
    assert all(not verdict.members for verdict in result.verdicts.values())


def test_queue_has_its_own_gpus_and_borrows_up_to_the_maximum() -> None:
    spec = one(made(), "ClusterQueue", "project-vision")["spec"]
    gpu = spec["resourceGroups"][0]["flavors"][0]["resources"][2]
    assert gpu == {"name": "nvidia.com/gpu", "nominalQuota": "2", "borrowingLimit": "4"}
    assert spec["cohortName"] == "lab"
    assert one(made(), "LocalQueue", "default", "project-vision")["spec"] == {
        "clusterQueue": "project-vision"
    }


def test_cohort_lends_what_nobody_owns() -> None:
    resources = one(made(), "Cohort", "lab")["spec"]["resourceGroups"][0]["flavors"][0]["resources"]
    assert [(r["name"], r["nominalQuota"]) for r in resources] == [
        ("cpu", "4"),
        ("memory", "2Gi"),
        ("nvidia.com/gpu", "6"),
    ]


def test_more_gpus_promised_than_there_are_leaves_nothing_to_lend() -> None:
    result = made(None, project("vision", 30000, 9), project("shared", 30002), capacity=Capacity(8, 1500, 3))
    resources = one(result, "Cohort", "lab")["spec"]["resourceGroups"][0]["flavors"][0]["resources"]
    assert [r["nominalQuota"] for r in resources] == ["1500m", "3Ki", "0"]


def node(name: str, ready: str = "True", **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "spec": spec,
        "status": {
            "conditions": [{"type": "Ready", "status": ready}],
            "allocatable": {"cpu": "1900m", "memory": "2048Ki", "nvidia.com/gpu": "4"},
        },
    }


def test_capacity_counts_nodes_that_take_runs() -> None:
    control_plane = {"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}
    nodes = [
        node("gpu1"),
        node("gpu2", taints=[{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]),
        node("down", ready="Unknown"),
        node("cordoned", unschedulable=True),
        node("management", taints=[control_plane]),
    ]
    assert node_capacity(nodes) == Capacity(gpus=8, milli_cpus=3800, memory_kib=4096)


def test_everything_carries_our_label_and_its_project() -> None:
    for item in made().objects:
        labels = item["metadata"]["labels"]
        assert labels["app.kubernetes.io/managed-by"] == "labcluster-controller"
        if "project-" in item["metadata"].get("namespace", ""):
            assert item["metadata"]["namespace"] == f"project-{labels['labcluster.internal/project']}"


def test_namespace_is_restricted() -> None:
    labels = one(made(), "Namespace", "project-vision")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_passwd_knows_the_projects_people_by_their_names() -> None:
    data = one(made(), "ConfigMap", "labcluster-passwd", "project-shared")["data"]
    assert "ada:x:20000:30002:Ada:/lab/home/ada:/bin/bash\n" in data["passwd"]
    assert "vision:x:30000:ada\nshared:x:30002:ada,bo\n" in data["group"]


def test_full_name_cannot_add_a_line_to_passwd() -> None:
    found = Directory(
        members={"eve": member("eve", 20003, full_name="Eve:0:0\nroot2:x:0:0")},
        groups={"vision": Group(name="vision", gid=30000, members=("eve",))},
    )
    data = one(made(found, project("vision", 30000)), "ConfigMap", "labcluster-passwd", "project-vision")[
        "data"
    ]
    assert len(data["passwd"].splitlines()) == 3
    assert data["passwd"].splitlines()[2].count(":") == 6


def test_pods_reach_names_and_the_portal_and_nobody_reaches_them() -> None:
    spec = one(made(), "NetworkPolicy", "labcluster", "project-vision")["spec"]
    assert spec["podSelector"] == {}
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in spec
    apps = [
        (peer["namespaceSelector"]["matchLabels"], peer["podSelector"]["matchLabels"])
        for rule in spec["egress"]
        for peer in rule["to"]
    ]
    name = "kubernetes.io/metadata.name"
    assert apps == [
        ({name: "kube-system"}, {"k8s-app": "kube-dns"}),
        ({name: "labcluster"}, {"app.kubernetes.io/name": "portal"}),
    ]


def test_pods_reach_what_the_site_opens_and_nothing_that_is_excluded() -> None:
    outside = [
        OutsideNetwork(cidr="192.0.2.5/32", ports=(443,)),
        OutsideNetwork(cidr="0.0.0.0/0", excluded=("10.0.0.0/8",)),
    ]
    found = plan(
        directory({"ada": 20000}, vision=(30000, "ada")), [project("vision", 30000)], Capacity(), outside
    )
    assert one(found, "NetworkPolicy", "labcluster", "project-vision")["spec"]["egress"][2:] == [
        {"to": [{"ipBlock": {"cidr": "192.0.2.5/32"}}], "ports": [{"port": 443, "protocol": "TCP"}]},
        {"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}}]},
    ]


def test_pods_of_gangs_have_names_before_they_are_ready() -> None:
    spec = one(made(), "Service", "runs", "project-vision")["spec"]
    assert spec["clusterIP"] == "None"
    assert spec["publishNotReadyAddresses"]
    assert spec["selector"] == {"labcluster.internal/gang": "true"}


def test_same_input_in_another_order_gives_the_same_objects() -> None:
    found = directory({"bo": 20001, "ada": 20000}, shared=(30002, "ada bo"), vision=(30000, "ada"))
    again = made(found, project("shared", 30002, 0, 8), project("vision", 30000, 2, 6))
    assert again.objects == made().objects
