"""Images as people meet them: who pushes and pulls what, built on the login node, run on GPU nodes."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from labcluster.adapters.kube import KubeApi
from labcluster.adapters.registry_signing import TokenSigner
from labcluster.errors import NotAllowedError

pytestmark = pytest.mark.e2e

PULL, PUSH = "pull", "pull,push"


@pytest.fixture(scope="module")
def ada(ssh_as: Any) -> Any:
    return ssh_as("ada")


def good(done: Any) -> str:
    assert done.code == 0, done.err
    return str(done.out)


@pytest.fixture(scope="module")
def base(ada: Any) -> str:
    """A common image, as one writes it after FROM."""
    images = json.loads(good(ada("labctl image ls --json")))["items"]
    names = [image["reference"].split("/", 1)[1] for image in images]
    return next(name for name in names if name.startswith("common/"))


class Registry:
    """The registry as any client speaks to it, without labctl."""

    def __init__(self, site: Any) -> None:
        variables = site.variables
        self.address = site.hosts[site.first("management")]["ansible_host"]
        self.host = f"registry.{variables['cluster_domain']}:5000"
        self.secrets = variables["cluster_secrets"]
        context = ssl.create_default_context(cafile=str(site.secrets / "ca.crt"))
        self.client = httpx.Client(verify=context, trust_env=False)

    def token(self, who: tuple[str, str] | None, *scopes: str) -> httpx.Response:
        params = [("service", self.host), *[("scope", f"repository:{scope}") for scope in scopes]]
        return self.client.get(f"https://{self.address}:5001/token", params=params, auth=who)

    def get(self, repository: str, reference: str, token: str) -> int:
        kinds = "application/vnd.oci.image.manifest.v1+json"
        headers = {"Authorization": f"Bearer {token}", "Accept": kinds}
        url = f"https://{self.address}:5000/v2/{repository}/manifests/{reference}"
        return self.client.get(url, headers=headers).status_code


@pytest.fixture(scope="module")
def registry(site: Any) -> Iterator[Registry]:
    found = Registry(site)
    yield found
    found.client.close()


@pytest.fixture(scope="module")
def built(ada: Any, base: str) -> Iterator[str]:
    """An image that ada has built on the login node and pushed; it is removed in the end."""
    name = f"vision/e2e:{time.time_ns()}"
    containerfile = f"FROM {base}\nUSER root\nRUN id -u > /who && chown 1234:5678 /who\nUSER 10001\n"
    done = ada(
        "rm -rf e2e-image && mkdir e2e-image && cat > e2e-image/Containerfile && "
        f"labctl image build -t {name} e2e-image",
        stdin=containerfile.encode(),
        timeout=180,
    )
    assert good(done) == f"{name}\n"
    yield name
    forget(ada, name)
    ada("rm -rf e2e-image")


def forget(ada: Any, name: str) -> None:
    """Remove an image here and there."""
    ada(f"labctl image rm {name}; buildah rmi --force $(buildah images -q --filter reference={name})")


def test_image_built_on_the_login_node_runs_on_a_gpu_node(ada: Any, built: str) -> None:
    assert built in good(ada("labctl image ls -p vision"))
    done = ada(
        f"cd && labctl submit -p vision -m 256M --image {built} --follow -- stat -c '%u:%g' /who",
        timeout=120,
    )
    assert good(done).splitlines()[-1] == "1234:5678"


def test_nobody_else_uses_it(ssh_as: Any, site: Any, built: str) -> None:
    done = ssh_as("bo")(f"cd && labctl submit -p speech --image {built} -- true")
    assert (done.code, "belongs to 'vision'" in done.err) == (3, True), done.err
    # By way of the API server: the node holds the image by now, and its own credential may pull everything.
    container = {"name": "x", "image": f"registry.{site.variables['cluster_domain']}:5000/{built}"}
    spec = {"restartPolicy": "Never", "containers": [{**container, "imagePullPolicy": "Never"}]}
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "attack", "labels": {"kueue.x-k8s.io/queue-name": "default"}},
        "spec": {"template": {"spec": spec}},
    }
    with pytest.raises(NotAllowedError, match="image"):
        KubeApi.load(site.secrets / "kubeconfig").request(
            "POST",
            "/apis/batch/v1/namespaces/project-speech/jobs",
            query={"dryRun": "All"},
            body=job,
            user="bo",
        )


def test_archive_is_pushed_and_removed(ada: Any) -> None:
    name = f"vision/e2e-tiny:{time.time_ns()}"
    make = (
        "rm -rf e2e-tiny && mkdir e2e-tiny && cd e2e-tiny && echo hello > hello && "
        "printf 'FROM scratch\\nCOPY hello /\\n' > Containerfile && "
        f"labctl image build --no-push -t {name} && "
        f"buildah push $(buildah images -q --filter reference={name}) oci-archive:tiny.tar"
    )
    good(ada(make, timeout=60))
    try:
        assert good(ada(f"cd e2e-tiny && labctl image push tiny.tar {name}")) == f"{name}\n"
        for other, said in (
            ("speech/e2e:1", "no member of project speech"),
            ("common/e2e:1", "administrators"),
        ):
            done = ada(f"cd e2e-tiny && labctl image push tiny.tar {other}")
            assert (done.code, said in done.err) == (3, True), done.err
        assert good(ada(f"labctl image rm {name}")).startswith("removed vision/e2e-tiny")
        assert name not in good(ada("labctl image ls -p vision"))
        assert ada(f"labctl image rm {name}").code == 4
    finally:
        forget(ada, name)
        ada("rm -rf e2e-tiny")


def test_member_has_by_her_password_what_she_has_by_labctl(
    registry: Registry, password_of: Callable[[str], str], base: str
) -> None:
    who = ("ada", password_of("ada"))
    repository, tag = base.split(":")
    granted = registry.token(who, f"{repository}:{PULL}", f"vision/e2e:{PUSH}")
    assert registry.get(repository, tag, granted.json()["token"]) == 200
    for scope in (f"speech/x:{PULL}", f"speech/x:{PUSH}", f"common/x:{PUSH}", f"labcluster/portal:{PULL}"):
        answer = registry.token(who, scope)
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (403, "DENIED"), scope


@pytest.mark.parametrize(
    "who", [None, ("ada", "guess"), ("nobody", "guess"), ("node", "guess"), ("cluster", "")]
)
def test_whoever_is_not_known_gets_no_token(registry: Registry, who: tuple[str, str] | None) -> None:
    assert registry.token(who, f"common/python-ml:{PULL}").status_code == 401


def test_nodes_only_pull(registry: Registry, site: Any, on_host: Any, base: str) -> None:
    who = ("node", registry.secrets["registry_node_password"])
    repository, tag = base.split(":")
    assert registry.get(repository, tag, registry.token(who, f"{repository}:{PULL}").json()["token"]) == 200
    assert registry.token(who, f"{repository}:{PUSH}").status_code == 403
    file = "/etc/kubernetes/registry-credentials/response.json"
    look = f"stat -c '%a %U' {file}; cat /etc/containerd/certs.d/*/hosts.toml"
    seen = on_host(site.first("gpu_node"), look)
    assert seen.out.startswith("600 root")
    assert "uthorization" not in seen.out


def test_registry_refuses_a_token_that_has_expired(
    registry: Registry, site: Any, on_host: Any, base: str, tmp_path: Path
) -> None:
    """Made with the key itself, which only root of the management host has."""
    folder, name = "/etc/labcluster/pki", "registry-tokens"
    for kind in ("key", "crt"):
        (tmp_path / kind).touch(mode=0o600)
        (tmp_path / kind).write_text(on_host(site.first("management"), f"cat {folder}/{name}.{kind}").out)
    signer = TokenSigner(tmp_path / "key", tmp_path / "crt")
    repository, tag = base.split(":")
    now = int(time.time())
    claims = {
        "iss": registry.host.partition(":")[0], "aud": registry.host, "sub": "ada", "jti": "e2e",
        "access": [{"type": "repository", "name": repository, "actions": ["pull"]}],
    }  # fmt: skip
    good_token = signer.sign(claims | {"iat": now, "nbf": now, "exp": now + 60})
    assert registry.get(repository, tag, good_token) == 200
    old = signer.sign(claims | {"iat": now - 600, "nbf": now - 600, "exp": now - 300})
    assert registry.get(repository, tag, old) == 401
