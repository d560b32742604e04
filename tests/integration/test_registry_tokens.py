"""The token service in front of a real registry, spoken to by skopeo as podman and containerd speak."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from labcluster.adapters.registry import HttpRegistry, TokenAuth
from labcluster.adapters.registry_signing import TokenSigner
from labcluster.adapters.registry_storage import RegistryStorage
from labcluster.models.registry import Account
from labcluster.models.settings import RegistrySettings
from labcluster.registry_tokens.app import create_app
from labcluster.registry_tokens.wiring import Parts
from labcluster.services.registry_tokens import RegistryQuotas, TokenService
from registry_site import ADA, CLUSTER, NODE, Site, make_certificates, make_image

REGISTRY = shutil.which("docker-registry")
pytestmark = pytest.mark.skipif(
    REGISTRY is None or shutil.which("skopeo") is None, reason="needs Debian's docker-registry and skopeo"
)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("registry")
    make_certificates(home)
    (home / "trust").mkdir()
    shutil.copy(home / "ca.crt", home / "trust")
    make_image(home / "image.tar", b"hello\n")
    make_image(home / "other.tar", b"other" * 1000)
    make_image(home / "secret.tar", b"secret")
    ports = []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as found:
            ports.append(found.getsockname()[1])
    address, token_url = f"127.0.0.1:{ports[0]}", f"https://127.0.0.1:{ports[1]}"
    storage = RegistryStorage(home / "data", seconds=0.0)
    site = Site(home, address, token_url, storage)
    configuration = {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(home / "data")}, "delete": {"enabled": True}},
        "http": {
            "addr": address,
            "secret": "x",
            "tls": {"certificate": str(home / "tls.crt"), "key": str(home / "tls.key")},
        },
        "auth": {
            "token": {
                "realm": f"{token_url}/token",
                "service": address,
                "issuer": "labcluster",
                "rootcertbundle": str(home / "tokens.crt"),
            }
        },
    }
    (home / "config.yml").write_text(json.dumps(configuration))
    service = TokenService(
        service=address,
        issuer="labcluster",
        accounts={
            "cluster": (Account("cluster", "cluster"), CLUSTER.split(":")[1]),
            "node": (Account("node", "node"), NODE.split(":")[1]),
        },
        signer=TokenSigner(home / "tokens.key", home / "tokens.crt"),
        people=site,
        has_password=site.has_password,
        usage=RegistryQuotas(storage.used, lambda: {"vision": site.quota} if site.quota else {}, seconds=0.0),
        clock=lambda: time.time() + site.ahead,
    )
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(Parts(service, storage)),
            port=ports[1],
            log_level="error",
            ssl_certfile=str(home / "tls.crt"),
            ssl_keyfile=str(home / "tls.key"),
        )
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    assert REGISTRY
    with (home / "log").open("wb") as log:
        process = subprocess.Popen([REGISTRY, "serve", home / "config.yml"], stdout=log, stderr=log)
    try:
        end = time.monotonic() + 20
        while not (server.started and _listens(ports[0])):
            assert time.monotonic() < end and process.poll() is None, (home / "log").read_text()
            time.sleep(0.05)
        for name in ("common/base:1", "labcluster/portal:1", "vision/net:1", "speech/net:1"):
            assert site.push(CLUSTER, name) == ""
        yield site
    finally:
        process.kill()
        process.wait()
        server.should_exit = True
        thread.join()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def site(running: Site) -> Iterator[Site]:
    yield running
    running.away, running.quota, running.ahead = False, None, 0.0


def test_portal_sees_every_image(site: Site) -> None:
    url, nowhere = f"https://{site.address}", Path("/nonexistent")
    settings = RegistrySettings(
        host=site.address,
        url=url,
        token_url=site.token_url,
        username_file=nowhere,
        password_file=nowhere,
        ca_file=nowhere,
    )
    account = httpx.BasicAuth(*CLUSTER.split(":"))
    auth = TokenAuth(site.token_url, site.address, account)
    with httpx.Client(auth=auth, verify=site.trust(), trust_env=False) as client:
        registry = HttpRegistry(settings, client=client, account=account)
        assert {"common/base", "vision/net", "speech/net"} <= set(registry.repositories())
        assert registry.tags("vision/net") == ["1"]
        digest = str(registry.digest("vision/net", "1"))
        assert digest.startswith("sha256:")
        assert registry.size("vision/net", digest) == 113
        assert registry.usage()["vision"] > 113
        password, seconds = registry.login("ada", admin=False)
        assert (site.pull(f"ada:{password}", "vision/net:1"), seconds) == ("", 3600)
        assert site.push(CLUSTER, "speech/removed:1", "other.tar") == ""
        gone = str(registry.digest("speech/removed", "1"))
        assert registry.remove("speech/removed", gone)
        assert registry.digest("speech/removed", "1") is None
        assert not registry.remove("speech/removed", gone)


def test_member_pushes_and_pulls_her_projects_images_and_pulls_common_ones(site: Site) -> None:
    assert site.push(ADA, "vision/mine/deep:1") == ""
    assert site.pull(ADA, "vision/mine/deep:1") == ""
    assert site.pull(ADA, "common/base:1") == ""


@pytest.mark.parametrize(
    "name, said",
    [
        ("speech/net:2", "ada is no member of speech; projects: vision"),
        ("common/base:2", "only administrators change the common images"),
        ("labcluster/portal:2", "the images of the platform are the cluster's own"),
        ("vision:2", "ada is no member"),
    ],
)
def test_member_pushes_nothing_else_and_is_told_why(site: Site, name: str, said: str) -> None:
    assert site.push(ADA, name) != ""
    assert site.pull(CLUSTER, name) != ""
    answer = site.token(ADA, f"repository:{name.split(':')[0]}:pull,push")
    assert answer.status_code == 403
    [error] = answer.json()["errors"]
    assert error["code"] == "DENIED"
    assert said in error["message"]


def test_member_pulls_no_other_projects_images(site: Site) -> None:
    assert site.pull(ADA, "speech/net:1") != ""
    assert site.pull(ADA, "labcluster/portal:1") != ""


def test_layer_of_a_foreign_project_cannot_be_mounted(site: Site) -> None:
    """Knowing a digest is not enough: the mount needs pull of the repository that it comes from."""
    assert site.push("bo:ek-ek-ek", "speech/secret:1", "secret.tar") == ""
    with tarfile.open(site.home / "secret.tar") as archive:
        index = json.load(archive.extractfile("index.json"))  # type: ignore[arg-type]
        manifest = archive.extractfile("blobs/" + index["manifests"][0]["digest"].replace(":", "/"))
        layer = json.load(manifest)["layers"][0]["digest"]  # type: ignore[arg-type]
    granted = site.token(ADA, "repository:vision/x:pull,push", "repository:speech/secret:pull")
    bearer = {"Authorization": f"Bearer {granted.json()['token']}"}
    context = site.trust()
    url = f"https://{site.address}/v2/vision/x/blobs/uploads/?mount={layer}&from=speech/secret"
    answer = httpx.post(url, headers=bearer, verify=context)
    # 201 would be the layer; 202 asks her to send it, and 401 refuses.
    assert answer.status_code in (202, 401)
    head = httpx.head(f"https://{site.address}/v2/vision/x/blobs/{layer}", headers=bearer, verify=context)
    assert head.status_code == 404


def test_node_pulls_everything_and_pushes_nothing(site: Site) -> None:
    assert site.pull(NODE, "speech/net:1") == ""
    assert site.pull(NODE, "labcluster/portal:1") == ""
    assert site.push(NODE, "speech/net:3") != ""


@pytest.mark.parametrize(
    "who", [None, "ada:wrong", "ada:", "nobody:x", "node:of-the-cluster", "cluster:", "root:x"]
)
def test_whoever_is_not_known_gets_nothing(site: Site, who: str | None) -> None:
    assert site.pull(who, "common/base:1") != ""


def test_directory_that_is_away_stops_people_but_not_the_cluster(site: Site) -> None:
    site.away = True
    assert site.pull(NODE, "vision/net:1") == ""
    assert site.push(CLUSTER, "common/base:3") == ""
    answer = site.token(ADA, "repository:vision/net:pull")
    assert answer.status_code == 503
    assert "try again soon: the directory does not answer" in answer.json()["errors"][0]["message"]


def test_login_that_the_portal_hands_out_needs_no_password_and_ends(site: Site) -> None:
    with site.client(CLUSTER) as client:
        login = client.post(f"{site.token_url}/login", json={"user": "ada"}).json()
    who = f"ada:{login['password']}"
    assert site.push(who, "vision/by-login:1") == ""
    assert site.push(who, "speech/by-login:1") != ""
    assert site.push(f"bo:{login['password']}", "speech/by-login:1") != ""
    site.ahead = login["expires_in"] + 1
    assert site.pull(who, "vision/by-login:1") != ""


def test_only_the_cluster_hands_out_logins(site: Site) -> None:
    for who in (ADA, NODE):
        with site.client(who) as client:
            assert client.post(f"{site.token_url}/login", json={"user": "bo"}).status_code == 403
            assert client.get(f"{site.token_url}/usage").status_code == 403


def test_administrator_changes_common_images_but_not_the_platforms(site: Site) -> None:
    with site.client(CLUSTER) as client:
        asked = {"user": "labadmin", "admin": True}
        login = client.post(f"{site.token_url}/login", json=asked).json()
    who = f"labadmin:{login['password']}"
    assert site.push(who, "common/new:1") == ""
    assert site.push(who, "labcluster/new:1") != ""


def _ask_registry(site: Site, token: str) -> int:
    context = site.trust()
    url = f"https://{site.address}/v2/vision/net/manifests/1"
    return httpx.get(url, headers={"Authorization": f"Bearer {token}"}, verify=context).status_code


def test_registry_refuses_tokens_that_have_expired_or_are_of_another_key(site: Site) -> None:
    scope = "repository:vision/net:pull"
    assert _ask_registry(site, site.token(ADA, scope).json()["token"]) in (200, 404)
    # The registry allows a minute for clocks that differ.
    site.ahead = -400
    assert _ask_registry(site, site.token(ADA, scope).json()["token"]) == 401
    site.ahead = 0
    content = site.token(ADA, scope).json()["token"].split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(content + "=="))
    # Signed by a certificate of the same authority, as every service of the site has one.
    forged = TokenSigner(site.home / "other.key", site.home / "other.crt").sign(claims)
    assert _ask_registry(site, forged) == 401
    with site.client(CLUSTER) as client:
        login = client.post(f"{site.token_url}/login", json={"user": "ada"}).json()
    assert _ask_registry(site, login["password"]) == 401


def test_full_project_pulls_but_does_not_push(site: Site) -> None:
    assert site.push(ADA, "vision/one:1") == ""
    assert site.push(ADA, "vision/two:1") == ""
    used = site.storage.used("vision")
    # The same layers under two names are stored, and counted, once.
    assert 500 < used < 20000
    site.quota = used
    assert site.push(ADA, "vision/three:1") != ""
    message = site.token(ADA, "repository:vision/three:pull,push").json()["errors"][0]["message"]
    assert "project vision uses" in message and "labctl image rm" in message
    assert site.pull(ADA, "vision/one:1") == ""
    site.quota = used + 1
    assert site.push(ADA, "vision/three:1") == ""


def test_removed_image_counts_no_more(site: Site) -> None:
    assert site.push("bo:ek-ek-ek", "speech/gone:1", "other.tar") == ""
    before = site.storage.used("speech")
    place = [f"--cert-dir={site.home}/trust", f"docker://{site.address}/speech/gone:1"]
    removed = site.skopeo("delete", "--creds", "bo:ek-ek-ek", *place)
    assert removed.returncode == 0, removed.stderr
    assert site.storage.used("speech") < before
    assert site.pull("bo:ek-ek-ek", "speech/gone:1") != ""
