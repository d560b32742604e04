from __future__ import annotations

import copy
from typing import Any

from identity_fakes import directory, project
from labcluster.services.drift import Key, compare, covers, foreign, key_of, path_of
from labcluster.services.manifests import Capacity
from labcluster.services.namespaces import plan

OBJECTS = plan(
    directory({"ada": 20000}, vision=(30000, "ada")),
    [project("vision", 30000, 1, 2)],
    Capacity(4, 4000, 4096),
).objects


def live() -> dict[Key, dict[str, Any]]:
    return {key_of(item): copy.deepcopy(item) for item in OBJECTS}


def test_equal_state_needs_nothing() -> None:
    assert not compare(OBJECTS, live())


def test_what_the_apiserver_adds_is_no_drift() -> None:
    there = live()
    for item in there.values():
        item["metadata"] |= {"uid": "1", "resourceVersion": "7", "annotations": {"by": "others"}}
        item["status"] = {"phase": "Bound"}
    there["ClusterQueue", "", "project-vision"]["spec"]["stopPolicy"] = "None"
    there["PersistentVolume", "", "lab-vision"]["spec"]["claimRef"]["uid"] = "2"
    assert not compare(OBJECTS, there)


def test_missing_things_are_made_namespaces_before_what_lies_in_them() -> None:
    kinds = [item["kind"] for item, _ in compare(OBJECTS, {}).apply]
    assert len(kinds) == len(OBJECTS)
    assert kinds.index("Namespace") < kinds.index("ConfigMap") < kinds.index("RoleBinding")


def test_foreign_member_in_the_parameters_is_taken_out() -> None:
    there = live()
    there["ConfigMap", "project-vision", "labcluster-members"]["data"]["mallory"] = "0 0 0"
    [(item, seen)] = compare(OBJECTS, there).apply
    assert key_of(item) == ("ConfigMap", "project-vision", "labcluster-members")
    assert seen
    assert foreign(seen, item) == {"data": {"mallory": None}}
    assert not foreign(item, item)


def test_wider_network_policy_and_longer_list_of_subjects_are_drift() -> None:
    there = live()
    there["NetworkPolicy", "project-vision", "labcluster"]["spec"]["podSelector"] = {
        "matchLabels": {"no": "pod"}
    }
    there["RoleBinding", "project-vision", "labcluster-members"]["subjects"].append(
        {"kind": "User", "name": "eve"}
    )
    assert [item["kind"] for item, _ in compare(OBJECTS, there).apply] == ["NetworkPolicy", "RoleBinding"]


def test_binding_to_another_role_is_replaced() -> None:
    there = live()
    there["RoleBinding", "project-vision", "labcluster-members"]["roleRef"]["name"] = "cluster-admin"
    drift = compare(OBJECTS, there)
    assert [item["kind"] for item in drift.remove] == ["RoleBinding"]
    assert not drift.apply


def test_released_volume_is_replaced() -> None:
    there = live()
    there["PersistentVolume", "", "lab-vision"]["status"] = {"phase": "Released"}
    assert [key_of(item)[0] for item in compare(OBJECTS, there).remove] == ["PersistentVolume"]


def test_what_is_not_wanted_any_more_is_removed_once() -> None:
    there = live()
    extra = copy.deepcopy(there["ClusterQueue", "", "project-vision"])
    extra["metadata"]["name"] = "project-gone"
    there[key_of(extra)] = extra
    assert [path_of(item) for item in compare(OBJECTS, there).remove] == [
        "/apis/kueue.x-k8s.io/v1beta2/clusterqueues/project-gone"
    ]
    extra["metadata"]["deletionTimestamp"] = "now"
    assert not compare(OBJECTS, there)


def test_namespace_takes_its_contents_with_it() -> None:
    keep = [item for item in OBJECTS if item["kind"] in ("Cohort", "ClusterRole")]
    removed = [key_of(item)[0] for item in compare(keep, live()).remove]
    assert sorted(removed) == ["ClusterQueue", "Namespace", "PersistentVolume"]


def test_namespace_that_is_going_is_left_until_it_is_gone() -> None:
    there = live()
    there["Namespace", "", "project-vision"]["metadata"]["deletionTimestamp"] = "now"
    del there["ConfigMap", "project-vision", "labcluster-members"]
    assert not compare(OBJECTS, there)


def test_covers_compares_lists_as_wholes_and_maps_by_key() -> None:
    assert covers({"a": [{"b": 1, "default": 2}], "c": 3}, {"a": [{"b": 1}]})
    assert not covers({"a": [1, 2]}, {"a": [1]})
    assert covers({}, {"subjects": [], "spec": {}, "storageClassName": ""})
    assert not covers({"a": None}, {"a": 0})
