"""The platform's services as the rest of the site meets them, and how Ansible keeps their releases."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Done, SiteFiles
from labcluster.adapters.kube import KubeApi
from testinfra.host import Host

pytestmark = pytest.mark.e2e

RELEASES = {
    "registry", "openldap", "postgresql", "metrics-server", "nvidia-device-plugin", "kueue", "queues",
    "identity", "portal", "kube-router", "dex", "mlflow",
}  # fmt: skip
NAMESPACES = ("labcluster", "kueue-system")


@pytest.fixture(scope="module")
def api(site: SiteFiles) -> KubeApi:
    return KubeApi.load(site.secrets / "kubeconfig")


@pytest.fixture(scope="module")
def domain(site: SiteFiles) -> str:
    return str(site.variables["cluster_domain"])


@pytest.fixture(scope="module")
def base_dn(site: SiteFiles) -> str:
    return str(site.variables["cluster_ldap_base_dn"])


@pytest.fixture(scope="module")
def login(site: SiteFiles, infra: Callable[[str], Host]) -> Host:
    return infra(site.first("login"))


def records(api: KubeApi) -> list[dict[str, Any]]:
    """Helm's records: one Secret a revision."""
    return api.list("/api/v1/secrets", query={"labelSelector": "owner=helm"})


def newest(api: KubeApi) -> dict[str, dict[str, Any]]:
    """The newest record of each release."""
    found: dict[str, dict[str, Any]] = {}
    for item in sorted(records(api), key=lambda item: int(item["metadata"]["labels"]["version"])):
        found[item["metadata"]["labels"]["name"]] = item
    return found


def test_every_release_is_deployed(api: KubeApi) -> None:
    status = {name: item["metadata"]["labels"]["status"] for name, item in newest(api).items()}
    assert status == dict.fromkeys(RELEASES, "deployed")


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_pods_are_ready_and_confined(api: KubeApi, namespace: str) -> None:
    pods = api.list(f"/api/v1/namespaces/{namespace}/pods")
    assert pods
    for pod in pods:
        name = pod["metadata"]["name"]
        if "deletionTimestamp" in pod["metadata"]:
            continue  # the old version, on its way out
        ready = {item["type"]: item["status"] for item in pod["status"].get("conditions", [])}
        assert ready.get("Ready") == "True", name
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True, name
        for container in pod["spec"]["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
            assert "@sha256:" in container["image"], name


def ldapsearch(login: Host, url: str, *arguments: str) -> Done:
    given = ["LDAPTLS_CACERT=/etc/labcluster/ca.crt", "ldapsearch", "-x", "-LLL", "-o", "nettimeout=5"]
    given += ["-H", url, *arguments]
    # Not reaching a server ends with 255, which ssh keeps for itself.
    result = login.run("env " + " ".join(["%s"] * len(given)) + " || exit 1", *given)
    return Done(result.rc, result.stdout, result.stderr)


def test_directory_answers_only_who_gives_a_password_over_tls(login: Host, domain: str, base_dn: str) -> None:
    anonymous = ldapsearch(login, f"ldaps://ldap.{domain}", "-b", base_dn)
    assert "anonymous bind disallowed" in anonymous.err
    wrong = ldapsearch(
        login, f"ldaps://ldap.{domain}", "-D", f"cn=sssd,ou=services,{base_dn}", "-w", "guess", "-b", base_dn
    )
    assert "Invalid credentials" in wrong.err
    plain = ldapsearch(login, f"ldap://ldap.{domain}", "-b", base_dn)
    assert "Can't contact LDAP server" in plain.err


def test_directory_shows_sssd_people_but_no_passwords(
    login: Host, site: SiteFiles, domain: str, base_dn: str
) -> None:
    secret = site.variables["cluster_secrets"]["ldap_sssd_password"]
    credential = ("-D", f"cn=sssd,ou=services,{base_dn}", "-w", secret)
    people = ldapsearch(
        login, f"ldaps://ldap.{domain}", *credential, "-b", base_dn, "(|(uid=*)(ou=people))", "*"
    )
    assert f"ou=people,{base_dn}" in people.out
    assert "userPassword" not in people.out


def test_registry_sends_everybody_to_its_token_service(login: Host, domain: str) -> None:
    url = f"https://registry.{domain}:5000/v2/"
    headers = login.run("curl --silent --head --cacert /etc/labcluster/ca.crt %s", url).stdout
    assert headers.startswith("HTTP/2 401") or headers.startswith("HTTP/1.1 401")
    assert f'Bearer realm="https://registry.{domain}:5001/token"' in headers


def test_database_is_closed_to_nodes(api: KubeApi, site: SiteFiles, infra: Callable[[str], Host]) -> None:
    [pod] = api.list(
        "/api/v1/namespaces/labcluster/pods", query={"labelSelector": "app.kubernetes.io/name=postgresql"}
    )
    node = infra(site.first("gpu_node"))
    assert node.run("timeout 4 bash -c %s", f"exec 3<>/dev/tcp/{pod['status']['podIP']}/5432").rc != 0


def test_use_of_every_node_is_measured(api: KubeApi, site: SiteFiles) -> None:
    measured = {item["metadata"]["name"] for item in api.list("/apis/metrics.k8s.io/v1beta1/nodes")}
    assert measured == {*site.groups["kube_control_plane"], *site.groups["gpu_node"]}


@pytest.fixture
def interrupted(api: KubeApi) -> Iterator[str]:
    """A release whose last change looks as if its process had been killed an hour ago."""
    record = newest(api)["queues"]
    content = base64.b64decode(base64.b64decode(record["data"]["release"]))
    release = json.loads(gzip.decompress(content))
    release["info"] |= {"status": "pending-upgrade", "last_deployed": "2026-01-01T00:00:00Z"}
    packed = base64.b64encode(gzip.compress(json.dumps(release).encode()))
    record["data"]["release"] = base64.b64encode(packed).decode()
    record["metadata"]["labels"]["status"] = "pending-upgrade"
    metadata = record["metadata"]
    path = f"/api/v1/namespaces/{metadata['namespace']}/secrets/{metadata['name']}"
    api.request("PUT", path, body=record)
    yield "queues"


def platform(site: SiteFiles, *arguments: str) -> tuple[str, int]:
    """Run the phase; its output and the number of changes on the controller."""
    program = Path(sys.executable).with_name("ansible-playbook")
    command = [program, "-i", site.folder, "playbooks/platform.yml", "--tags", "platform", "-v", *arguments]
    environment = {**os.environ, "ANSIBLE_NOCOLOR": "1"}
    done = subprocess.run(
        command, cwd=ROOT / "ansible", env=environment, capture_output=True, text=True, check=False
    )
    recap = re.search(r"^localhost .*changed=(\d+)", done.stdout, re.MULTILINE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert recap
    return done.stdout, int(recap[1])


def test_interrupted_release_is_repaired_and_then_left_alone(
    site: SiteFiles, api: KubeApi, interrupted: str
) -> None:
    said, changes = platform(site, "--check")
    assert changes == 1
    assert newest(api)[interrupted]["metadata"]["labels"]["status"] == "pending-upgrade"
    said, changes = platform(site)
    assert changes == 1
    assert "an earlier change was interrupted (pending-upgrade)" in said
    assert newest(api)[interrupted]["metadata"]["labels"]["status"] == "deployed"
    _, changes = platform(site)
    assert changes == 0
