"""Both storage roles on real kernels: who may read what, from where, and that nothing is lost.

The tests run in the order in which they stand: the last one pulls the server's plug.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import GROUPS
from machines import Done, Machine
from vmsite import VmSite

SERVER, NODE, STRANGER, POD = "10.78.1.12", "10.78.1.21", "10.78.1.99", "10.244.7.2"
SECRET = "/lab/projects/vision/data/secret"
CLIENT = Path(__file__).with_name("nfs_client.py").read_text()


@pytest.fixture(scope="module", autouse=True)
def secret(vms: VmSite) -> None:
    """A file of project vision, for its members alone."""
    # Project vision is the last that the server's agent makes, and this its last folder.
    vms.files.check("timeout 120 sh -c 'until [ -d /lab/projects/vision/runs ]; do sleep 1; done'")
    vms.files.check(f"echo gold > {SECRET}; chown 20000:30000 {SECRET}; chmod 640 {SECRET}")


def as_user(machine: Machine, command: str, uid: int, groups: str = "") -> Done:
    """A command as somebody; without `groups` the request names none, and the server has to know them."""
    rest = f"--groups {groups}" if groups else "--clear-groups"
    return machine.run(f"setpriv --reuid {uid} --regid {uid} {rest} sh -c '{command}'")


def forge(machine: Machine, uid: int, gid: int, *, port: int | None = None, how: str = "") -> Done:
    """The client in user space, which claims to be whom it is told to; a `port` below 1024 takes root."""
    return machine.run(f"{how} python3 - {SERVER} {uid} {gid} {SECRET} {port or ''}", stdin=CLIENT)


@contextmanager
def without_firewall(machine: Machine) -> Iterator[None]:
    """What is behind labcluster's packet filter: is it a second wall, or was there only one?"""
    machine.check("nft delete table inet labcluster")
    try:
        yield
    finally:
        machine.check("systemctl reload labcluster-firewall && nft list table inet labcluster > /dev/null")


def test_second_run_of_the_roles_changes_nothing(vms: VmSite) -> None:
    assert re.findall(r"changed=(\d+) .*failed=(\d+)", vms.play("storage.yml")) == [("0", "0"), ("0", "0")]


def test_kernel_grants_what_the_roles_ask_for(vms: VmSite) -> None:
    options = set(vms.node.check("findmnt --noheadings --output OPTIONS /lab").strip().split(","))
    assert {"vers=4.2", "hard", "nconnect=8", "proto=tcp", "nosuid", "nodev"} <= options
    assert f"addr={SERVER}" in options
    versions = vms.files.check("cat /proc/fs/nfsd/versions").split()
    assert {"-3", "-4.0", "-4.1", "+4.2"} <= set(versions)
    listening = vms.files.check("ss -Hlnt sport = 2049").split()
    assert listening[3] == f"{SERVER}:2049"
    assert vms.files.run("ss -Hlntu sport = 111").out == ""


def test_member_works_in_his_project_and_nobody_else_reads_it(vms: VmSite) -> None:
    done = as_user(
        vms.node,
        f"cat {SECRET} && echo new > /lab/projects/vision/runs/f && mkdir /lab/projects/vision/runs/d",
        20000,
    )
    assert (done.code, done.out) == (0, "gold\n"), done
    made = vms.files.check(
        "stat --format %u:%g:%a /lab/projects/vision/runs/d /lab/projects/vision/runs/f"
    ).split()
    assert [entry.rsplit(":", 1)[0] for entry in made] == ["20000:30000", "20000:30000"]
    for command in (f"cat {SECRET}", "ls /lab/projects/vision", "ls /lab/home/ada", "ls /lab/scratch/ada"):
        done = as_user(vms.node, command, 20001)
        assert "Permission denied" in done.err, (command, done)


def test_forged_groups_are_worth_nothing(vms: VmSite) -> None:
    """bo's own request says that he is in vision; the server asks the directory, and he is not."""
    assert "Permission denied" in as_user(vms.node, f"cat {SECRET}", 20001, groups="20001,30000").err


def test_more_groups_than_a_request_has_room_for(vms: VmSite) -> None:
    for number in range(GROUPS):
        vms.files.check(
            f"f=/lab/projects/p{number}/data/f; echo {number} > $f; chown 0:{30010 + number} $f; chmod 640 $f"
        )
    done = as_user(vms.node, "cat /lab/projects/p*/data/f", 20000)
    assert (done.code, sorted(map(int, done.out.split()))) == (0, list(range(GROUPS))), done
    assert as_user(vms.node, "cat /lab/projects/p19/data/f", 20001).code != 0


def test_root_of_a_client_is_nobody(vms: VmSite) -> None:
    for command in (
        f"cat {SECRET}",
        "touch /lab/projects/mine",
        "chown 0 /lab/projects/vision",
        "ls /lab/registry",
    ):
        done = vms.node.run(command)
        assert done.code != 0, command
        assert re.search("Permission denied|Operation not permitted", done.err), (command, done)


def test_client_in_user_space_would_get_in_as_root_of_a_host_that_may_mount(vms: VmSite) -> None:
    """The control of the tests below: the forged request is a good one. Root on a node is trusted."""
    assert forge(vms.node, 20000, 20000, port=777).out == "gold\n"
    assert "NFS status 13" in forge(vms.node, 20001, 20001, port=778).out


def test_users_of_a_host_that_mounts_cannot_forge(vms: VmSite) -> None:
    bo = "setpriv --reuid 20001 --regid 20001 --clear-groups"
    assert forge(vms.node, 20000, 20000, how=bo).out.startswith("refused: connection")
    with without_firewall(vms.node):
        # The server itself wants a port that only root may use.
        assert forge(vms.node, 20000, 20000, how=bo).out == "refused: NFS status 1\n"


def test_host_that_is_not_listed_is_refused(vms: VmSite) -> None:
    try:
        vms.node.check(
            f"ip address add {STRANGER}/24 dev eth1; ip route replace {SERVER}/32 dev eth1 src {STRANGER}"
        )
        assert forge(vms.node, 20000, 20000, port=779).out.startswith("refused: connection")
        with without_firewall(vms.files):
            # The server knows no such client: AUTH_BADCRED (RFC 5531), before it looks at what is asked for.
            assert forge(vms.node, 20000, 20000, port=780).out == "refused: RPC denied: (1, 1)\n"
    finally:
        vms.node.check(f"ip route del {SERVER}/32 dev eth1; ip address del {STRANGER}/24 dev eth1")


# A network namespace behind the node, as a pod has it, and the masquerading of what leaves the pod network.
POD_NETWORK = f"""
set -e
sysctl --quiet --write net.ipv4.ip_forward=1
ip netns add pod
ip link add pod0 type veth peer name eth0 netns pod
ip address add 10.244.7.1/24 dev pod0
ip link set pod0 up
ip -n pod address add {POD}/24 dev eth0
ip -n pod link set eth0 up
ip -n pod route add default via 10.244.7.1
nft 'table ip pods {{ chain out {{ type nat hook postrouting priority srcnat;
  ip saddr 10.244.0.0/16 ip daddr != 10.244.0.0/16 masquerade; }}; }}'
"""


def test_pod_that_forges_a_uid_is_refused(vms: VmSite) -> None:
    """A pod as Kubernetes makes it, but with root and every capability: behind the node's own address."""
    pod = "ip netns exec pod"
    vms.node.check(POD_NETWORK)
    try:
        assert forge(vms.node, 20000, 20000, port=781, how=pod).out.startswith("refused: connection")
        # Nothing else would keep it out: the server hears a host that may mount.
        with without_firewall(vms.node):
            assert forge(vms.node, 20000, 20000, port=782, how=pod).out == "gold\n"
        assert forge(vms.node, 20000, 20000, port=783, how=pod).out.startswith("refused: connection")
    finally:
        vms.node.check("ip netns del pod; nft delete table ip pods")


def test_project_ends_at_its_limit_and_others_go_on(vms: VmSite) -> None:
    vms.portal.limits = {"speech": 3 * 2**20}
    vms.files.check("systemctl start labcluster-storage")
    write = "dd if=/dev/zero of=/lab/projects/{}/runs/big bs=1M count=8 conv=fsync 2>&1"
    done = as_user(vms.node, write.format("speech"), 20001)
    assert done.code != 0
    assert "Disk quota exceeded" in done.out, done
    done = as_user(vms.node, write.format("vision"), 20000)
    assert done.code == 0, done
    vms.files.check("systemctl start labcluster-storage")
    report = vms.portal.reports[-1]
    assert report["quotas"] is True
    # ext4 takes blocks of its own, which say where the file's are, without asking the quota.
    assert 2 * 2**20 <= report["projects"]["speech"]["bytes"] <= 3 * 2**20 + 64 * 1024
    assert report["projects"]["vision"]["bytes"] >= 8 * 2**20
    assert set(report["people"]) == {"ada", "bo"}
    assert len(vms.portal.tokens) == 1


BLOCKS = 80
WRITER = f"""
import os
with open("/lab/projects/vision/runs/long", "wb", buffering=0) as file:
    for number in range({BLOCKS}):
        file.write(bytes([number]) * 2**20)
        if number % 8 == 0:
            os.fsync(file.fileno())
        print(number, flush=True)
    os.fsync(file.fileno())
print("done", flush=True)
"""


def test_server_that_dies_in_mid_write_loses_nothing(vms: VmSite) -> None:
    wanted = hashlib.sha256(b"".join(bytes([number]) * 2**20 for number in range(BLOCKS))).hexdigest()
    # What the program says, and not what systemd says of it.
    said = "journalctl --quiet --output=cat _SYSTEMD_UNIT=writer.service"
    start = "systemd-run --quiet --unit=writer setpriv --reuid 20000 --regid 20000 --clear-groups python3 -c"
    vms.node.check(f"{start} {shlex.quote(WRITER)}")
    deadline = time.monotonic() + 120
    while len(vms.node.check(said).split()) < BLOCKS // 4:
        assert time.monotonic() < deadline, vms.node.check("systemctl status writer; true")
        time.sleep(0.5)
    vms.files.pull_the_plug()
    assert "done" not in vms.node.check(said).split()
    vms.files.start()
    vms.files.wait()
    deadline = time.monotonic() + 400
    while "done" not in vms.node.check(said).split():
        assert time.monotonic() < deadline, vms.node.check("systemctl status writer; dmesg | tail -5; true")
        time.sleep(5)
    vms.files.check("sync; echo 3 > /proc/sys/vm/drop_caches")
    assert vms.files.check("sha256sum /lab/projects/vision/runs/long", timeout=600).split()[0] == wanted
    # All of it came up by itself, the walls too.
    services = "nfs-server labcluster-firewall labcluster-tree labcluster-storage.timer sssd"
    assert vms.files.run(f"systemctl is-active {services}").out.split() == ["active"] * 5
    assert forge(vms.node, 20001, 20001, port=784).out == "refused: NFS status 13\n"
