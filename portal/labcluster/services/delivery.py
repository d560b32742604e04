"""The Job that brings records to MLflow which their own recorders could not bring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from labcluster.models import labels
from labcluster.models.runs import Run
from labcluster.models.settings import JobSettings
from labcluster.services.jobs import literal, locked, record_env, token_mounts, token_volumes

#: Records that one Job delivers at most.
MOST_RUNS = 50
_DEADLINE_SECONDS = 3600
# Kept for so long after its end; while it is there no other is made for the same runs.
_KEPT_SECONDS = 30


def delivery_job(runs: Sequence[Run], turn: int, settings: JobSettings) -> dict[str, Any]:
    """A Job without GPUs for ended runs of one user in one project, to be created under his name."""
    first = runs[0]
    assert settings.record is not None
    marks = {
        labels.PROJECT: first.project,
        labels.USER: first.user,
        "app.kubernetes.io/managed-by": "labcluster",
    }
    env = {
        **record_env(settings),
        "LABCLUSTER_PORTAL": settings.record.portal_url,
        "LABCLUSTER_PROJECT": first.project,
        # An image may ask for all GPUs in its own environment; this answers for it.
        "NVIDIA_VISIBLE_DEVICES": "void",
    }
    asks = {"cpu": "50m", "memory": "64Mi"}
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "deliver",
                "image": settings.runner_image,
                "command": ["/labrun", "deliver", *(literal(run.directory) for run in runs)],
                "env": [{"name": name, "value": literal(value)} for name, value in env.items()],
                "resources": {"requests": asks, "limits": {**asks, "cpu": "500m"}},
                "securityContext": locked(),
                "volumeMounts": [{"name": "lab", "mountPath": "/lab"}, *token_mounts(settings)],
            }
        ],
        "volumes": [
            {"name": "lab", "persistentVolumeClaim": {"claimName": "lab"}},
            *token_volumes(settings, _DEADLINE_SECONDS),
        ],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": f"deliver-{first.job_name.removeprefix('run-')}-{turn}",
            "namespace": first.namespace,
            # Tells this Job from one of the same name for others.
            "annotations": {labels.DELIVERS: " ".join(run.id for run in runs)},
            # What runs is more urgent than what ran.
            "labels": {**marks, labels.QUEUE: "default", labels.PRIORITY: "labcluster-low"},
        },
        "spec": {
            "suspend": True,
            "backoffLimit": 0,
            "activeDeadlineSeconds": _DEADLINE_SECONDS,
            "ttlSecondsAfterFinished": _KEPT_SECONDS,
            "template": {"metadata": {"labels": marks}, "spec": pod},
        },
    }
