"""What the controller says about projects: conditions on their status, and events."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from labcluster.adapters.kube import Json, KubeApi
from labcluster.controller.writes import Done
from labcluster.errors import LabclusterError
from labcluster.models.projects import API_VERSION, COLLECTION, KIND, LABEL_PROJECT, Project
from labcluster.services.drift import Key
from labcluster.services.manifests import MANAGER, MEMBERS
from labcluster.services.namespaces import Verdict

log = logging.getLogger(__name__)

# Events of cluster-scoped objects lie here by Kubernetes' own rule.
_EVENTS = "/api/v1/namespaces/default/events"
# These change with the members, of whom there is an event already.
_FOLLOW_MEMBERS = frozenset({"ConfigMap", "RoleBinding"})


class Reporter:
    """Says each thing once, when it becomes so."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api

    def tell(self, projects: Iterable[Project], done: Done, live: Mapping[Key, Json]) -> None:
        """Events for what was done; `live` is what was there before."""
        by_name = {project.name: project for project in projects}
        touched: dict[str, set[str]] = {}
        for item, there in done.applied:
            project = by_name.get(item["metadata"]["labels"].get(LABEL_PROJECT, ""))
            if project is None:
                continue
            kind, name = item["kind"], item["metadata"]["name"]
            if kind == "Namespace" and there is None:
                self._event(project, "Created", f"made namespace {name}")
            elif kind == "ConfigMap" and name == MEMBERS:
                self._membership(project, (there or {}).get("data") or {}, item["data"])
            elif ("Namespace", "", project.namespace) not in live:
                continue  # a new project says once that it is made
            elif there is None or kind not in _FOLLOW_MEMBERS:
                touched.setdefault(project.name, set()).add(kind)
        for name, kinds in touched.items():
            project = by_name[name]
            # What the Project itself does not explain was done by somebody else.
            asked = project.generation != project.status.get("observedGeneration")
            self._event(project, "Updated" if asked else "Repaired", f"brought into line: {_listed(kinds)}")
        for item in done.removed:
            project = by_name.get(item["metadata"].get("labels", {}).get(LABEL_PROJECT, ""))
            if project:
                name = item["metadata"]["name"]
                self._event(project, "Removed", f"removed {item['kind']} {name}, which should not be there")

    def update(
        self,
        projects: Iterable[Project],
        verdicts: Mapping[str, Verdict],
        failures: Mapping[str, list[str]],
        now: datetime,
    ) -> None:
        """Status of every project whose status is not yet so."""
        for project in projects:
            verdict = verdicts[project.name]
            failed = failures.get(project.name)
            if failed:
                verdict = Verdict(verdict.members, "ApplyFailed", "; ".join(failed)[:1000])
            status = _status(project, verdict, now)
            if status == project.status:
                continue
            if not verdict.ready and project.condition().get("reason") != verdict.reason:
                self._event(project, verdict.reason, verdict.message, warning=True)
            body = {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "metadata": {"name": project.name},
                "status": status,
            }
            try:
                self._api.apply(f"{COLLECTION}/{project.name}/status", body, manager=MANAGER)
            except LabclusterError as error:
                log.warning("cannot write the status of project %s: %s", project.name, error)

    def _membership(self, project: Project, before: Mapping[str, str], after: Mapping[str, str]) -> None:
        people = {name for name in before.keys() | after.keys() if not name.startswith(".")}
        came = sorted(people & after.keys() - before.keys())
        went = sorted(people & before.keys() - after.keys())
        if came:
            self._event(project, "MembersAdded", f"now members: {', '.join(came)}"[:1000])
        if went:
            self._event(project, "MembersRemoved", f"no members any more: {', '.join(went)}"[:1000])

    def _event(self, project: Project, reason: str, message: str, *, warning: bool = False) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        log.info("project %s: %s: %s", project.name, reason, message)
        body = {
            "metadata": {"generateName": f"{project.name}.", "namespace": "default"},
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": project.name,
                "uid": project.uid,
            },
            "type": "Warning" if warning else "Normal",
            "reason": reason,
            "message": message,
            "source": {"component": MANAGER},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            self._api.create(_EVENTS, body)
        except LabclusterError as error:
            log.warning("cannot write an event: %s", error)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _status(project: Project, verdict: Verdict, now: datetime) -> Json:
    state = "True" if verdict.ready else "False"
    old = project.condition()
    since = old.get("lastTransitionTime") if old.get("status") == state else None
    return {
        "namespace": project.namespace,
        "members": len(verdict.members),
        "observedGeneration": project.generation,
        "conditions": [
            {
                "type": "Ready",
                "status": state,
                "reason": verdict.reason,
                "message": verdict.message,
                "observedGeneration": project.generation,
                "lastTransitionTime": since or now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
        ],
    }
