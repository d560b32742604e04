"""`python -m labcluster.controller`: wires everything and runs until it is told to stop."""

from __future__ import annotations

import logging
import signal
import threading
from dataclasses import dataclass

import sqlalchemy as sa

from labcluster.adapters.kube import KubeApi, KubeJobs
from labcluster.adapters.ldap import LdapDirectory
from labcluster.adapters.mlflow import AssertionSigner, MlflowApi
from labcluster.adapters.notices import PostgresNotices
from labcluster.adapters.postgres import PostgresRuns, address, connect
from labcluster.adapters.posting import Post
from labcluster.adapters.recording import MlflowRecords, PostgresRecords
from labcluster.adapters.studies import SCHEMA, OptunaStudies
from labcluster.adapters.sweeps import MlflowMetrics, PostgresSweeps
from labcluster.adapters.view import KubeView
from labcluster.controller import health
from labcluster.controller.caches import Caches
from labcluster.controller.departures import Departures
from labcluster.controller.loop import Controller
from labcluster.errors import UsageError
from labcluster.models.settings import PortalSettings
from labcluster.services.experiments import CONTROLLER
from labcluster.services.following import RunReconciler
from labcluster.services.notices import NoticeDelivery
from labcluster.services.recording import Recording
from labcluster.services.sweeps import Sweeper

log = logging.getLogger("labcluster.controller")


@dataclass(frozen=True)
class Parts:
    """What runs side by side in this process."""

    controller: Controller
    runs: RunReconciler
    caches: Caches
    view: KubeView
    records: Recording | None
    notices: NoticeDelivery
    sweeps: Sweeper


def build(settings: PortalSettings) -> Parts:
    """Everything, wired; nothing is started yet."""
    if settings.ldap is None:
        raise UsageError("the controller needs the section `ldap` in its settings")
    api = KubeApi.load(settings.kubeconfig)
    directory = LdapDirectory(
        settings.ldap.uri,
        settings.ldap.base_dn,
        settings.ldap.bind_dn,
        settings.ldap.password_file,
        settings.ldap.ca_file,
    )
    wake = threading.Event()
    caches = Caches(api, wake)
    view = KubeView(api, follow_jobs=True)
    engine = connect(settings.database)
    store = PostgresRuns(engine)
    runs = RunReconciler(
        store=store,
        view=view,
        jobs=KubeJobs(api),
        settings=settings.jobs,
        registry=settings.registry.host,
    )
    controller = Controller(api, directory, caches, wake, Departures(api, store), outside=settings.pod_egress)
    notices = NoticeDelivery(
        PostgresNotices(engine), Post(settings.notices), settings.notices, settings.cluster_name
    )
    mlflow = None
    if settings.mlflow is not None:
        mlflow = MlflowApi(settings.mlflow, AssertionSigner(settings.mlflow.key_file), CONTROLLER)
    sweeps = Sweeper(
        table=PostgresSweeps(engine),
        study_of=OptunaStudies(*address(settings.database, SCHEMA)),
        metrics=MlflowMetrics(mlflow) if mlflow else None,
        wake=runs.notice,
    )
    records = _recording(settings, api, engine, mlflow) if mlflow else None
    return Parts(controller, runs, caches, view, records, notices, sweeps)


def _recording(settings: PortalSettings, api: KubeApi, engine: sa.Engine, mlflow: MlflowApi) -> Recording:
    return Recording(
        table=PostgresRecords(engine),
        records=MlflowRecords(mlflow),
        jobs=KubeJobs(api),
        settings=settings.jobs,
    )


def main() -> None:
    """Run until SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    parts = build(PortalSettings.load())
    server = health.serve(
        {"/healthz": lambda: parts.controller.alive, "/readyz": lambda: parts.controller.ready}
    )
    parts.view.start()
    threading.Thread(target=parts.runs.run, args=(stop,), name="runs", daemon=True).start()
    if parts.records:
        threading.Thread(target=parts.records.run, args=(stop,), name="records", daemon=True).start()
    threading.Thread(target=parts.sweeps.run, args=(stop,), name="sweeps", daemon=True).start()
    threading.Thread(target=parts.notices.run, args=(stop,), name="notices", daemon=True).start()
    log.info("started")
    parts.controller.run(stop)
    parts.caches.stop()
    parts.view.stop()
    server.shutdown()
    log.info("stopped")


if __name__ == "__main__":
    main()
