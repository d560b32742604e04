"""The Kubernetes cluster: its nodes, its network between pods, and what its control plane keeps to itself."""

from __future__ import annotations

import base64
import json
import shlex
import ssl
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
STORE = ROOT / "build" / "store"
PORT = 8080
SERVER = f"import http.server; http.server.test(http.server.SimpleHTTPRequestHandler, port={PORT})"
# For every "address:port" one line: open, or closed and why.
CONNECT = """
import socket, sys
from concurrent.futures import ThreadPoolExecutor
def attempt(target):
    address, port = target.split(":")
    try:
        with socket.create_connection((address, int(port)), timeout=3):
            return "open"
    except OSError as error:
        return f"closed: {error}"
with ThreadPoolExecutor(32) as pool:
    print("\\n".join(pool.map(attempt, sys.argv[1:])))
"""

Kubectl = Callable[..., str]


@pytest.fixture(scope="module")
def kubectl(site: Any) -> Kubectl:
    """kubectl as the administrator, with the program of the artifact store."""
    program = STORE / "bin" / "kubernetes" / "kubectl"
    command = [str(program), f"--kubeconfig={site.secrets / 'kubeconfig'}"]

    def run(*arguments: str, stdin: str | None = None, check: bool = True) -> str:
        done = subprocess.run(
            [*command, *arguments], input=stdin, capture_output=True, text=True, timeout=180, check=False
        )
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout + ("" if check else done.stderr)

    return run


def items(kubectl: Kubectl, *arguments: str) -> list[dict[str, Any]]:
    """The objects of a list."""
    found: list[dict[str, Any]] = json.loads(kubectl("get", *arguments, "--output=json"))["items"]
    return found


@pytest.fixture(scope="module")
def namespace(kubectl: Kubectl) -> Iterator[str]:
    """A namespace without any label of its own, for the time of these tests."""
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", name)
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


def pod(name: str, node: str, image: str) -> dict[str, Any]:
    """A pod on a node that serves HTTP and has Python for connecting to others."""
    container = {
        "name": "main",
        "image": image,
        "command": ["python3", "-c", SERVER],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "64Mi"}},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
        },
    }


@pytest.fixture(scope="module")
def pods(site: Any, kubectl: Kubectl, namespace: str) -> dict[str, str]:
    """Addresses of three pods by name: two on one GPU node, one on another."""
    here, there = site.groups["gpu_node"][:2]
    artifacts = json.loads((STORE / "manifest.json").read_text())["artifacts"]
    image = next(a for a in artifacts if a["name"] == "python-ml" and a["kind"] == "image")
    repository = image["reference"].rsplit(":", 1)[0]
    reference = f"registry.{site.variables['cluster_domain']}:5000/{repository}@{image['digest']}"
    wanted = {"server": here, "neighbour": here, "stranger": there}
    manifest = {
        "apiVersion": "v1",
        "kind": "List",
        "items": [pod(name, node, reference) for name, node in wanted.items()],
    }
    kubectl("--namespace", namespace, "apply", "--filename=-", stdin=json.dumps(manifest))
    kubectl("--namespace", namespace, "wait", "pods", "--all", "--for=condition=Ready", "--timeout=170s")
    found = items(kubectl, "pods", "--namespace", namespace)
    return {each["metadata"]["name"]: each["status"]["podIP"] for each in found}


@pytest.fixture(scope="module")
def connect_all(kubectl: Kubectl, namespace: str, pods: dict[str, str]) -> Callable[..., dict[str, str]]:
    """connect_all("server", "10.0.0.1:22", …): by target "open", or "closed" and why."""

    def run(source: str, *targets: str) -> dict[str, str]:
        command = ["python3", "-c", CONNECT, *targets]
        answer = kubectl("--namespace", namespace, "exec", source, "--", *command)
        return dict(zip(targets, answer.splitlines(), strict=True))

    return run


@pytest.fixture(scope="module")
def connect(connect_all: Callable[..., dict[str, str]]) -> Callable[[str, str, int], str]:
    """connect("stranger", address, port): "open", or why not."""

    def run(source: str, address: str, port: int) -> str:
        return connect_all(source, f"{address}:{port}")[f"{address}:{port}"]

    return run


def in_time(check: Callable[[], bool], seconds: float = 30) -> bool:
    """Whether the check comes true within the time: network policies reach the nodes a moment later."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if check():
            return True
        time.sleep(0.5)
    return check()


def test_every_node_is_ready_and_knows_its_role(site: Any, kubectl: Kubectl) -> None:
    roles = {}
    for node in items(kubectl, "nodes"):
        conditions = {each["type"]: each["status"] for each in node["status"]["conditions"]}
        assert conditions["Ready"] == "True", node["metadata"]["name"]
        roles[node["metadata"]["name"]] = node["metadata"]["labels"]["labcluster.internal/role"]
    expected = dict.fromkeys(site.groups["gpu_node"], "gpu_node")
    expected |= dict.fromkeys(site.groups["kube_control_plane"], "management")
    assert roles == expected


def test_nodes_are_known_by_their_management_address(site: Any, kubectl: Kubectl) -> None:
    for node in items(kubectl, "nodes"):
        addresses = {each["type"]: each["address"] for each in node["status"]["addresses"]}
        assert addresses["InternalIP"] == site.hosts[node["metadata"]["name"]]["ansible_host"]


def test_pods_reach_each_other_across_nodes(
    pods: dict[str, str], connect: Callable[[str, str, int], str]
) -> None:
    assert connect("stranger", pods["server"], PORT) == "open"
    assert connect("server", pods["stranger"], PORT) == "open"


def test_a_pod_is_seen_by_its_own_address(
    kubectl: Kubectl, namespace: str, pods: dict[str, str], connect: Callable[[str, str, int], str]
) -> None:
    script = f"import urllib.request; urllib.request.urlopen('http://{pods['server']}:{PORT}', timeout=5)"
    kubectl("--namespace", namespace, "exec", "stranger", "--", "python3", "-c", script)
    assert pods["stranger"] in kubectl("--namespace", namespace, "logs", "server")


def test_names_are_resolved_in_pods(kubectl: Kubectl, namespace: str, pods: dict[str, str]) -> None:
    script = "import socket; print(socket.gethostbyname('kubernetes.default.svc.cluster.local'))"
    answer = kubectl("--namespace", namespace, "exec", "server", "--", "python3", "-c", script).strip()
    service = json.loads(kubectl("get", "service", "kubernetes", "--output=json"))
    assert answer == service["spec"]["clusterIP"]


@pytest.mark.parametrize("source", ["stranger", "neighbour"])
def test_network_policy_is_enforced_across_nodes_and_on_one_node(
    kubectl: Kubectl,
    namespace: str,
    pods: dict[str, str],
    connect: Callable[[str, str, int], str],
    source: str,
) -> None:
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "nobody"},
        "spec": {"podSelector": {"matchLabels": {"app": "server"}}, "policyTypes": ["Ingress"]},
    }
    assert connect(source, pods["server"], PORT) == "open"
    kubectl("--namespace", namespace, "apply", "--filename=-", stdin=json.dumps(policy))
    try:
        assert in_time(lambda: connect(source, pods["server"], PORT).startswith("closed"))
    finally:
        kubectl("--namespace", namespace, "delete", "networkpolicy", "nobody")
    assert in_time(lambda: connect(source, pods["server"], PORT) == "open")


def test_pods_cannot_reach_the_data_network(site: Any, connect_all: Callable[..., dict[str, str]]) -> None:
    addresses = [host["data_nic_address"] for host in site.hosts.values() if "data_nic_address" in host]
    found = connect_all("server", *(f"{address}:{port}" for address in addresses for port in (22, 111, 2049)))
    assert [target for target, answer in found.items() if not answer.startswith("closed")] == []


def test_pods_cannot_reach_ssh_of_any_host(site: Any, connect_all: Callable[..., dict[str, str]]) -> None:
    found = connect_all("server", *(f"{host['ansible_host']}:22" for host in site.hosts.values()))
    assert [target for target, answer in found.items() if not answer.startswith("closed")] == []


def test_a_namespace_that_says_nothing_refuses_privileged_pods(kubectl: Kubectl, namespace: str) -> None:
    privileged = pod("privileged", "", "image.invalid/none:1")
    privileged["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    answer = kubectl(
        "--namespace", namespace, "apply", "--filename=-", stdin=json.dumps(privileged), check=False
    )
    assert "violates PodSecurity" in answer


def test_secrets_are_encrypted_in_etcd(
    site: Any, kubectl: Kubectl, namespace: str, on_host: Callable[..., Any]
) -> None:
    kubectl(
        "--namespace", namespace, "create", "secret", "generic", "marker", "--from-literal=a=in-plain-sight"
    )
    pki = "/etc/kubernetes/pki/etcd"
    command = (
        "crictl exec $(crictl ps --quiet --name '^etcd$') etcdctl"
        f" --cacert {pki}/ca.crt --cert {pki}/server.crt --key {pki}/server.key"
        f" get --print-value-only /registry/secrets/{namespace}/marker | base64 --wrap=0"
    )
    done = on_host(site.first("kube_control_plane"), command)
    stored = base64.b64decode(done.out)
    assert stored.startswith(b"k8s:enc:secretbox:"), done.err
    assert b"in-plain-sight" not in stored


def test_the_audit_log_says_who_made_a_secret_and_not_what_is_in_it(
    site: Any, kubectl: Kubectl, namespace: str, on_host: Callable[..., Any]
) -> None:
    kubectl(
        "--namespace", namespace, "create", "secret", "generic", "audited", "--from-literal=a=never-logged"
    )
    log = "/var/log/kubernetes/audit/audit.log"
    command = f"grep -F {shlex.quote(namespace)} {log} | grep -F audited || true"
    host = site.first("kube_control_plane")
    assert in_time(lambda: bool(on_host(host, command).out))
    entry = json.loads(on_host(host, command).out.splitlines()[0])
    assert (entry["verb"], entry["user"]["username"]) == ("create", "kubernetes-admin")
    assert "never-logged" not in json.dumps(entry)
    assert "requestObject" not in entry


def test_profiling_is_off(kubectl: Kubectl, site: Any) -> None:
    assert "NotFound" in kubectl("get", "--raw", "/debug/pprof/", check=False)
    parts = items(kubectl, "pods", "--namespace", "kube-system", "--selector=tier=control-plane")
    for part in parts:
        if part["metadata"]["labels"]["component"] != "etcd":
            assert "--profiling=false" in part["spec"]["containers"][0]["command"]
    node = site.groups["gpu_node"][0]
    assert "pprof" not in kubectl("get", "--raw", f"/api/v1/nodes/{node}/proxy/debug/pprof/", check=False)


@pytest.mark.parametrize(
    ("path", "status"), [("/livez", 200), ("/readyz", 200), ("/version", 401), ("/api", 401)]
)
def test_without_credentials_the_api_answers_health_only(site: Any, path: str, status: int) -> None:
    address = site.hosts[site.first("kube_control_plane")]["ansible_host"]
    context = ssl._create_unverified_context()
    try:
        with urllib.request.urlopen(f"https://{address}:6443{path}", context=context, timeout=10) as answer:
            found = answer.status
    except urllib.error.HTTPError as error:
        found = error.code
        error.close()
    assert found == status


def test_a_token_for_joining_lives_for_minutes(kubectl: Kubectl) -> None:
    secrets = items(
        kubectl, "secrets", "--namespace=kube-system", "--field-selector=type=bootstrap.kubernetes.io/token"
    )
    latest = datetime.now(UTC) + timedelta(minutes=15)
    for secret in secrets:
        written = base64.b64decode(secret["data"]["expiration"]).decode()
        assert datetime.fromisoformat(written.replace("Z", "+00:00")) < latest


def test_what_is_secret_is_readable_by_root_only(site: Any, infra: Callable[[str], Host]) -> None:
    management = infra(site.first("kube_control_plane"))
    for path in (
        "/etc/kubernetes/encryption/encryption.yaml",
        "/etc/kubernetes/admin.conf",
        "/var/log/kubernetes/audit/audit.log",
    ):
        assert (management.file(path).user, management.file(path).mode) == ("root", 0o600), path
    assert management.file("/var/lib/etcd").mode == 0o700
    for name in {*site.groups["kube_control_plane"], *site.groups["gpu_node"]}:
        credential = infra(name).file("/etc/kubernetes/registry-credentials/response.json")
        assert (credential.user, credential.mode) == ("root", 0o600), name


def test_images_that_a_start_needs_are_pinned(site: Any, on_host: Callable[..., Any]) -> None:
    for name in {*site.groups["kube_control_plane"], *site.groups["gpu_node"]}:
        images = json.loads(on_host(name, "crictl images --output json").out)["images"]
        pinned = {
            tag.split("/")[-1].split(":")[0] for each in images if each["pinned"] for tag in each["repoTags"]
        }
        assert {"pause", "kube-proxy", "kube-router", "coredns"} <= pinned, name


def test_the_kubeconfig_is_the_administrators_alone(site: Any) -> None:
    assert (site.secrets / "kubeconfig").stat().st_mode & 0o777 == 0o600
