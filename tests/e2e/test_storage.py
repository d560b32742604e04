"""The shared tree: who serves it to whom, and who may read what on it."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from testinfra.host import Host

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def server(site: Any, infra: Callable[[str], Host]) -> Host:
    """The file server."""
    return infra(site.first("file_server"))


@pytest.fixture(scope="module")
def clients(site: Any, infra: Callable[[str], Host]) -> dict[str, Host]:
    """Every host that mounts the tree, by name."""
    names = {name for group in ("login", "gpu_node", "management") for name in site.groups[group]}
    return {name: infra(name) for name in sorted(names)}


@pytest.mark.parametrize(
    ("path", "owner", "mode"),
    [
        ("/lab", 0, 0o755),
        ("/lab/home", 0, 0o755),
        ("/lab/projects", 0, 0o755),
        ("/lab/datasets", 0, 0o755),
        ("/lab/scratch", 0, 0o755),
        ("/lab/registry", 10103, 0o700),
        ("/lab/mlflow", 10106, 0o700),
    ],
)
def test_the_tree_has_its_folders(server: Host, path: str, owner: int, mode: int) -> None:
    folder = server.file(path)
    assert folder.is_directory
    assert (folder.uid, folder.mode) == (owner, mode)


def test_only_clients_data_addresses_may_mount_and_root_is_nobody(
    site: Any, server: Host, clients: dict[str, Host]
) -> None:
    exports = server.file("/etc/exports.d/labcluster.exports").content_string
    assert dict(re.findall(r"^\s+(\S+)\((\S+)\)", exports, re.MULTILINE)) == {
        site.hosts[name]["data_nic_address"]: "rw,sync,root_squash,no_subtree_check,sec=sys"
        for name in clients
    }
    assert re.findall(r"^\S+", re.sub(r"^#.*$", "", exports, flags=re.MULTILINE), re.MULTILINE) == ["/lab"]


def test_the_server_speaks_nfs_4_2_on_the_data_network_and_decides_about_groups(
    site: Any, server: Host
) -> None:
    def setting(section: str, key: str) -> str:
        return str(server.check_output(f"nfsconf --get {section} {key}"))

    assert setting("nfsd", "host") == site.hosts[site.first("file_server")]["data_nic_address"]
    assert {key: setting("nfsd", key) for key in ("vers3", "vers4.0", "vers4.1", "vers4.2")} == {
        "vers3": "n",
        "vers4.0": "n",
        "vers4.1": "n",
        "vers4.2": "y",
    }
    assert setting("mountd", "manage-gids") == "y"
    # What manage-gids asks: the server itself knows who is in which project.
    assert "vision" in server.check_output("id --name --groups ada").split()


def test_every_client_has_the_tree_and_watches_it(site: Any, clients: dict[str, Host]) -> None:
    for name, host in clients.items():
        assert host.check_output("/usr/local/sbin/labcluster-storage-probe") == "/lab is there", name
        assert host.service("labcluster-storage-probe.timer").is_running, name
        if site.variables["cluster_storage_kind"] == "nfs":
            options = host.mount_point("/lab").options
            assert {"vers=4.2", "hard", "rsize=1048576", "wsize=1048576"} <= set(options), name


def test_a_missing_tree_is_told(clients: dict[str, Host], site: Any) -> None:
    # The probe on a path that is no mount: what it says when the tree is missing, without taking it away.
    host = clients[site.first("login")]
    elsewhere = "s#^tree=.*#tree=/mnt#; s#/run/labcluster#/run/e2e-labcluster#g"
    probe = f"sed '{elsewhere}' /usr/local/sbin/labcluster-storage-probe"
    done = host.run(f"{probe} | timeout 30 sh; code=$?; rm -rf /run/e2e-labcluster; exit $code")
    assert done.rc == 1
    assert done.stdout.startswith("/mnt is not a mount")


def test_what_one_host_writes_all_hosts_read(
    site: Any, ssh_as: Callable[..., Any], clients: dict[str, Host], server: Host
) -> None:
    name = f"/lab/projects/vision/data/e2e-{uuid.uuid4().hex}"
    assert ssh_as("ada")(f"echo from-login > {name}").code == 0
    try:
        for host in [*clients.values(), server]:
            file = host.file(name)
            assert file.content_string == "from-login\n"
            # The project's group, by the folder's setgid bit: whoever of the project writes, all may read.
            assert (file.user, file.group) == ("ada", "vision") or (file.uid, file.gid) == (20000, 30000)
    finally:
        ssh_as("ada")(f"rm -f {name}")


def test_a_member_has_a_home_and_each_project_its_folders(server: Host) -> None:
    for path in ("/lab/home/ada", "/lab/scratch/ada"):
        assert server.file(path).mode == 0o700
        assert server.file(path).user == "ada"
    for folder in ("runs", "data", "models", "code"):
        found = server.file(f"/lab/projects/vision/{folder}")
        assert (found.mode, found.user, found.group) == (0o2770, "root", "vision")
    assert server.file("/lab/projects/vision/capsules").mode == 0o3770


@pytest.mark.parametrize(
    "path", ["/lab/home/ada", "/lab/scratch/ada", "/lab/projects/vision/runs", "/lab/registry"]
)
def test_nobody_reads_what_is_not_theirs(ssh_as: Callable[..., Any], path: str) -> None:
    done = ssh_as("bo")(f"ls {path}")
    assert done.code != 0
    assert "Permission denied" in done.err
