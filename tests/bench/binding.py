"""How long a run waits for its node when GPUs are free and others submit too."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from kubernetes import client, config, watch
from urllib3.exceptions import ProtocolError

from tests.bench.fake_nodes import fake_nodes, project_may_use

NODES, GPUS = 50, 8
PROJECT = "vision"


class _Bound:
    """When each run's pod was first seen on a node; by this host's clock, which is the lab hosts' too."""

    def __init__(self, api: Any) -> None:
        self.at: dict[str, float] = {}
        self._core = client.CoreV1Api(api)
        self._watch = watch.Watch()
        self._closed = False
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        namespace = f"project-{PROJECT}"
        while not self._closed:
            try:
                for event in self._watch.stream(
                    self._core.list_namespaced_pod, namespace, timeout_seconds=600
                ):
                    pod = event["object"]
                    run = (pod.metadata.labels or {}).get("labcluster.internal/run")
                    if run and pod.spec.node_name:
                        self.at.setdefault(run, time.time())
            except ProtocolError:
                continue  # the API server ended the watch: what was bound meanwhile counts as bound later

    def close(self) -> None:
        """Read no further."""
        self._closed = True
        self._watch.stop()


def measure(site: Path, store: Path, submit: Any) -> dict[str, list[float]]:
    """Milliseconds to the node; `submit()` submits at its rate and gives {run id: when that began}."""
    kubeconfig = site / "secrets" / "kubeconfig"
    api = config.new_client_from_config(str(kubeconfig))
    with fake_nodes(api, kubeconfig, store, NODES, GPUS), project_may_use(api, PROJECT, NODES * GPUS):
        time.sleep(10)  # the controller gives the queue the new quotas
        bound = _Bound(api)
        try:
            began: dict[str, float] = submit()
            until = time.monotonic() + 120
            while not began.keys() <= bound.at.keys():
                if time.monotonic() > until:
                    raise SystemExit(f"tests.bench: {len(began.keys() - bound.at.keys())} runs got no node")
                time.sleep(0.2)
        finally:
            bound.close()
    return {"bound": [(bound.at[run] - moment) * 1000 for run, moment in began.items()]}
