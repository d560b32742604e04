"""Checks the values of a good site file against one another and against the hosts."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, ip_address
from itertools import combinations
from pathlib import Path

from labcluster.models.inventory import Inventory, Problem
from labcluster.models.site import Host, Site

_PREFIX = "cluster_"
#: Groups whose machines mount /lab from the file server.
_STORAGE_GROUPS = ("login", "gpu_node", "management", "file_server")
#: kube-controller-manager gives every node a /24 of the pod network.
_NODE_POD_PREFIX = 24


class SiteChecks:
    """One method a check, each yielding what it finds wrong."""

    def __init__(self, inventory: Inventory, site: Site, hosts: dict[str, Host]) -> None:
        self.inventory = inventory
        self.site = site
        self.hosts = hosts

    def problems(self) -> Iterator[Problem]:
        """What every check finds, in the order of the site file."""
        for check in (
            self.networks_overlap,
            self.addresses,
            self.pod_network_size,
            self.data_nics,
            self.gpu_counts,
            self.admins,
            self.certificates,
            self.proxy,
            self.base_dn,
            self.lab_only,
        ):
            yield from check()

    def _where(self, name: str) -> str:
        return self.inventory.where(name)

    def _host_where(self, host: str, key: str) -> str:
        return self.inventory.host_where(host, key)

    def networks_overlap(self) -> Iterator[Problem]:
        networks = {
            key: getattr(self.site, key)
            for key in ("management_network", "data_network", "pod_network", "service_network")
        }
        for (one, a), (other, b) in combinations(networks.items(), 2):
            if a.overlaps(b):
                yield Problem(
                    self._where(_PREFIX + other), f"{b} overlaps {_PREFIX}{one} ({a}): choose another"
                )

    def addresses(self) -> Iterator[Problem]:
        seen: dict[IPv4Address, str] = {}
        for name, host in self.hosts.items():
            pairs: list[tuple[str, IPv4Address | None, str, IPv4Network]] = [
                ("ansible_host", host.ansible_host, "management_network", self.site.management_network),
                ("data_nic_address", host.data_nic_address, "data_network", self.site.data_network),
            ]
            for key, address, network_name, network in pairs:
                if address is None:
                    continue
                where = self._host_where(name, key)
                if address not in network:
                    yield Problem(
                        where,
                        f"{address} is not in {_PREFIX}{network_name} {network}: {_near(address, network)}",
                    )
                elif address in (network.network_address, network.broadcast_address):
                    yield Problem(
                        where, f"{address} is the network's own or broadcast address: give the host another"
                    )
                if address in seen:
                    yield Problem(where, f"{address} is also {seen[address]}'s: every address once")
                seen.setdefault(address, name)

    def pod_network_size(self) -> Iterator[Problem]:
        nodes = {
            h
            for g in ("management", "kube_control_plane", "gpu_node")
            for h in self.inventory.groups.get(g, [])
        }
        room = (
            2 ** (_NODE_POD_PREFIX - self.site.pod_network.prefixlen)
            if self.site.pod_network.prefixlen <= _NODE_POD_PREFIX
            else 0
        )
        if len(nodes) > room:
            yield Problem(
                self._where("cluster_pod_network"),
                f"{self.site.pod_network} holds {room} nodes of a /{_NODE_POD_PREFIX} each, "
                f"the site has {len(nodes)}: use a /16",
            )

    def data_nics(self) -> Iterator[Problem]:
        mtus: dict[int, str] = {}
        for name, host in self.hosts.items():
            groups = [g for g in _STORAGE_GROUPS if name in self.inventory.groups.get(g, [])]
            if host.data_nic_address is None:
                if groups and self.site.storage_kind == "nfs":
                    yield Problem(
                        self._host_where(name, "data_nic_address"),
                        f"is missing: a {groups[0]} host reaches /lab over {self.site.data_network}",
                    )
                continue
            for key in ("data_nic_interface", "data_nic_mtu"):
                if getattr(host, key) is None:
                    yield Problem(
                        self._host_where(name, key), "is missing: a host with a data_nic_address needs it"
                    )
            if host.data_nic_mtu is not None:
                mtus.setdefault(host.data_nic_mtu, name)
        if len(mtus) > 1:
            told = ", ".join(f"{mtu} on {name}" for mtu, name in sorted(mtus.items()))
            name = mtus[min(mtus)]
            yield Problem(
                self._host_where(name, "data_nic_mtu"), f"differs on one network ({told}): use one MTU"
            )

    def gpu_counts(self) -> Iterator[Problem]:
        for name in self.inventory.groups.get("gpu_node", []):
            if name in self.hosts and self.hosts[name].gpu_count is None:
                yield Problem(
                    self._host_where(name, "gpu_count"),
                    "is missing: how many GPUs are in the machine? They are counted against it",
                )

    def admins(self) -> Iterator[Problem]:
        where = self._where("cluster_admins")
        for one, other in combinations(self.site.admins, 2):
            if one.uid == other.uid:
                yield Problem(where, f"uid {one.uid} is given to {one.name} and {other.name}: every uid once")
            if one.name == other.name:
                yield Problem(where, f"{one.name} is listed twice: keep one entry with all keys")

    def certificates(self) -> Iterator[Problem]:
        for name in self.site.extra_ca_files:
            path = Path(name) if Path(name).is_absolute() else self.inventory.folder / name
            where = f"{self._where('cluster_extra_ca_files')}: {name}"
            if not path.is_file():
                yield Problem(where, f"no such file (looked at {path}): name a PEM file on this machine")
                continue
            try:
                ssl.create_default_context(cadata=path.read_text())
            except (ssl.SSLError, UnicodeDecodeError, ValueError):
                yield Problem(
                    where, "holds no certificate in PEM form: it must begin with -----BEGIN CERTIFICATE-----"
                )

    def proxy(self) -> Iterator[Problem]:
        if not (self.site.proxy.http or self.site.proxy.https):
            return
        for key in ("management_network", "service_network", "pod_network"):
            if str(getattr(self.site, key)) not in self.site.proxy.no_proxy:
                yield Problem(
                    self._where("cluster_proxy") + ".no_proxy",
                    f"lacks {_PREFIX}{key}: add {getattr(self.site, key)}, "
                    "else the cluster talks to itself through the proxy",
                )

    def base_dn(self) -> Iterator[Problem]:
        expected = ",".join(f"dc={label}" for label in self.site.domain.split("."))
        if self.site.ldap_base_dn != expected:
            yield Problem(
                self._where("cluster_ldap_base_dn"),
                f"{self.site.ldap_base_dn} does not belong to cluster_domain {self.site.domain}: "
                f"did you mean {expected}?",
            )

    def lab_only(self) -> Iterator[Problem]:
        if self.site.kernel_allowances and self.site.storage_kind == "nfs":
            yield Problem(
                self._where("cluster_kernel_allowances"),
                "is for the lab's containers, which cannot mount NFS: set it to false on real machines",
            )


def _near(address: IPv4Address, network: IPv4Network) -> str:
    """An address of the network with the same host part, else its network."""
    host_part = int(address) & int(network.hostmask)
    candidate = ip_address(int(network.network_address) | host_part)
    return f"did you mean {candidate}?"
