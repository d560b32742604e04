"""The cluster as the watches last saw it, with the indexes that requests need."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from labcluster.adapters.kube import Json, KubeApi
from labcluster.adapters.watch import WatchCache
from labcluster.models import labels
from labcluster.models.runs import Member, ProjectShare, Run

MEMBERS = "labcluster-members"
_NAMESPACE_PREFIX = "project-"


class KubeView:
    """Watch caches of all kinds that runs are about; `follow_jobs` adds those of the reconciler."""

    def __init__(self, api: KubeApi, *, follow_jobs: bool) -> None:
        self._pods = WatchCache(api, "/api/v1/pods", trim=_trim_pod)
        self._nodes = WatchCache(api, "/api/v1/nodes", trim=_trim_node)
        self._members = WatchCache(api, "/api/v1/configmaps", field_selector=f"metadata.name={MEMBERS}")
        self._projects = WatchCache(api, "/apis/labcluster.internal/v1/projects")
        self._caches = {
            "pods": self._pods,
            "nodes": self._nodes,
            "members": self._members,
            "projects": self._projects,
        }
        self._jobs: WatchCache | None = None
        self._lock = threading.Lock()
        self._pods_of_run: dict[str, dict[str, Json]] = {}
        # How pods looked at their end: kept as long as their Job, which may be judged after them.
        self._gone_of_run: dict[str, dict[str, Json]] = {}
        self._workload_of_job: dict[str, Json] = {}
        self._members_of: dict[str, dict[str, Member]] = {}
        self._run_listeners: list[Callable[[str], None]] = []
        self._pods.subscribe(self._on_pod)
        self._members.subscribe(self._on_members)
        if follow_jobs:
            self._jobs = WatchCache(api, "/apis/batch/v1/jobs", label_selector=labels.RUN)
            workloads = WatchCache(api, "/apis/kueue.x-k8s.io/v1beta2/workloads")
            self._caches |= {"jobs": self._jobs, "workloads": workloads}
            self._jobs.subscribe(self._on_job)
            workloads.subscribe(self._on_workload)

    def start(self) -> None:
        """Start all watches."""
        for cache in self._caches.values():
            cache.start()

    def stop(self) -> None:
        """End all watches."""
        for cache in self._caches.values():
            cache.stop()

    def wait_synced(self, seconds: float) -> list[str]:
        """Names of the kinds that had no first list within `seconds`; empty is good."""
        end = time.monotonic() + seconds
        return [
            kind
            for kind, cache in self._caches.items()
            if not cache.wait_synced(max(0.0, end - time.monotonic()))
        ]

    def fresh(self) -> bool:
        """Whether every watch has had its first list and is open."""
        return all(cache.wait_synced(0) and cache.age_seconds == 0.0 for cache in self._caches.values())

    def subscribe(self, listener: Callable[[str], None]) -> None:
        """Call `listener(run id)` whenever something of a run changes."""
        self._run_listeners.append(listener)

    def memberships(self, user: str) -> Mapping[str, Member]:
        """The projects of a user, by name."""
        with self._lock:
            return {
                project: members[user] for project, members in self._members_of.items() if user in members
            }

    def user_by_uid(self, uid: int) -> str | None:
        """The member with this uid."""
        with self._lock:
            for members in self._members_of.values():
                for member in members.values():
                    if member.uid == uid:
                        return member.user
        return None

    def project(self, name: str) -> ProjectShare | None:
        """One project."""
        found = self._projects.get("", name)
        return _share(found) if found else None

    def projects(self) -> Sequence[ProjectShare]:
        """All projects."""
        return [_share(item) for item in self._projects.items()]

    def nodes(self) -> Sequence[Json]:
        """All nodes."""
        return self._nodes.items()

    def pods(self) -> Sequence[Json]:
        """All pods."""
        return self._pods.items()

    def job(self, run: Run) -> Json | None:
        """The run's Job."""
        if self._jobs is None:
            raise RuntimeError("this view does not follow Jobs")
        return self._jobs.get(run.namespace, run.job_name)

    def pod(self, run: Run, rank: int = 0) -> Json | None:
        """The run's newest pod of that rank."""
        return next((pod for pod in self.pods_of(run) if _rank(pod) == rank), None)

    def pods_of(self, run: Run) -> Sequence[Json]:
        """All pods of the run, newest first."""
        mine = self._mine(self._pods_of_run, run)
        return sorted(mine, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), reverse=True)

    def job_pods(self, run: Run, *, gone: bool = False) -> Sequence[Json]:
        """The pods of the run's present Job by rank; with `gone` those that are gone, as last seen."""
        job = self.job(run)
        uid = job["metadata"]["uid"] if job else None
        pods = self._mine(self._gone_of_run if gone else self._pods_of_run, run)
        return sorted(
            (pod for pod in pods if pod["metadata"].get("labels", {}).get(labels.JOB_UID) == uid), key=_rank
        )

    def _mine(self, pods: Mapping[str, Mapping[str, Json]], run: Run) -> list[Json]:
        with self._lock:
            found = list(pods.get(run.id, {}).values())
        return [pod for pod in found if pod["metadata"]["namespace"] == run.namespace]

    def workload(self, run: Run) -> Json | None:
        """What Kueue made of the run's Job."""
        job = self.job(run)
        with self._lock:
            return self._workload_of_job.get(job["metadata"]["uid"]) if job else None

    def _on_pod(self, change: str, pod: Json) -> None:
        run = pod["metadata"].get("labels", {}).get(labels.RUN)
        if not run:
            return
        name = pod["metadata"]["name"]
        with self._lock:
            pods = self._pods_of_run.setdefault(run, {})
            if change == "DELETED":
                pods.pop(name, None)
                job = pod["metadata"]["labels"].get(labels.JOB_NAME, "")
                if self._jobs is not None and self._jobs.get(pod["metadata"]["namespace"], job):
                    self._gone_of_run.setdefault(run, {})[name] = pod
            else:
                pods[name] = pod
            if not pods:
                del self._pods_of_run[run]
        self._tell(run)

    def _on_job(self, change: str, job: Json) -> None:
        run = job["metadata"]["labels"][labels.RUN]
        if change == "DELETED":
            with self._lock:
                self._gone_of_run.pop(run, None)
        self._tell(run)

    def _on_workload(self, change: str, workload: Json) -> None:
        run = None
        for owner in workload["metadata"].get("ownerReferences") or []:
            if owner["kind"] != "Job":
                continue
            with self._lock:
                if change == "DELETED":
                    self._workload_of_job.pop(owner["uid"], None)
                else:
                    self._workload_of_job[owner["uid"]] = workload
            job = self._jobs.get(workload["metadata"]["namespace"], owner["name"]) if self._jobs else None
            run = job["metadata"]["labels"][labels.RUN] if job else None
        if run:
            self._tell(run)

    def _on_members(self, change: str, config_map: Json) -> None:
        namespace = config_map["metadata"]["namespace"]
        if not namespace.startswith(_NAMESPACE_PREFIX):
            return
        project = namespace.removeprefix(_NAMESPACE_PREFIX)
        members = {} if change == "DELETED" else _members(config_map.get("data") or {})
        with self._lock:
            self._members_of[project] = members

    def _tell(self, run: str) -> None:
        for listener in self._run_listeners:
            listener(run)


def _rank(pod: Json) -> int:
    return int(pod["metadata"].get("labels", {}).get(labels.RANK, 0))


def _members(data: Mapping[str, str]) -> dict[str, Member]:
    """`ada: "20001 30001 30001,30003"`; an entry that is not of this form is nobody."""
    members = {}
    for user, value in data.items():
        try:
            uid, gid, groups = value.split()
            numbers = tuple(int(number) for number in groups.split(","))
            members[user] = Member(user=user, uid=int(uid), gid=int(gid), groups=numbers)
        except ValueError:
            continue
    return members


def _share(project: Json) -> ProjectShare:
    spec: dict[str, Any] = project.get("spec") or {}
    gpus = int(spec.get("gpus", 0))
    return ProjectShare(
        name=project["metadata"]["name"],
        gid=int(spec.get("gid", 0)),
        gpus=gpus,
        max_gpus=int(spec.get("maxGpus", gpus)),
        storage_gib=int(spec.get("storageGiB", 0)),
        registry_gib=int(spec.get("registryGiB", 0)),
    )


def _trim_pod(pod: Json) -> Json:
    """Without what nobody reads here: pods are by far the most numerous objects."""
    metadata, spec = pod["metadata"], pod["spec"]
    slim = [{"name": c["name"], "resources": c.get("resources", {})} for c in spec.get("containers", [])]
    init = [
        {"name": c["name"], "resources": c.get("resources", {}), "restartPolicy": c.get("restartPolicy")}
        for c in spec.get("initContainers") or []
    ]
    kept = ("name", "namespace", "uid", "labels", "creationTimestamp", "deletionTimestamp", "resourceVersion")
    return {
        "metadata": {key: metadata[key] for key in kept if key in metadata},
        "spec": {"nodeName": spec.get("nodeName"), "containers": slim, "initContainers": init},
        "status": pod.get("status", {}),
    }


def _trim_node(node: Json) -> Json:
    node["metadata"].pop("managedFields", None)
    node.get("status", {}).pop("images", None)
    return node
