"""The Kubernetes Job that a run becomes."""

from __future__ import annotations

import json
from typing import Any

from labcluster.models import labels, quantities
from labcluster.models.runs import Run, RunView
from labcluster.models.settings import JobSettings
from labcluster.services.nodes import GPU

CONTAINER = "run"
_TOOLS = "/labcluster"


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
    spec: dict[str, Any] = {
        # Kueue takes it from here; without Kueue it must not start past the queue.
        "suspend": True,
        "backoffLimit": 0,
        "ttlSecondsAfterFinished": settings.ttl_seconds,
        "template": {"metadata": {"labels": marks}, "spec": _pod(run, settings, registry)},
    }
    if run.time_seconds:
        spec["activeDeadlineSeconds"] = run.time_seconds
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": run.job_name,
            "namespace": run.namespace,
            "labels": {**marks, labels.QUEUE: "default"},
            # Tells this run's Job from one of the same number before a restored database.
            "annotations": {labels.SUBMITTED: run.submitted_at.isoformat()},
        },
        "spec": spec,
    }


def _pod(run: Run, settings: JobSettings, registry: str) -> dict[str, Any]:
    memory = quantities.parse(run.memory)
    resources: dict[str, str] = {"cpu": quantities.show_cpus(run.cpus), "memory": run.memory}
    if run.gpus:
        resources[GPU] = str(run.gpus)
    tools = {"name": "labcluster", "mountPath": _TOOLS}
    lab = {"name": "lab", "mountPath": "/lab"}
    small = {"cpu": "100m", "memory": "64Mi"}
    repository = run.image.removeprefix(f"{registry}/").split(":", 1)[0]
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": settings.grace_seconds,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "initContainers": [
            {
                "name": "prepare",
                "image": settings.runner_image,
                "command": ["/labrun", "prepare"],
                "env": _env({**_own_env(run), "LABCLUSTER_RUN": _run_json(run)}, run.gpus > 0, init=True),
                "resources": {"requests": small, "limits": small},
                "securityContext": _locked(),
                # Its last line is the reason that the user is told when it fails.
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "volumeMounts": [tools, lab],
            }
        ],
        "containers": [
            {
                "name": CONTAINER,
                "image": f"{registry}/{repository}@{run.image_digest}",
                "command": [f"{_TOOLS}/labrun", "exec", "--", *map(_literal, run.command)],
                "workingDir": run.workdir,
                "env": _env({**run.env, **_own_env(run)}, run.gpus > 0),
                "resources": {"requests": resources, "limits": resources},
                "securityContext": _locked(),
                "volumeMounts": [tools, lab, {"name": "shm", "mountPath": "/dev/shm"}],  # noqa: S108
            }
        ],
        "volumes": [
            {"name": "labcluster", "emptyDir": {"sizeLimit": "64Mi"}},
            {"name": "lab", "persistentVolumeClaim": {"claimName": "lab"}},
            # Counted in the memory limit by the kernel, so that half of it is the most it may be.
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{int(memory // 2)}"}},
        ],
    }


def _own_env(run: Run) -> dict[str, str]:
    home = f"/lab/home/{run.user}"
    return {
        "LABCLUSTER_RUN_ID": run.id,
        "LABCLUSTER_RUN_DIR": run.directory,
        "LABCLUSTER_ARTIFACTS_DIR": f"{run.directory}/artifacts",
        "LABCLUSTER_PROJECT": run.project,
        "HOME": run.env.get("HOME", home),
        "USER": run.user,
        "LOGNAME": run.user,
    }


def _env(values: dict[str, str], gpus: bool, *, init: bool = False) -> list[dict[str, str]]:
    entries = [{"name": name, "value": _literal(value)} for name, value in values.items()]
    if init or not gpus:
        # An image may ask for all GPUs in its own environment; this answers for it.
        entries.append({"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"})
    return entries


def _run_json(run: Run) -> str:
    return json.dumps(RunView.of(run).model_dump(mode="json"), separators=(",", ":"))


def _literal(text: str) -> str:
    """Kubernetes expands $(NAME) in commands and values; the user's text must arrive as he wrote it."""
    return text.replace("$", "$$")


def _locked() -> dict[str, Any]:
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
