"""The outside world of the portal, in memory: each class stands for one adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from labcluster.errors import (
    LabclusterError,
    NotAuthenticatedError,
    NotFoundError,
    UnreachableError,
)
from labcluster.models.callers import Credential
from labcluster.models.runs import (
    Member,
    ProjectShare,
    Run,
)
from store_fakes import NOW

REGISTRY = "registry.lab.internal:5000"
DIGEST = "sha256:" + "a" * 64


def _rank(pod: dict[str, Any]) -> int:
    return int(pod["metadata"]["labels"].get("batch.kubernetes.io/job-completion-index", 0))


class FakeCluster:
    """Jobs, pods and nodes, as apiserver and as watch cache."""

    def __init__(self) -> None:
        self.lingering: set[str] = set()
        self.gone_pods: list[dict[str, Any]] = []
        self.released: list[str] = []
        self.policies: list[dict[str, Any]] = []
        self.members: dict[str, dict[str, Member]] = {}
        self.shares: dict[str, ProjectShare] = {}
        self.node_list: list[dict[str, Any]] = []
        self.jobs: dict[tuple[str, str], dict[str, Any]] = {}
        self.pod_list: list[dict[str, Any]] = []
        self.workloads: dict[str, dict[str, Any]] = {}
        self.created_by: list[str] = []
        self.deleted_by: list[str] = []
        self.failures: list[LabclusterError] = []
        self.refusal: LabclusterError | None = None
        self.listeners: list[Callable[[str], None]] = []
        self.is_fresh = True
        self.complaints: dict[str, str] = {}

    def join(self, project: str, user: str, uid: int, gid: int, gpus: int = 4, max_gpus: int = 8) -> None:
        self.members.setdefault(project, {})[user] = Member(user=user, uid=uid, gid=gid, groups=(gid,))
        self.shares[project] = ProjectShare(name=project, gid=gid, gpus=gpus, max_gpus=max_gpus)

    def add_node(self, name: str, gpus: int = 4, cpus: str = "8", memory: str = "32Gi") -> None:
        allocatable = {"cpu": cpus, "memory": memory, "nvidia.com/gpu": str(gpus)}
        self.node_list.append(
            {
                "metadata": {"name": name},
                "spec": {},
                "status": {
                    "allocatable": allocatable,
                    "conditions": [{"type": "Ready", "status": "True"}],
                },
            }
        )

    # JobApi
    def create(self, job: Any, user: str, *, dry_run: bool = False) -> str:
        if dry_run:
            if self.refusal:
                raise self.refusal
            return "judged"
        if self.failures:
            raise self.failures.pop(0)
        metadata = job["metadata"]
        self.created_by.append(user)
        uid = f"uid-{metadata['name']}"
        made = {**job, "metadata": {**metadata, "uid": uid}, "status": {}}
        self.jobs[metadata["namespace"], metadata["name"]] = made
        return uid

    def delete(self, namespace: str, name: str, user: str | None) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.deleted_by.append(user)
        job = self.jobs.get((namespace, name))
        if job is not None and name in self.lingering:
            # Its pods are not gone yet.
            job["metadata"]["deletionTimestamp"] = NOW.isoformat()
            return
        self.jobs.pop((namespace, name), None)

    def release_pod(self, namespace: str, name: str) -> None:
        self.released.append(name)
        self.pod_list = [pod for pod in self.pod_list if pod["metadata"]["name"] != name]

    def allow(self, policy: Any) -> None:
        self.policies.append(policy)

    def trouble(self, namespace: str, name: str) -> str | None:
        return self.complaints.get(name)

    def exists(self, namespace: str, name: str) -> bool:
        return (namespace, name) in self.jobs

    # ClusterView
    def memberships(self, user: str) -> dict[str, Member]:
        return {project: users[user] for project, users in self.members.items() if user in users}

    def user_by_uid(self, uid: int) -> str | None:
        everybody = [member for users in self.members.values() for member in users.values()]
        return next((member.user for member in everybody if member.uid == uid), None)

    def project(self, name: str) -> ProjectShare | None:
        return self.shares.get(name)

    def projects(self) -> list[ProjectShare]:
        return list(self.shares.values())

    def nodes(self) -> list[dict[str, Any]]:
        return self.node_list

    def pods(self) -> list[dict[str, Any]]:
        return self.pod_list

    def job(self, run: Run) -> dict[str, Any] | None:
        return self.jobs.get((run.namespace, run.job_name))

    def pod(self, run: Run, rank: int = 0) -> dict[str, Any] | None:
        return next((pod for pod in self.pods_of(run) if _rank(pod) == rank), None)

    def job_pods(self, run: Run, *, gone: bool = False) -> list[dict[str, Any]]:
        return self.gone_pods if gone else sorted(self.pods_of(run), key=_rank)

    def pods_of(self, run: Run) -> list[dict[str, Any]]:
        return [
            p for p in reversed(self.pod_list) if p["metadata"]["labels"]["labcluster.internal/run"] == run.id
        ]

    def workload(self, run: Run) -> dict[str, Any] | None:
        return self.workloads.get(run.id)

    def fresh(self) -> bool:
        return self.is_fresh

    def subscribe(self, listener: Callable[[str], None]) -> None:
        self.listeners.append(listener)

    # Lifecycle
    def start(self) -> None: ...
    def stop(self) -> None: ...


class FakeRegistry:
    """Tags by repository."""

    host = REGISTRY

    def __init__(self) -> None:
        self.images = {
            "common/python-ml": {"1.9": DIGEST, "1.10": "sha256:" + "b" * 64},
            "vision/net": {"1": DIGEST},
            "speech/asr": {"1": DIGEST},
            "labcluster/portal": {"0.1.0": DIGEST},
        }
        self.used = 0
        self.usage_away = False

    def digest(self, repository: str, tag: str) -> str | None:
        tags = self.images.get(repository, {})
        return tags.get(tag) or (tag if tag in tags.values() else None)

    def tags(self, repository: str) -> list[str]:
        return list(self.images.get(repository, {}))

    def repositories(self) -> list[str]:
        return list(self.images)

    def size(self, repository: str, digest: str) -> int | None:
        return 1000

    def remove(self, repository: str, digest: str) -> bool:
        tags = self.images[repository]
        self.images[repository] = {tag: found for tag, found in tags.items() if found != digest}
        return len(tags) != len(self.images[repository])

    def login(self, user: str, *, admin: bool) -> tuple[str, int]:
        return f"password-of-{user}{'-admin' if admin else ''}", 3600

    def usage(self) -> dict[str, int]:
        if self.usage_away:
            raise UnreachableError("the registry's token service does not answer")
        return {"vision": self.used}


class FakeLogs:
    """Logs by pod name: each opening gives the next list of lines."""

    def __init__(self) -> None:
        self.streams: dict[str, list[list[bytes]]] = {}
        self.opened: list[tuple[str, str | None, str | None]] = []

    def open(
        self, namespace: str, pod: str, *, user: str | None, follow: bool, since: str | None = None
    ) -> FakeLog:
        self.opened.append((pod, user, since))
        if not self.streams.get(pod):
            raise NotFoundError(f"pods {pod!r} not found")
        return FakeLog(self.streams[pod].pop(0))


class FakeLog:
    """One opening of a log."""

    def __init__(self, lines: list[bytes]) -> None:
        self.lines = lines

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.lines)

    def close(self) -> None: ...


class FakeMunge:
    """Credentials of the form `<uid>:<anything>`; each is good once, and says what `payloads` holds."""

    def __init__(self) -> None:
        self.payloads: dict[str, bytes] = {}
        self.seen: set[str] = set()

    def decode(self, credential: str) -> Credential:
        if credential in self.seen or credential not in self.payloads:
            raise NotAuthenticatedError("the munge credential is refused")
        self.seen.add(credential)
        return Credential(int(credential.split(":")[0]), self.payloads[credential])


def pod_of(
    run: Run,
    *,
    node: str | None = "gpu1",
    state: dict[str, Any] | None = None,
    rank: int = 0,
    **status: Any,
) -> dict[str, Any]:
    """A pod of a run with the state of its main container."""
    containers = [{"name": "run", "state": state}] if state else []
    return {
        "metadata": {
            "name": f"{run.job_name}-{rank}-x7" if rank else f"{run.job_name}-x7",
            "namespace": run.namespace,
            "labels": {
                "labcluster.internal/run": run.id,
                "batch.kubernetes.io/job-completion-index": str(rank),
            },
            "creationTimestamp": NOW.isoformat(),
        },
        "spec": {
            "nodeName": node,
            "containers": [
                {
                    "name": "run",
                    "resources": {"requests": {"cpu": "1", "memory": "4Gi", "nvidia.com/gpu": str(run.gpus)}},
                }
            ],
        },
        "status": {"containerStatuses": containers, **status},
    }
