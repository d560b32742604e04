"""Random objects that a member, or something that acts for one, might send: Hypothesis strategies.

An object begins as a plain manifest and is twisted some times. Every twist is valid by the schema, or
nearly so: what the schema refuses tells nothing about the policies. Half of the twists are harmless, so
that what is accepted is odd too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from members import CARELESS, JOB_CONTROLLER, REGISTRY
from values import (
    CONTAINER_FIELDS,
    FLAG,
    IMAGE,
    KEYS,
    MOUNT,
    OWNER,
    POD_FIELDS,
    SERVICE_FIELDS,
    USERS,
    VALUES,
    VOLUME,
    one,
)

from tests import attacks

Item = dict[str, Any]
Draw = Callable[[st.SearchStrategy[Any]], Any]

HUB = "system:serviceaccount:labcluster:hub"


@dataclass(frozen=True)
class Request:
    """One request: who asks, in which group, for what."""

    user: str | None
    group: str | None
    item: Item
    #: Instead of a creation: these ephemeral containers are put into a running pod.
    ephemeral: list[Item] | None = None


def _twist_pod(draw: Draw, spec: Item) -> None:
    name = draw(st.sampled_from(sorted(POD_FIELDS)))
    spec[name] = draw(POD_FIELDS[name])


def _twist_container(draw: Draw, spec: Item) -> None:
    containers = spec["containers"] + spec.get("initContainers", [])
    container = draw(st.sampled_from(containers))
    name = draw(st.sampled_from(sorted(CONTAINER_FIELDS)))
    container[name] = draw(CONTAINER_FIELDS[name])


def _twist_files(draw: Draw, spec: Item) -> None:
    volume = draw(VOLUME)
    spec["volumes"] = [v for v in spec.get("volumes", []) if v["name"] != volume["name"]] + [volume]
    if draw(FLAG):
        container = draw(st.sampled_from(spec["containers"] + spec.get("initContainers", [])))
        mount = draw(MOUNT)
        mount["name"] = draw(st.sampled_from([v["name"] for v in spec["volumes"]]))
        if "subPath" in mount:
            mount.pop("subPathExpr", None)
        container.setdefault("volumeMounts", []).append(mount)


def _twist_containers(draw: Draw, spec: Item) -> None:
    if draw(FLAG):
        spec.pop("initContainers", None)
        return
    more = {"name": "more", "image": draw(IMAGE), "securityContext": dict(attacks.HARDENED)}
    place = draw(one("containers", "initContainers"))
    if place == "initContainers" and draw(FLAG):
        more["restartPolicy"] = "Always"
    if all(c["name"] != "more" for c in spec["containers"] + spec.get("initContainers", [])):
        spec.setdefault(place, []).append(more)


def _twist_metadata(draw: Draw, metadata: Item) -> None:
    what = draw(
        one("labels", "labels", "annotations", "annotations", "ownerReferences", "finalizers", "name")
    )
    if what in ("labels", "annotations"):
        key = draw(KEYS)
        metadata.setdefault(what, {})[key] = draw(USERS) if key == attacks.USER else draw(VALUES)
    elif what == "ownerReferences":
        metadata[what] = [draw(OWNER)]
    elif what == "finalizers":
        metadata[what] = draw(one(["example.com/x"], ["foregroundDeletion"], ["kueue.x-k8s.io/managed"]))
    else:
        metadata[what] = draw(one("run-vision-7", "other"))


def _twist_job(draw: Draw, spec: Item) -> None:
    field = draw(
        one("parallelism", "suspend", "manualSelector", "managedBy", "completionMode", "backoffLimit")
    )
    spec[field] = {
        "parallelism": draw(one(0, 1, 2, 5, 1000)),
        "suspend": draw(FLAG),
        "manualSelector": False,
        "managedBy": "example.com/mine",
        "completionMode": "NonIndexed",
        "backoffLimit": 0,
    }[field]
    if field == "manualSelector" and draw(FLAG):
        spec["manualSelector"] = True
        spec["selector"] = {"matchLabels": {"labcluster.internal/project": "vision"}}
        metadata = spec["template"].setdefault("metadata", {})
        metadata.setdefault("labels", {})["labcluster.internal/project"] = "vision"


_TWISTS = [_twist_pod, _twist_pod, _twist_container, _twist_container, _twist_files, _twist_containers]


@st.composite
def requests(draw: Draw) -> Request:
    """Any request of a member, of somebody else, or of something that acts for a member."""
    kind = draw(one("Job", "Job", "Job", "Pod", "Pod", "Pod", "other", "other", "Service", "ephemeral"))
    if kind == "Service":
        item = attacks.service()
        for _ in range(draw(st.integers(0, 2))):
            name = draw(st.sampled_from(sorted(SERVICE_FIELDS)))
            item["spec"][name] = draw(SERVICE_FIELDS[name])
        if draw(FLAG):
            _twist_metadata(draw, item["metadata"])
        return Request("ada", draw(one(None, CARELESS)), item)
    if kind == "ephemeral":
        container = {
            "name": "debug",
            "image": draw(IMAGE),
            "securityContext": draw(one(attacks.HARDENED, {**attacks.HARDENED, "runAsUser": 20000})),
            "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}],
        }
        for _ in range(draw(st.integers(0, 2))):
            name = draw(one("securityContext", "env", "envFrom", "image", "volumeMounts", "volumeDevices"))
            container[name] = draw(
                MOUNT.map(lambda m: [m]) if name == "volumeMounts" else CONTAINER_FIELDS[name]
            )
        return Request(draw(one(None, HUB)), CARELESS, {}, [container])
    if kind == "Job":
        item = attacks.job(REGISTRY)
    elif kind == "Pod":
        item = attacks.pod(REGISTRY)
    else:
        item = draw(st.sampled_from(attacks.others(REGISTRY)))
    user, group = draw(
        one(("ada", None), ("ada", None), ("ada", CARELESS), (HUB, CARELESS), (None, None), ("bo", CARELESS))
        if kind != "other"
        else one((HUB, CARELESS), (None, None), (None, None), ("ada", CARELESS))
    )
    if user != "ada":
        item["metadata"]["labels"][attacks.USER] = draw(one("ada", "ada", "eve", "eve", "bo", "nobody"))
    if kind == "Pod" and draw(FLAG) and draw(FLAG):
        # As the Job controller makes it.
        user, group = JOB_CONTROLLER, None
        item["metadata"]["labels"] = {attacks.USER: draw(USERS)}
        item["metadata"]["ownerReferences"] = [{**draw(OWNER), "controller": True}]
    where = attacks.TEMPLATES.get(item["kind"], "" if kind == "Pod" else "spec.template")
    template = item
    for step in where.split(".") if where else []:
        template = template[step]
    twists = draw(one(0, 1, 1, 2, 2, 3, 4))
    if draw(st.integers(0, 2)) == 0:
        # A named attack, nearly alone: what else is refused would hide that it is not.
        _, path, value = draw(st.sampled_from(attacks.TEMPLATE))
        attacks.put(template, path, attacks.fill(value, REGISTRY))
        twists = min(twists, 1)
    for _ in range(twists):
        what = draw(st.integers(0, 9))
        if what <= 6:
            draw(st.sampled_from(_TWISTS))(draw, template["spec"])
        elif what == 7:
            _twist_metadata(draw, item["metadata"])
        elif what == 8:
            _twist_metadata(draw, template.setdefault("metadata", {}))
        elif kind == "Job":
            _twist_job(draw, item["spec"])
        elif item["kind"] in ("Deployment", "ReplicaSet", "StatefulSet", "ReplicationController"):
            item["spec"]["replicas"] = draw(one(1, 5, 1000))
    return Request(user, group, item)
