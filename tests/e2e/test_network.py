"""Who reaches whom: tried from inside pods of three projects at once, against everything that listens."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from labcluster.adapters.kube import KubeApi

pytestmark = pytest.mark.e2e

PROBE = Path(__file__).with_name("network_probe.py")
PORT = 8099
# Two of one project, one of another, one of a third: on two nodes some share one, whoever is placed where.
PROBERS = [("ada", "vision"), ("ada", "vision"), ("bo", "speech"), ("ada", "shared")]
# An address of the internet, and the metadata service of clouds: both played by the login node's ssh.
INTERNET, METADATA = "203.0.113.7", "169.254.169.254"
SEEN_SECONDS = 60
# Portal: its Service and its pod.
_APP_PORTS = ("443", "8443")


@pytest.fixture(scope="module")
def api(site: Any) -> KubeApi:
    """The cluster as its administrator."""
    return KubeApi.load(site.secrets / "kubeconfig")


@contextmanager
def nfs_ears(on_host: Callable[..., Any], host: str) -> Iterator[Callable[[], str]]:
    """Something that answers where NFS and its portmapper would, on every address of a host; who it heard."""
    program = (
        "import selectors, socket, sys\n"
        "s = selectors.DefaultSelector()\n"
        "for port in (2049, 111):\n"
        "    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):\n"
        "        ear = socket.socket(socket.AF_INET, kind)\n"
        "        ear.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
        "        ear.bind(('0.0.0.0', port))\n"
        "        if kind == socket.SOCK_STREAM: ear.listen()\n"
        "        s.register(ear, selectors.EVENT_READ)\n"
        "while True:\n"
        "    for key, _ in s.select():\n"
        "        ear = key.fileobj\n"
        "        if ear.type == socket.SOCK_STREAM: peer = ear.accept()[1]\n"
        "        else:\n"
        "            data, peer = ear.recvfrom(2000)\n"
        "            ear.sendto(data, peer)\n"
        "        print(peer[0], ear.getsockname()[1], flush=True)\n"
    )
    unit = "labcluster-e2e-ears"
    done = on_host(
        host,
        f"systemctl stop {unit} 2>/dev/null; systemd-run --quiet --collect --unit={unit}"
        f" --property=RuntimeMaxSec=300 python3 -c {shlex.quote(program)}"
        " && for i in $(seq 50); do ss -Hltn sport = 2049 | grep -q . && exit 0; sleep 0.1; done; exit 1",
    )
    assert done.code == 0, done
    try:
        yield lambda: str(on_host(host, f"journalctl --quiet --output=cat --unit={unit} --since=-10min").out)
    finally:
        on_host(host, f"systemctl stop {unit}")


@contextmanager
def outside_world(on_host: Callable[..., Any], site: Any) -> Iterator[None]:
    """The two outer addresses, on the login node; the GPU nodes know the way."""
    login = site.first("login")
    way = site.hosts[login]["ansible_host"]
    try:
        for address in (INTERNET, METADATA):
            assert on_host(login, f"ip address replace {address}/32 dev lo").code == 0
            for node in site.groups["gpu_node"]:
                assert on_host(node, f"ip route replace {address}/32 via {way}").code == 0
        yield
    finally:
        for address in (INTERNET, METADATA):
            on_host(login, f"ip address del {address}/32 dev lo")
            for node in site.groups["gpu_node"]:
                on_host(node, f"ip route del {address}/32 via {way}")


def listeners(on_host: Callable[..., Any], host: str) -> set[tuple[int, bool]]:
    """(port, is udp) of everything on a host that listens to more than the host itself."""
    found = set()
    for line in on_host(host, "ss -Hlntu").out.splitlines():
        kind, _, _, _, local, *_ = line.split()
        address, port = local.rsplit(":", 1)
        if not address.startswith(("127.", "[::1]")):
            found.add((int(port), kind == "udp"))
    return found


def targets_of(
    site: Any, api: KubeApi, on_host: Callable[..., Any], addresses: dict[str, list[str]]
) -> list[dict[str, Any]]:
    """Everything that could be reached, by names that say what it is."""
    found: list[dict[str, Any]] = []

    def add(name: str, host: str, port: int, udp: bool = False) -> None:
        kind = "udp" if udp else "tcp"
        found.append({"name": f"{name} {kind} {host} {port}", "host": host, "port": port, "udp": udp})

    for name, variables in site.hosts.items():
        ports = listeners(on_host, name) | {(22, False)}
        role = "management" if name == site.first("management") else name
        if role == "management":
            # What it publishes for pods behind it.
            ports |= {(port, False) for port in (443, 636, 5000, 5556)}
        for key in ("ansible_host", "data_nic_address"):
            for port, udp in sorted(ports):
                add(f"host {role}", variables[key], port, udp)
    for node in api.list("/api/v1/nodes"):
        # The node as its pods see it: the bridge that they hang on.
        gateway = re.sub(r"\.0/\d+$", ".1", node["spec"]["podCIDR"])
        for port in (22, 179, 6443, 10249, 10250, 10256, 20244, 50051):
            add(f"bridge {node['metadata']['name']}", gateway, port)
    for service in api.list("/api/v1/services"):
        address = service["spec"].get("clusterIP", "None")
        for port in service["spec"].get("ports") or [] if address != "None" else []:
            name = f"service {service['metadata']['namespace']}/{service['metadata']['name']}"
            add(name, address, port["port"], port.get("protocol") == "UDP")
    for pod in api.list("/api/v1/pods"):
        metadata, address = pod["metadata"], pod["status"].get("podIP")
        if not address or pod["spec"].get("hostNetwork") or metadata["namespace"].startswith("project-"):
            continue
        for container in pod["spec"]["containers"]:
            for port in container.get("ports") or []:
                name = f"pod {metadata['namespace']}/{metadata['name']}"
                add(name, address, port["containerPort"], port.get("protocol") == "UDP")
    for run, own in addresses.items():
        for address in own:
            add(f"run {run}", address, PORT)
            add(f"run {run}", address, PORT, udp=True)
    add("outside internet", INTERNET, 22)
    add("outside metadata", METADATA, 22)
    return found


@pytest.fixture(scope="module")
def reached(
    site: Any, api: KubeApi, ssh_as: Callable[..., Any], on_host: Callable[..., Any]
) -> Iterator[dict[str, Any]]:
    """{"targets": all names, "by": {run: names it reached}, "nfs": who spoke to the file server's ports}."""
    file = f".e2e-network-{time.time_ns()}.json"
    submitted: list[tuple[str, str]] = []
    admin = ssh_as(site.variables["ansible_user"])
    with ExitStack() as stack:
        heard = stack.enter_context(nfs_ears(on_host, site.first("file_server")))
        stack.enter_context(outside_world(on_host, site))
        for user in sorted({user for user, _ in PROBERS}):
            done = ssh_as(user)("cat > ~/.e2e-network.py", stdin=PROBE.read_bytes())
            assert done.code == 0, done
            stack.callback(ssh_as(user), f"rm -f ~/.e2e-network.py ~/{file}")
        try:
            for user, project in PROBERS:
                done = ssh_as(user)(
                    f"cd ~ && labctl submit --project {project} --memory 128M --cpus 0.1 --json --"
                    f" python3 /lab/home/{user}/.e2e-network.py /lab/home/{user}/{file}"
                )
                assert done.code == 0, done
                submitted.append((user, json.loads(done.out)["id"]))
            addresses = {run: _said(ssh_as(user), run, "listening") for user, run in submitted}
            targets = targets_of(site, api, on_host, addresses)
            for user in {user for user, _ in submitted}:
                text = json.dumps(targets).encode()
                done = ssh_as(user)(f"cat > ~/{file}.new && mv ~/{file}.new ~/{file}", stdin=text)
                assert done.code == 0, done
            by = {run: set(_said(ssh_as(user), run, "reached")) for user, run in submitted}
            data_address = site.hosts[site.first("file_server")]["data_nic_address"]
            control = on_host(
                site.first("login"), f"timeout 5 bash -c 'exec 3<>/dev/tcp/{data_address}/2049'"
            )
            forged = ssh_as("ada")(f"timeout 5 bash -c 'exec 3<>/dev/tcp/{data_address}/2049'")
            yield {
                "targets": {target["name"] for target in targets},
                "own": {run: addresses[run] for run in addresses},
                "by": by,
                "nfs": heard().split("\n"),
                "control": control.code,
                "user on the login node": forged.code,
            }
        finally:
            for _, run in submitted:
                admin(f"labctl cancel {run}")


def _said(user: Any, run: str, word: str) -> list[str]:
    """What a run printed behind a word, as soon as it has."""
    deadline = time.monotonic() + SEEN_SECONDS
    while True:
        for line in user(f"labctl logs {run}").out.splitlines():
            if line.startswith(word):
                found: list[str] = json.loads(line.removeprefix(word))
                return found
        assert time.monotonic() < deadline, f"{run} did not say {word}: {user(f'labctl show {run}').out}"
        time.sleep(1)


def allowed(name: str, own: list[str]) -> bool:
    """What a pod of a project may open: names, the portal, the internet, and itself."""
    kind, what, _, host, port = name.split()
    if kind == "run":
        return host in own
    if kind == "host":
        # The portal's pod, by the port that it has on its node.
        return what == "management" and port == "443"
    if kind in ("service", "pod"):
        namespace, app = what.split("/")
        if namespace == "kube-system":
            return app.startswith(("kube-dns", "coredns")) and port == "53"
        return namespace == "labcluster" and app.startswith("portal") and port in _APP_PORTS
    return (kind, what) == ("outside", "internet")


def test_pods_of_projects_reach_nothing_but_what_they_need(reached: dict[str, Any]) -> None:
    for run, names in reached["by"].items():
        own = reached["own"][run]
        assert {name for name in names if not allowed(name, own)} == set(), run


def test_what_pods_need_they_reach(reached: dict[str, Any]) -> None:
    for run, names in reached["by"].items():
        kinds = {" ".join(name.split()[:2]) for name in names}
        assert {"service kube-system/kube-dns", "service labcluster/portal", f"run {run}"} <= kinds, names


def test_pods_reach_the_internet_where_the_site_lets_them(reached: dict[str, Any], site: Any) -> None:
    open_ = site.variables.get("cluster_pod_egress", "internet") == "internet"
    for run, names in reached["by"].items():
        assert any(name.startswith("outside internet") for name in names) is open_, run


def test_nothing_was_left_out(reached: dict[str, Any], site: Any) -> None:
    """The list was whole: every host with its ssh, the ports that matter most, and the other runs."""
    targets = reached["targets"]
    for name, variables in site.hosts.items():
        role = "management" if name == site.first("management") else name
        assert f"host {role} tcp {variables['ansible_host']} 22" in targets
    management = site.hosts[site.first("management")]["ansible_host"]
    for port in (2379, 2380, 6443, 10250, 636, 5000):
        assert f"host management tcp {management} {port}" in targets
    files = site.hosts[site.first("file_server")]
    for address in (files["ansible_host"], files["data_nic_address"]):
        assert f"host {site.first('file_server')} tcp {address} 2049" in targets
        assert f"host {site.first('file_server')} udp {address} 111" in targets
    assert len({name.split()[1] for name in targets if name.startswith("run ")}) == len(PROBERS)


def test_file_server_hears_hosts_that_mount_and_no_pod(reached: dict[str, Any], site: Any) -> None:
    assert reached["control"] == 0
    login = site.hosts[site.first("login")]["data_nic_address"]
    assert {line.split()[0] for line in reached["nfs"] if line.strip()} == {login}


def test_users_of_a_host_that_mounts_cannot_speak_nfs_themselves(reached: dict[str, Any]) -> None:
    assert reached["user on the login node"] != 0
