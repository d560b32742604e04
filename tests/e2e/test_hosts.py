"""Every host as phase `base` leaves it."""

from __future__ import annotations

import itertools
import json
import socket
import time
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

import pytest
from testinfra.host import Host

pytestmark = pytest.mark.e2e

SERVICES = ("api", "ldap", "portal", "registry")


def test_every_host_has_booted_without_a_failed_unit(every_host: dict[str, Host]) -> None:
    failed = {
        name: host.check_output("systemctl list-units --failed --plain --no-legend")
        for name, host in every_host.items()
    }
    assert failed == dict.fromkeys(every_host, "")


def test_a_host_has_its_name_and_knows_all_others(site: Any, every_host: dict[str, Host]) -> None:
    domain = site.variables["cluster_domain"]
    management = site.hosts[site.first("management")]["ansible_host"]
    expected = {f"{name}.{domain}": host["ansible_host"] for name, host in site.hosts.items()}
    expected |= {f"{service}.{domain}": management for service in SERVICES}
    for name, host in every_host.items():
        assert host.check_output("hostname") == name
        lines = host.check_output("getent hosts " + " ".join(expected)).splitlines()
        found = {known: line.split()[0] for known, line in zip(expected, lines, strict=True)}
        assert found == expected


def test_only_keys_open_a_host_and_never_roots(every_host: dict[str, Host]) -> None:
    for name, host in every_host.items():
        settings = dict(
            line.split(" ", 1) for line in host.check_output("sshd -T").splitlines() if " " in line
        )
        assert settings["permitrootlogin"] == "no", name
        assert settings["passwordauthentication"] == "no", name
        assert settings["kbdinteractiveauthentication"] == "no", name


def test_administrators_are_local_and_have_exactly_their_keys(site: Any, every_host: dict[str, Host]) -> None:
    for admin in site.variables["cluster_admins"]:
        for host in every_host.values():
            assert f":{admin['uid']}:" in host.check_output(f"grep ^{admin['name']}: /etc/passwd")
            keys = host.check_output(f"grep -v ^# /home/{admin['name']}/.ssh/authorized_keys").splitlines()
            assert keys == [key.strip() for key in admin["ssh_keys"]]


def test_every_host_trusts_the_sites_authority(every_host: dict[str, Host]) -> None:
    for host in every_host.values():
        subject = host.check_output("openssl x509 -in /etc/labcluster/ca.crt -noout -subject_hash")
        assert host.file(f"/etc/ssl/certs/{subject}.0").exists


def test_services_certificates_name_them_and_outlast_a_month(site: Any, infra: Callable[[str], Host]) -> None:
    management = infra(site.first("management"))
    domain = site.variables["cluster_domain"]
    for name in ("ldap", "registry", "portal", "postgresql"):
        file = f"/etc/labcluster/pki/{name}.crt"
        management.run_expect([0], f"openssl verify -CAfile /etc/labcluster/ca.crt {file}")
        management.run_expect(
            [0], f"openssl x509 -in {file} -noout -checkend {30 * 86400} -checkhost {name}.{domain}"
        )
        assert management.file(f"/etc/labcluster/pki/{name}.key").mode == 0o600
    assert management.file("/etc/labcluster/pki").mode == 0o700


def test_a_node_denies_by_default_in_a_table_of_its_own(every_host: dict[str, Host]) -> None:
    for name, host in every_host.items():
        ruleset = json.loads(host.check_output("nft --json list table inet labcluster"))["nftables"]
        chains = {item["chain"]["name"]: item["chain"] for item in ruleset if "chain" in item}
        assert chains["input"]["policy"] == "drop", name
        assert chains["forward"]["policy"] == "drop", name
        assert host.service("labcluster-firewall").is_enabled


def test_a_port_that_nobody_opened_is_closed_between_hosts(site: Any, infra: Callable[[str], Host]) -> None:
    gpu, login = site.first("gpu_node"), site.first("login")
    listener = "systemd-run --quiet --unit=e2e-listener --collect python3 -m http.server 18080"
    with_port = f"timeout 2 bash -c '</dev/tcp/{site.hosts[gpu]['ansible_host']}/18080'"
    infra(gpu).run_expect([0], listener)
    try:
        deadline = time.monotonic() + 10
        while infra(gpu).run("timeout 2 bash -c '</dev/tcp/127.0.0.1/18080'").rc:
            assert time.monotonic() < deadline
        assert infra(login).run(with_port).rc != 0
    finally:
        infra(gpu).run_expect([0], "systemctl stop e2e-listener")


def test_ssh_is_not_open_on_the_data_network(site: Any, infra: Callable[[str], Host]) -> None:
    files = site.hosts[site.first("file_server")].get("data_nic_address")
    if not files or ip_network(site.variables["cluster_data_network"]) in map(
        ip_network, site.variables["cluster_admin_networks"]
    ):
        pytest.skip("administrators come by the data network here")
    assert infra(site.first("gpu_node")).run(f"timeout 2 bash -c '</dev/tcp/{files}/22'").rc != 0


def test_full_packets_pass_between_every_pair_on_the_data_network(
    site: Any, every_host: dict[str, Host]
) -> None:
    connected = {name: host for name, host in site.hosts.items() if "data_nic_address" in host}
    lost = []
    for one, other in itertools.permutations(connected, 2):
        size = min(connected[one]["data_nic_mtu"], connected[other]["data_nic_mtu"]) - 28
        ping = f"ping -q -c 1 -W 2 -M do -s {size} -I {connected[one]['data_nic_interface']}"
        if every_host[one].run(f"{ping} {connected[other]['data_nic_address']}").rc:
            lost.append((one, other))
    assert lost == []


def test_drivers_and_kubernetes_are_left_to_people(every_host: dict[str, Host]) -> None:
    for host in every_host.values():
        settings = host.check_output("apt-config dump Unattended-Upgrade::Package-Blacklist")
        for package in ("nvidia-", "linux-(image|headers)-", "kube", "containerd"):
            assert package in settings


def test_the_lab_is_published_on_the_loopback_only(site: Any) -> None:
    port = site.variables.get("lab_hosts_login_ssh_port")
    if port is None:
        pytest.skip("a real site publishes nothing on this machine")
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        assert connection.recv(8).startswith(b"SSH-2.0")
