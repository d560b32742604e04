"""A bare apiserver with etcd on loopback: no node, no controller, no root. Needs `make artifacts`."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import urllib3
import yaml
from databases import pool, server  # noqa: F401 - fixtures
from kubernetes import client
from labcluster.adapters.helm import Chart
from labcluster.adapters.kube import KubeApi
from labcluster.errors import LabclusterError
from members import CARELESS, JOB_CONTROLLER, REGISTRY, create, job, pod
from objects import apply, site

from tests import attacks

ROOT = Path(__file__).parents[2]
BIN = Path(os.environ.get("LABCLUSTER_STORE", ROOT / "build" / "store")) / "bin"
TOKEN = "integration"


def pytest_addoption(parser: pytest.Parser) -> None:
    """--examples says how many random requests the property test of the admission policies sends."""
    parser.addoption("--examples", type=int, default=1000, help="random requests of the property test")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [found.getsockname()[1] for found in sockets]
    for found in sockets:
        found.close()
    return ports


@contextmanager
def _apiserver(home: Path) -> Iterator[KubeApi]:
    """An apiserver as its administrator."""
    etcd, apiserver = BIN / "etcd" / "etcd", BIN / "kubernetes" / "kube-apiserver"
    if not (etcd.exists() and apiserver.exists()):
        pytest.skip(f"{BIN} has no etcd and kube-apiserver: run make artifacts")
    clients, peers, port = _free_ports(3)
    subprocess.run(["openssl", "genrsa", "-out", home / "sa.key", "2048"], check=True, capture_output=True)
    (home / "tokens.csv").write_text(f'{TOKEN},admin,admin,"system:masters"\n')
    commands = [
        [
            etcd, "--data-dir", home / "etcd", "--log-level", "error", "--unsafe-no-fsync",
            "--listen-client-urls", f"http://127.0.0.1:{clients}",
            "--advertise-client-urls", f"http://127.0.0.1:{clients}",
            "--listen-peer-urls", f"http://127.0.0.1:{peers}",
            "--initial-advertise-peer-urls", f"http://127.0.0.1:{peers}",
            "--initial-cluster", f"default=http://127.0.0.1:{peers}",
        ],
        [
            apiserver, "--etcd-servers", f"http://127.0.0.1:{clients}", "--secure-port", str(port),
            "--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1", "--cert-dir", home / "certs",
            "--service-account-issuer", "https://integration", "--service-account-key-file", home / "sa.key",
            "--service-account-signing-key-file", home / "sa.key", "--token-auth-file", home / "tokens.csv",
            "--authorization-mode", "RBAC", "--service-cluster-ip-range", "10.99.0.0/16",
            "--endpoint-reconciler-type", "none", "--allow-privileged",
        ],
    ]  # fmt: skip
    with (home / "log").open("wb") as log:
        running = [subprocess.Popen(command, stdout=log, stderr=log, cwd=home) for command in commands]
        try:
            yield _connected(home, port)
        finally:
            for process in reversed(running):
                process.kill()  # nothing of it is kept
            for process in running:
                process.wait(20)


def _connected(home: Path, port: int) -> KubeApi:
    configuration = client.Configuration()
    configuration.host = f"https://127.0.0.1:{port}"
    configuration.api_key = {"BearerToken": f"Bearer {TOKEN}", "authorization": f"Bearer {TOKEN}"}
    configuration.ssl_ca_cert = str(home / "certs" / "apiserver.crt")
    deadline = time.monotonic() + 60
    while True:
        try:
            api = KubeApi(configuration)
            api.list("/api/v1/namespaces")
            return api
        except (LabclusterError, OSError, urllib3.exceptions.HTTPError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


@contextmanager
def _with_identity(home: Path) -> Iterator[KubeApi]:
    """The same with chart identity applied."""
    folder = ROOT / "charts" / "identity"
    values = yaml.safe_load((folder / "ci" / "values.yaml").read_text())
    with _apiserver(home) as api:
        apply(api, *Chart.read(folder).render(values, name="identity", namespace="labcluster"))
        yield api


@pytest.fixture(scope="session")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeApi]:
    """An apiserver with chart identity, for all tests."""
    with _with_identity(tmp_path_factory.mktemp("apiserver")) as api:
        yield api


@pytest.fixture(scope="module")
def own_identity(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeApi]:
    """The same for one module: a controller removes every project that is not its own."""
    with _with_identity(tmp_path_factory.mktemp("apiserver")) as api:
        yield api


@pytest.fixture(scope="session")
def lab(identity: KubeApi) -> KubeApi:
    """ada and eve in vision, bo in speech, all in shared, laid out as the controller does it."""
    for item in site().objects:
        if item["kind"] in ("Namespace", "ConfigMap", "RoleBinding", "ServiceAccount", "LimitRange"):
            apply(identity, item)
    rbac = "rbac.authorization.k8s.io"
    careless = {
        "apiVersion": f"{rbac}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "careless"},
        "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": rbac, "kind": "Group", "name": CARELESS}],
    }
    apply(identity, careless)
    # Policies are in force a moment after they were written.
    deadline = time.monotonic() + 30
    while not _in_force(identity):
        assert time.monotonic() < deadline, "the policies do not come into force"
        time.sleep(0.2)
    return identity


def _in_force(api: KubeApi) -> bool:
    """Every policy: those that set, and those that refuse."""
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"namespace": "project-vision", "name": "x"},
    }
    refused: list[tuple[dict[str, Any], str | None, str | None]] = [
        (pod({"metadata.labels": {}}), JOB_CONTROLLER, None),
        (attacks.put(attacks.service(), "spec.type", "NodePort"), "ada", None),
        (config, "ada", CARELESS),
        (attacks.put(job(), "metadata.labels", {}), "ada", None),
    ]
    try:
        for item in [job(), attacks.pod(REGISTRY), attacks.service()]:
            create(api, item, "ada")
        for item in attacks.others(REGISTRY):
            create(api, item, None)
            refused.append((attacks.put(item, "metadata.labels", {attacks.USER: "nobody"}), None, None))
    except LabclusterError:
        return False
    return all(_refuses(api, *attempt) for attempt in refused)


def _refuses(api: KubeApi, item: dict[str, Any], user: str | None, group: str | None) -> bool:
    try:
        create(api, item, user, group)
    except LabclusterError as error:
        return error.detail.startswith("[")
    return False
