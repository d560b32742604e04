"""What a member might try, tried for real with her own token: the table of named attacks, and beyond it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from dex import Dex
from kubernetes import client, config
from labcluster.adapters.kube import KubeApi
from labcluster.errors import LabclusterError, NotAllowedError, NotFoundError

from tests import attacks

pytestmark = pytest.mark.e2e

NAMES = [name for name, _, _ in attacks.attacks("")]
#: A group of bo's project, and none of ada's.
FOREIGN = "speech"
SECRET = f"/lab/projects/{FOREIGN}/data/e2e-attack-{os.getpid()}"


@pytest.fixture(scope="module")
def as_user(site: Any, address: str, password_of: Any) -> Iterator[Callable[[str], KubeApi]]:
    """as_user("ada"): the API server as kubectl on her own machine meets it, with her own token."""
    with closing(Dex(site.variables["cluster_domain"], address, site.secrets / "ca.crt")) as dex:
        known: dict[str, KubeApi] = {}

        def connect(user: str) -> KubeApi:
            if user not in known:
                token = "Bearer " + dex.device_login(user, password_of(user))["id_token"]
                found = client.Configuration()
                config.load_kube_config(str(site.secrets / "kubeconfig"), client_configuration=found)
                found.cert_file = found.key_file = None
                found.api_key = {"authorization": token, "BearerToken": token}
                known[user] = KubeApi(found)
            return known[user]

        yield connect


@pytest.fixture(scope="module")
def ada(as_user: Callable[[str], KubeApi]) -> KubeApi:
    """ada's own kubectl."""
    return as_user("ada")


@pytest.fixture(scope="module")
def registry(site: Any) -> str:
    """How images are named here."""
    return f"registry.{site.variables['cluster_domain']}:5000"


@pytest.mark.parametrize("name", NAMES)
def test_attack_is_refused_by_its_rule(ada: KubeApi, registry: str, name: str) -> None:
    rule, item = next((rule, item) for found, rule, item in attacks.attacks(registry) if found == name)
    path = attacks.collection(item)
    try:
        made = ada.create(path, item)
    except NotAllowedError as error:
        assert f"[{rule}]" in error.detail
        return
    except NotFoundError as error:
        # Kueue looks for the owner, before the policies are asked.
        assert rule == "identity/owner" and "denied the request" in error.detail
        return
    ada.delete(f"{path}/{made['metadata']['name']}")
    # Kueue itself puts what has no queue into the project's.
    assert rule == "queue/label", made
    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "default"


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("POST", "/api/v1/namespaces/project-vision/pods/{pod}/exec"),
        ("POST", "/api/v1/namespaces/project-vision/pods/{pod}/attach"),
        ("POST", "/api/v1/namespaces/project-vision/pods/{pod}/portforward"),
        ("POST", "/api/v1/namespaces/project-vision/pods/{pod}/binding"),
        ("POST", "/api/v1/namespaces/project-vision/pods/{pod}/eviction"),
        ("PATCH", "/api/v1/namespaces/project-vision/pods/{pod}"),
        ("PATCH", "/api/v1/namespaces/project-vision/pods/{pod}/ephemeralcontainers"),
        ("POST", "/api/v1/namespaces/project-vision/serviceaccounts/default/token"),
        ("GET", "/api/v1/namespaces/project-vision/configmaps/labcluster-members"),
        ("PATCH", "/api/v1/namespaces/project-vision/configmaps/labcluster-passwd"),
        ("POST", "/api/v1/namespaces/project-vision/persistentvolumeclaims"),
        ("POST", "/api/v1/persistentvolumes"),
        ("POST", "/apis/apps/v1/namespaces/project-vision/deployments"),
        ("PATCH", "/apis/kueue.x-k8s.io/v1beta2/namespaces/project-vision/localqueues/default"),
        ("GET", "/apis/kueue.x-k8s.io/v1beta2/namespaces/project-vision/workloads"),
        ("PATCH", "/apis/kueue.x-k8s.io/v1beta2/clusterqueues/project-vision"),
        ("PATCH", "/apis/labcluster.internal/v1/projects/vision"),
        ("DELETE", "/apis/batch/v1/namespaces/project-vision/jobs"),
        ("POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/project-vision/rolebindings"),
    ],
)
def test_member_is_not_allowed_anything_else(ada: KubeApi, verb: str, path: str) -> None:
    body = None if verb in ("GET", "DELETE") else {}
    content = "application/merge-patch+json" if verb == "PATCH" else "application/json"
    with pytest.raises(NotAllowedError):
        ada.request(verb, path.format(pod="any"), body=body, content_type=content)


@pytest.mark.parametrize("header", [{"user": "bo"}, {"user": "ada", "group": "labcluster:portal"}])
def test_member_impersonates_nobody(ada: KubeApi, header: dict[str, str]) -> None:
    with pytest.raises(NotAllowedError, match="impersonate"):
        ada.request("GET", "/apis/batch/v1/namespaces/project-vision/jobs", **header)


def test_colleague_cannot_remove_what_is_not_his(as_user: Any, registry: str) -> None:
    item = attacks.job(registry, f"e2e-attack-{os.getpid()}", "project-shared")
    # More than the project can ever have at once, so that it waits.
    item["spec"]["template"]["spec"]["containers"][0]["resources"] = {
        "limits": {"cpu": "900", "memory": "1Gi"}
    }
    path = attacks.collection(item)
    as_user("bo").create(path, item)
    with pytest.raises(NotAllowedError, match=r"\[access/own-things\] e2e-attack-\d+ belongs to bo"):
        as_user("ada").delete(f"{path}/{item['metadata']['name']}")
    as_user("bo").delete(f"{path}/{item['metadata']['name']}")


@pytest.fixture(scope="module")
def image(site: Any) -> str:
    """The common image, by a name that can be pulled."""
    api = KubeApi.load(site.secrets / "kubeconfig")
    jobs = api.list("/apis/batch/v1/namespaces/project-vision/jobs")
    images = [c["image"] for job in jobs for c in job["spec"]["template"]["spec"]["containers"]]
    return str(next(image for image in images if "/common/python-ml" in image))


def test_pod_of_kubectl_waits_in_the_queue_and_runs_as_its_maker(
    ada: KubeApi, registry: str, image: str
) -> None:
    item = attacks.pod(registry, f"e2e-attack-{os.getpid()}")
    del item["spec"]["initContainers"], item["spec"]["automountServiceAccountToken"]
    item["spec"]["containers"][0] |= {
        "image": image,
        "resources": {"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"memory": "64Mi"}},
        "command": ["sh", "-c", "id; whoami; ls /run/secrets/kubernetes.io || echo no token"],
    }
    path = attacks.collection(item)
    made = ada.create(path, item)
    here = f"{path}/{item['metadata']['name']}"
    try:
        assert {"name": "kueue.x-k8s.io/admission"} in made["spec"]["schedulingGates"]
        deadline = time.monotonic() + 60
        while (found := ada.get(here))["status"]["phase"] != "Succeeded":
            assert time.monotonic() < deadline and found["status"]["phase"] != "Failed", found["status"]
            time.sleep(0.3)
        stream = ada.open(f"{here}/log", idle_timeout=10)
        log = b"".join(stream.stream(1 << 16)).decode()
        stream.release_conn()
    finally:
        ada.delete(here)
    assert re.search(r"uid=\d+\(ada\) gid=\d+\(vision\)", log), log
    assert "\nada\n" in log
    assert "no token" in log


@pytest.fixture
def secret_of_bo(ssh_as: Any) -> Iterator[None]:
    """A file of bo's project that everybody of the project may read."""
    bo = ssh_as("bo")
    done = bo(
        f"umask 007 && mkdir {SECRET} && echo 'only for {FOREIGN}' > {SECRET}/file && cat {SECRET}/file"
    )
    assert done.code == 0, done.err
    yield
    assert bo(f"rm -r {SECRET}").code == 0


def test_image_with_groups_of_its_own_opens_nothing(
    ssh_as: Any, ada: KubeApi, image: str, secret_of_bo: None
) -> None:
    """The image says that uid 20000 is in the foreign group, and that it is root's too."""
    login = ssh_as("ada")
    own = login("id -u; id -G").out.split()
    foreign = ssh_as("bo")(f"getent group {FOREIGN}").out.split(":")[2]
    assert foreign not in own[1:]
    name = f"vision/e2e-attack:{os.getpid()}"
    base = (
        "common/python-ml:" + login("labctl image ls --json").out.split("common/python-ml:")[1].split('"')[0]
    )
    script = f"""
        set -e; cd $(mktemp -d)
        printf 'ada:x:{own[0]}:{foreign}::/:/bin/sh\\nroot:x:0:0::/:/bin/sh\\n' > passwd
        printf '{FOREIGN}:x:{foreign}:ada\\nroot:x:0:ada\\ndisk:x:6:ada\\n' > group
        printf 'FROM {base}\\nUSER 0\\nCOPY passwd group /etc/\\nUSER ada\\n' > Containerfile
        labctl image build -t {name} . >&2
    """
    done = login(script, timeout=180)
    assert done.code == 0, done.err
    try:
        command = f"labctl submit --project vision --memory 128M --image {name} --follow -- sh -c"
        done = login(
            f"cd ~ && {command} 'id -G; cat {SECRET}/file; ls {SECRET}; grep Groups /proc/self/status'"
        )
    finally:
        login(f"labctl image rm {name}")
    gids = {group for group in own[1:] if 30000 <= int(group) < 40000}
    assert set(done.out.splitlines()[0].split()) == gids, done
    line = next(line for line in done.out.splitlines() if line.startswith("Groups:"))
    assert set(line.split()[1:]) == gids
    assert f"only for {FOREIGN}" not in done.out
    assert done.out.count("Permission denied") + done.err.count("Permission denied") >= 2


def test_namespace_of_a_project_is_refused_to_strangers_outright(as_user: Any, registry: str) -> None:
    item = attacks.job(registry, "e2e-attack")
    with pytest.raises(NotAllowedError, match="forbidden"):
        as_user("bo").create(attacks.collection(item), item)
    with pytest.raises((NotAllowedError, NotFoundError)):
        as_user("bo").get(f"{attacks.collection(item)}/e2e-attack")


def test_refusals_are_one_sentence_with_a_name(ada: KubeApi, registry: str) -> None:
    item = attacks.put(attacks.job(registry), "spec.template.spec.hostPID", True)
    with pytest.raises(LabclusterError) as refusal:
        ada.create(attacks.collection(item), item)
    assert re.fullmatch(r"\[node/namespaces\] [^\n]+", refusal.value.detail)
