"""GPUs from the driver (or its simulator) through NVIDIA's own toolkit and device plugin to a run."""

from __future__ import annotations

import re
import time
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kubernetes import client, config
from testinfra.host import Host

pytestmark = [pytest.mark.e2e, pytest.mark.gpu]

FLOOR = (1, 17, 8)


@pytest.fixture(scope="module")
def gpu_hosts(site: Any, infra: Callable[[str], Host]) -> dict[str, Host]:
    """The GPU nodes by name."""
    return {name: infra(name) for name in site.groups["gpu_node"]}


@pytest.fixture(scope="module")
def core(site: Any) -> client.CoreV1Api:
    """The cluster as its administrator sees it."""
    return client.CoreV1Api(config.new_client_from_config(str(site.secrets / "kubeconfig")))


@pytest.fixture(scope="module")
def allocatable(core: client.CoreV1Api) -> Callable[[str], int]:
    """How many GPUs of a node the cluster may use now."""
    return lambda name: int(core.read_node(name).status.allocatable.get("nvidia.com/gpu", 0))


def wait_for(condition: Callable[[], bool], seconds: float, complaint: str) -> None:
    """Return as soon as the condition holds; fail with the complaint when it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{complaint} within {seconds:.0f} s"
        time.sleep(1)


def uuids(host: Host) -> list[str]:
    """The UUIDs that nvidia-smi lists."""
    return re.findall(r"UUID: (GPU-[0-9a-f-]+)", host.check_output("nvidia-smi -L"))


def test_the_cluster_offers_every_gpu_that_a_node_has(
    site: Any, gpu_hosts: dict[str, Host], allocatable: Callable[[str], int]
) -> None:
    for name, host in gpu_hosts.items():
        expected = site.hosts[name]["gpu_count"]
        assert len(uuids(host)) == expected, name
        assert allocatable(name) == expected, name


def test_no_two_gpus_of_the_site_are_the_same(gpu_hosts: dict[str, Host]) -> None:
    everything = [uuid for host in gpu_hosts.values() for uuid in uuids(host)]
    assert len(set(everything)) == len(everything)


def test_device_specifications_name_every_gpu(gpu_hosts: dict[str, Host]) -> None:
    for host in gpu_hosts.values():
        listed = host.check_output("nvidia-ctk cdi list 2> /dev/null").splitlines()
        for uuid in uuids(host):
            assert f"nvidia.com/gpu={uuid}" in listed
            assert f"k8s.device-plugin.nvidia.com/gpu={uuid}" in listed


def test_the_toolkit_is_closed_to_requests_by_environment(gpu_hosts: dict[str, Host]) -> None:
    for host in gpu_hosts.values():
        settings = tomllib.loads(host.file("/etc/nvidia-container-runtime/config.toml").content_string)
        assert settings["accept-nvidia-visible-devices-envvar-when-unprivileged"] is False
        assert settings["accept-nvidia-visible-devices-as-volume-mounts"] is False
        assert settings["nvidia-container-runtime"]["mode"] == "cdi"


def test_the_toolkit_has_no_known_way_out_of_a_container(gpu_hosts: dict[str, Host]) -> None:
    for host in gpu_hosts.values():
        version = re.search(r"version v?(\d+)\.(\d+)\.(\d+)", host.check_output("nvidia-ctk --version"))
        assert version, "nvidia-ctk does not know its version"
        assert tuple(map(int, version.groups())) >= FLOOR


def run_log(ssh_as: Callable[..., Any], options: str, command: str) -> str:
    """What a run of ada's printed."""
    ada = ssh_as("ada")
    done = ada(
        f"labctl submit --project vision --memory 128M {options} --follow -- sh -c '{command}'", timeout=180
    )
    assert done.code == 0, done.err
    return str(done.out)


def test_a_run_sees_its_own_gpus_and_no_other(ssh_as: Callable[..., Any]) -> None:
    log = run_log(ssh_as, "--gpus 2", "ls -1 /dev/nvidia*; nvidia-smi -L")
    assert len(re.findall(r"^/dev/nvidia\d+$", log, re.MULTILINE)) == 2
    assert len(re.findall(r"^GPU \d+: ", log, re.MULTILINE)) == 2


def test_a_run_without_gpus_sees_none(ssh_as: Callable[..., Any]) -> None:
    log = run_log(ssh_as, "--gpus 0", "ls -1 /dev | grep -c nvidia; env | grep NVIDIA_VISIBLE")
    assert "0\n" in log
    assert "NVIDIA_VISIBLE_DEVICES=void" in log


@pytest.fixture
def broken_gpu(
    site: Any, gpu_hosts: dict[str, Host], core: client.CoreV1Api, allocatable: Callable[[str], int]
) -> Iterator[str]:
    """A node whose GPU 3 reports that it fell off the bus; whole again afterwards."""
    if site.variables["cluster_gpu_source"] != "simulated":
        pytest.skip("a real GPU is not broken for a test")
    name, host = list(gpu_hosts.items())[-1]
    host.run_expect([0], "gpu-simulator lost 3")
    yield name
    host.run_expect([0], "gpu-simulator heal all")
    # The device plugin never takes a device back by itself: after a repair it is restarted.
    plugin = {"namespace": "kube-system", "label_selector": "app.kubernetes.io/name=nvidia-device-plugin"}
    for pod in core.list_namespaced_pod(**plugin, field_selector=f"spec.nodeName={name}").items:
        core.delete_namespaced_pod(pod.metadata.name, pod.metadata.namespace)
    wait_for(lambda: allocatable(name) == site.hosts[name]["gpu_count"], 60, "the GPU did not come back")


def test_a_lost_gpu_is_offered_no_more(
    site: Any, broken_gpu: str, gpu_hosts: dict[str, Host], allocatable: Callable[[str], int]
) -> None:
    expected = site.hosts[broken_gpu]["gpu_count"] - 1
    wait_for(lambda: allocatable(broken_gpu) == expected, 30, "the lost GPU is still offered")
    listing = gpu_hosts[broken_gpu].run("nvidia-smi -L")
    assert "GPU is lost" in listing.stderr
    assert listing.stdout.count("UUID") == expected
