"""Objects of the tests that need an apiserver."""

from __future__ import annotations

from typing import Any

from labcluster.adapters.kube import KubeApi
from labcluster.models.members import Directory, Group, Member
from labcluster.models.projects import Project, ProjectSpec
from labcluster.services.manifests import Capacity
from labcluster.services.namespaces import Plan, plan


def site() -> Plan:
    """ada and eve in vision, bo in speech, all in shared."""
    people = {"ada": 20000, "bo": 20001, "eve": 20002}
    groups = {"vision": (30000, "ada eve"), "speech": (30001, "bo"), "shared": (30002, "ada bo eve")}
    gpus = {"vision": (2, 4), "speech": (2, 2), "shared": (0, 8)}
    directory = Directory(
        members={
            name: Member(name=name, uid=uid, full_name=name.title(), home=f"/lab/home/{name}")
            for name, uid in people.items()
        },
        groups={
            name: Group(name=name, gid=gid, members=tuple(users.split()))
            for name, (gid, users) in groups.items()
        },
    )
    projects = [
        Project(name=name, spec=ProjectSpec(gid=gid, gpus=gpus[name][0], max_gpus=gpus[name][1]))
        for name, (gid, _) in groups.items()
    ]
    return plan(directory, projects, Capacity(8, 8000, 2**24))


def apply(api: KubeApi, *items: dict[str, Any]) -> None:
    """Server-side apply of any object, wherever its kind is."""
    for item in items:
        group = item["apiVersion"]
        root = f"/api/{group}" if "/" not in group else f"/apis/{group}"
        namespace = item["metadata"].get("namespace")
        middle = f"/namespaces/{namespace}" if namespace else ""
        kind = item["kind"].lower()
        plural = kind[:-1] + "ies" if kind.endswith("y") else kind + ("es" if kind.endswith("s") else "s")
        api.apply(f"{root}{middle}/{plural}/{item['metadata']['name']}", item, manager="integration")
