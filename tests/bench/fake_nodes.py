"""Nodes in the API only: KWOK answers for them and their pods, so that the queue is measured alone."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kubernetes import client

LABEL = "labcluster.internal/fake"
GPU = "nvidia.com/gpu"


def _node(name: str, gpus: int) -> dict[str, Any]:
    resources = {"cpu": "64", "memory": "512Gi", "pods": "110", GPU: str(gpus)}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        # Without the label kubernetes.io/os no DaemonSet of the cluster's own comes there.
        "metadata": {"name": name, "labels": {LABEL: "true", "kubernetes.io/hostname": name}},
        "status": {"capacity": resources, "allocatable": resources},
    }


def _ready(core: Any) -> int:
    nodes = core.list_node(label_selector=LABEL).items
    return sum(
        any(c.type == "Ready" and c.status == "True" for c in n.status.conditions or []) for n in nodes
    )


@contextmanager
def fake_nodes(api: Any, kubeconfig: Path, store: Path, count: int, gpus: int) -> Iterator[None]:
    """`count` fake nodes with `gpus` each take all pods; the real GPU nodes are cordoned meanwhile.

    `store` is an artifact store with `kwok` and `kwok-stages`.
    """
    core = client.CoreV1Api(api)
    real = [
        node.metadata.name
        for node in core.list_node().items
        if int((node.status.allocatable or {}).get(GPU, "0")) and not node.spec.unschedulable
    ]
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        subprocess.run(["tar", "-xzf", store / "archives/kwok-stages.tar.gz", "-C", folder], check=True)
        # Runs stay: their ends are not what is measured.
        stages = [
            file
            for kind in ("node", "pod")
            for file in Path(folder).glob(f"stage/{kind}/fast/*.yaml")
            if "complete" not in file.name and "kustomization" not in file.name
        ]
        words = [store / "bin/kwok/kwok", f"--kubeconfig={kubeconfig}", "--node-lease-duration-seconds=40"]
        words += [f"--manage-nodes-with-label-selector={LABEL}", *(f"--config={file}" for file in stages)]
        process = subprocess.Popen(words, stdout=log, stderr=log)
        try:
            for number in range(count):
                core.create_node(_node(f"fake{number}", gpus))
            for name in real:
                core.patch_node(name, {"spec": {"unschedulable": True}})
            until = time.monotonic() + 120
            while _ready(core) < count:
                if time.monotonic() > until or process.poll() is not None:
                    log.seek(0)
                    raise SystemExit(f"tests.bench: no fake nodes: {log.read()[-500:].decode()}")
                time.sleep(0.5)
            yield
        finally:
            for name in real:
                core.patch_node(name, {"spec": {"unschedulable": None}})
            core.delete_collection_node(label_selector=LABEL)
            process.terminate()
            process.wait(30)


@contextmanager
def project_may_use(api: Any, project: str, gpus: int) -> Iterator[None]:
    """The project's maximum is raised meanwhile."""
    custom = client.CustomObjectsApi(api)
    where = ("labcluster.internal", "v1", "projects", project)
    before = custom.get_cluster_custom_object(*where)["spec"]["maxGpus"]
    custom.patch_cluster_custom_object(*where, {"spec": {"maxGpus": gpus}})
    try:
        yield
    finally:
        custom.patch_cluster_custom_object(*where, {"spec": {"maxGpus": before}})
