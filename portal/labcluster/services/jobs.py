"""The Kubernetes Job that a run becomes."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping
from typing import Any

from labcluster.models import labels, quantities
from labcluster.models.runs import Run, RunView
from labcluster.models.settings import JobSettings
from labcluster.services.experiments import has_experiments
from labcluster.services.nodes import GPU, Amount
from labcluster.services.parameters import fill

CONTAINER = "run"
#: The sidecar that brings the record to MLflow.
RECORDER = "record"
# Of a core and of memory; it is limited to more, which nothing else is kept from.
_RECORDER_ASKS = {"cpu": "10m", "memory": "40Mi"}
_RECORDER_LIMITS = {"cpu": "500m", "memory": "64Mi"}
RECORDER_NEEDS = Amount(0, quantities.parse("10m"), int(quantities.parse("40Mi")))
#: What a pod proves to the portal whose it is with; kubelet renews the file.
AUDIENCE = "labcluster"
_TOKENS = "/var/run/secrets/labcluster/token"
# A program's own mlflow calls have the token that was there when it began: good for as long as that may run.
_TOKEN_SECONDS = 86400
_LONGEST_SECONDS = 31 * 86400
_TOOLS = "/labcluster"
# The Service of a project that gives the pods of its gangs names.
GANG_SERVICE = "runs"
_GANG_PORT = 29500
_DISK = "ephemeral-storage"
# labrun keeps the time limit; the cluster steps in only if it does not, and counts the start too.
_BACKSTOP_SECONDS = 3600


def job(run: Run, settings: JobSettings, registry: str) -> dict[str, Any]:
    """The Job, to be created under the user's own name.

    It says nothing about uid and gid: the admission policy writes them from LDAP, so that there is one
    place that knows them, and a Job without it is refused by `runAsNonRoot`.
    """
    marks = {
        labels.PROJECT: run.project,
        labels.USER: run.user,
        labels.RUN: run.id,
        labels.KIND: "batch",
        "app.kubernetes.io/managed-by": "labcluster",
    }
    if run.nodes > 1:
        marks[labels.GANG] = "true"
    spec: dict[str, Any] = {
        # Kueue takes it from here; without Kueue it must not start past the queue.
        "suspend": True,
        "backoffLimit": 0,
        "ttlSecondsAfterFinished": settings.ttl_seconds,
        "template": {"metadata": {"labels": marks}, "spec": _pod(run, settings, registry)},
    }
    if run.time_seconds:
        spec["activeDeadlineSeconds"] = run.time_seconds + _BACKSTOP_SECONDS
    if run.nodes > 1:
        # Kueue admits all of them or none; one that fails ends all (backoffLimit).
        spec |= {"completions": run.nodes, "parallelism": run.nodes, "completionMode": "Indexed"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": run.job_name,
            "namespace": run.namespace,
            "labels": {**marks, labels.QUEUE: "default", labels.PRIORITY: f"labcluster-{run.priority}"},
            # Tells this run's Job from one of the same number before a restored database, and from that
            # of an earlier attempt.
            "annotations": {
                labels.SUBMITTED: run.submitted_at.isoformat(),
                labels.ATTEMPT: str(run.attempt),
            },
        },
        "spec": spec,
    }


def attempt_of(job: Mapping[str, Any]) -> int:
    """Which attempt of its run a Job was made for."""
    return int((job["metadata"].get("annotations") or {}).get(labels.ATTEMPT, 1))


def gang_policy(run: Run, job_uid: str) -> dict[str, Any]:
    """What lets the pods of one run reach one another, and nobody else; it goes with the Job."""
    mine: dict[str, Any] = {"podSelector": {"matchLabels": {labels.RUN: run.id}}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            "name": run.job_name,
            "namespace": run.namespace,
            "labels": {labels.PROJECT: run.project, labels.RUN: run.id},
            "ownerReferences": [
                {"apiVersion": "batch/v1", "kind": "Job", "name": run.job_name, "uid": job_uid}
            ],
        },
        "spec": {
            **mine,
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [mine]}],
            "egress": [{"to": [mine]}],
        },
    }


def _pod(run: Run, settings: JobSettings, registry: str) -> dict[str, Any]:
    if not has_experiments(run.project):
        settings = settings.model_copy(update={"record": None})
    memory = quantities.parse(run.memory)
    mine = {"cpu": quantities.show_cpus(run.cpus), "memory": run.memory}
    resources = mine | ({GPU: str(run.gpus)} if run.gpus else {})
    # The node's own disk is scarce and shared: nothing of it is promised, and more than this is not given.
    limits = {**resources, _DISK: settings.disk}
    requests = {**resources, _DISK: "0"}
    tools = {"name": "labcluster", "mountPath": _TOOLS}
    lab = {"name": "lab", "mountPath": "/lab"}
    gang = {"subdomain": GANG_SERVICE} if run.nodes > 1 else {}
    command = fill(run.command, run.params)
    repository = run.image.removeprefix(f"{registry}/").split(":", 1)[0]
    return {
        **gang,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": settings.grace_seconds,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "tolerations": [
            {
                "key": f"node.kubernetes.io/{trouble}",
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": settings.node_loss_seconds,
            }
            for trouble in ("not-ready", "unreachable")
        ],
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "initContainers": [
            {
                "name": "prepare",
                "image": settings.runner_image,
                # With the command as it is started: run.json has it as it was given.
                "command": ["/labrun", "prepare", "--", *map(literal, command)],
                "env": _env(
                    {**_own_env(run, settings), **record_env(settings), "LABCLUSTER_RUN": _run_json(run)},
                    run,
                    init=True,
                ),
                # Of init containers and the others the larger counts: hashing data with all that the run has
                # costs nobody anything.
                "resources": {"requests": mine | {_DISK: "0"}, "limits": mine | {_DISK: settings.disk}},
                "securityContext": locked(),
                # Its last line is the reason that the user is told when it fails.
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "volumeMounts": [tools, lab],
            },
            *_sidecar(run, settings, [tools, lab]),
        ],
        "containers": [
            {
                "name": CONTAINER,
                "image": f"{registry}/{repository}@{run.image_digest}",
                "command": [f"{_TOOLS}/labrun", "exec", "--", *map(literal, command)],
                "workingDir": workdir(run),
                "env": [*_env({**run.env, **_own_env(run, settings)}, run), NODE_NAME],
                "resources": {"requests": requests, "limits": limits},
                "securityContext": locked(),
                "volumeMounts": [
                    tools,
                    lab,
                    {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
                    *token_mounts(settings),
                ],
            }
        ],
        "volumes": [
            {"name": "labcluster", "emptyDir": {"sizeLimit": "64Mi"}},
            {"name": "lab", "persistentVolumeClaim": {"claimName": "lab"}},
            # Counted in the memory limit by the kernel, so that half of it is the most it may be.
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{int(memory // 2)}"}},
            *token_volumes(settings, run.time_seconds),
        ],
    }


#: The name of the node that a container is on.
NODE_NAME: dict[str, Any] = {
    "name": "LABCLUSTER_NODE",
    "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}},
}


def _sidecar(run: Run, settings: JobSettings, mounts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The recorder: it starts before the command, ends after it, and never decides over the run."""
    if settings.record is None:
        return []
    return [
        {
            "name": RECORDER,
            "image": settings.runner_image,
            "command": ["/labrun", "record"],
            "restartPolicy": "Always",
            "env": _env({**_own_env(run, settings), **record_env(settings)}, run, init=True),
            "resources": {"requests": _RECORDER_ASKS, "limits": _RECORDER_LIMITS},
            "securityContext": locked(),
            "volumeMounts": [*mounts, *token_mounts(settings)],
        }
    ]


def record_env(settings: JobSettings) -> dict[str, str]:
    """What a recorder is told of the portal and of its limits."""
    record = settings.record
    if record is None:
        return {}
    return {
        "LABCLUSTER_CA": record.ca,
        "LABCLUSTER_PORTAL_PAGE": record.page_url or record.portal_url,
        "LABCLUSTER_RECORD_FILE_MIB": str(record.file_mib),
        "LABCLUSTER_RECORD_FILES_MIB": str(record.files_mib),
        "LABCLUSTER_RECORD_LOG_MIB": str(record.log_mib),
    }


def token_mounts(settings: JobSettings) -> list[dict[str, Any]]:
    """Where a container finds the pod's proof."""
    return [{"name": "token", "mountPath": _TOKENS, "readOnly": True}] if settings.record else []


def token_volumes(settings: JobSettings, time_seconds: int | None) -> list[dict[str, Any]]:
    """The pod's proof to the portal, which is of no use to Kubernetes' own API."""
    if settings.record is None:
        return []
    seconds = max(
        _TOKEN_SECONDS, min(time_seconds + 7200 if time_seconds else _LONGEST_SECONDS, _LONGEST_SECONDS)
    )
    source = {"audience": AUDIENCE, "path": "token", "expirationSeconds": seconds}
    return [{"name": "token", "projected": {"sources": [{"serviceAccountToken": source}]}}]


def workdir(run: Run) -> str:
    """Where the command starts: in the run's own copy of the code, if it was captured."""
    if run.code is None:
        return run.workdir
    return posixpath.join(run.directory, "code", run.code.subdir).rstrip("/")


def warning_seconds(time_seconds: int, settings: JobSettings) -> int:
    """How long before its time limit a run gets SIGTERM: a tenth of the limit, within 1 s and the setting."""
    return max(1, min(settings.warning_seconds, time_seconds // 10))


def _own_env(run: Run, settings: JobSettings) -> dict[str, str]:
    home = f"/lab/home/{run.user}"
    more: dict[str, str] = {}
    if run.time_seconds:
        more["LABCLUSTER_TIME_SECONDS"] = str(run.time_seconds)
        more["LABCLUSTER_WARNING_SECONDS"] = str(warning_seconds(run.time_seconds, settings))
    if run.seed is not None:
        more["LABCLUSTER_SEED"] = str(run.seed)
    if run.array_index is not None:
        more["LABCLUSTER_ARRAY_ID"] = str(run.array_id)
        more["LABCLUSTER_ARRAY_INDEX"] = str(run.array_index)
        more["LABCLUSTER_ARRAY_SIZE"] = str(run.array_size)
    if settings.record:
        more["LABCLUSTER_PORTAL"] = settings.record.portal_url
    if run.nodes > 1:
        more |= {
            "MASTER_ADDR": f"{run.job_name}-0.{GANG_SERVICE}",
            "MASTER_PORT": str(_GANG_PORT),
            "WORLD_SIZE": str(run.nodes),
            "NCCL_SOCKET_IFNAME": settings.gang_interface,
            "GLOO_SOCKET_IFNAME": settings.gang_interface,
        }
    return {
        **more,
        "LABCLUSTER_ATTEMPT": str(run.attempt),
        "LABCLUSTER_NODES": str(run.nodes),
        "LABCLUSTER_RUN_ID": run.id,
        "LABCLUSTER_RUN_DIR": run.directory,
        "LABCLUSTER_ARTIFACTS_DIR": f"{run.directory}/artifacts",
        "LABCLUSTER_ARTIFACTS": f"{run.directory}/artifacts",
        "LABCLUSTER_METRICS": f"{run.directory}/metrics.jsonl",
        "LABCLUSTER_PARAMS": json.dumps(run.params, separators=(",", ":")),
        "LABCLUSTER_SUBMIT_DIR": run.workdir,
        "LABCLUSTER_PROJECT": run.project,
        "HOME": run.env.get("HOME", home),
        "USER": run.user,
        "LOGNAME": run.user,
    }


def _env(values: dict[str, str], run: Run, *, init: bool = False) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = [
        {"name": name, "value": literal(value)} for name, value in values.items()
    ]
    if run.nodes > 1:
        # One process a pod is the simplest case, in which it is also the rank.
        index = {"fieldRef": {"fieldPath": f"metadata.annotations['{labels.RANK}']"}}
        entries += [{"name": name, "valueFrom": index} for name in ("NODE_RANK", "RANK")]
    if init or not run.gpus:
        # An image may ask for all GPUs in its own environment; this answers for it.
        entries.append({"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"})
    return entries


def _run_json(run: Run) -> str:
    return json.dumps(
        RunView.of(run).model_dump(mode="json", exclude={"reproductions"}), separators=(",", ":")
    )


def literal(text: str) -> str:
    """Kubernetes expands $(NAME) in commands and values; the user's text must arrive as he wrote it."""
    return text.replace("$", "$$")


def locked() -> dict[str, Any]:
    """The security context of a container that may do nothing beyond its user's rights."""
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
