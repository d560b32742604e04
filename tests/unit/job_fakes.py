"""What becomes of a run's Job and pods, as the reconciler sees it."""

from __future__ import annotations

from typing import Any

from labcluster.models.runs import Run

RUNNING = {"running": {"startedAt": "2026-11-21T08:00:05Z"}}


def ended(code: int, **more: Any) -> dict[str, Any]:
    return {
        "terminated": {
            "exitCode": code,
            "startedAt": "2026-11-21T08:00:05Z",
            "finishedAt": "2026-11-21T08:01:05Z",
            **more,
        }
    }


def admit(lab: Any, run: Run) -> dict[str, Any]:
    job: dict[str, Any] = lab.cluster.job(run)
    job["spec"]["suspend"] = False
    return job


def finish(lab: Any, run: Run, kind: str, **more: Any) -> None:
    condition = {"type": kind, "status": "True", "lastTransitionTime": "2026-11-21T08:01:06Z", **more}
    admit(lab, run)["status"] = {"conditions": [condition], "completionTime": "2026-11-21T08:01:06Z"}


def follow(lab: Any, run: Run) -> Run:
    lab.reconciler.reconcile_once()
    row: Run = lab.row(run)
    return row


def disrupted(why: str, **more: Any) -> dict[str, Any]:
    return {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": why}], **more}
