"""Logins by Dex: labctl and kubectl with a person's own token, from the login node and from elsewhere.

Whose tokens are refused is tried with Dex's own signing key, which only an administrator can read: so
they are genuine but for the one thing that is tried.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import ldap
import pytest
from dex import Dex
from joserfc import jwt
from joserfc.jwk import RSAKey
from labcluster.adapters.kube import KubeApi
from playwright.sync_api import Browser, Page, expect

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
#: A place of its own on the login node, so that nothing of ada's is touched.
PLACE = "export XDG_STATE_HOME=$HOME/.e2e-auth KUBECONFIG=$HOME/.e2e-auth/kubeconfig;"
SIGNING_KEY = "/apis/dex.coreos.com/v1/namespaces/labcluster/signingkeies/openid-connect-keys"
PODS = "/api/v1/namespaces/labcluster/pods"
JOB = """
apiVersion: batch/v1
kind: Job
metadata: {name: %s, labels: {kueue.x-k8s.io/queue-name: default}}
spec:
  ttlSecondsAfterFinished: 60
  template:
    spec:
      restartPolicy: Never
      containers:
        - name: main
          image: %s
          command: [id, -u]
          resources: {requests: {cpu: 100m, memory: 64Mi}, limits: {cpu: 100m, memory: 64Mi}}
          %s
"""

Send = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def admin(site: Any) -> KubeApi:
    """The cluster as its administrator."""
    return KubeApi.load(site.secrets / "kubeconfig")


@pytest.fixture(scope="module")
def dex(site: Any, address: str) -> Iterator[Dex]:
    """Dex without a browser."""
    with closing(Dex(site.variables["cluster_domain"], address, site.secrets / "ca.crt")) as found:
        yield found


def labctl_login(
    start: Callable[[], subprocess.Popen[bytes]], browser: Browser, fill: Callable[[Page, str], None]
) -> str:
    """Run `labctl login`, confirm its code in the browser, and give what it said last."""
    with start() as labctl:
        assert labctl.stderr is not None
        said = []
        for line in labctl.stderr:
            said.append(line.decode())
            if found := re.search(r"https://\S+user_code=(\S+)", said[-1]):
                page = browser.new_page(ignore_https_errors=True)
                page.goto(found[0])
                expect(page.locator("#user_code")).to_have_value(found[1])
                page.click("#submit-login")
                fill(page, "ada")
                expect(page.locator("h2")).to_contain_text("Login Successful")
                page.close()
        assert labctl.wait(60) == 0, said
    return said[-1]


@pytest.fixture(scope="module")
def ada(
    site: Any, ssh_as: Any, ssh_config: Path, browser: Browser, fill_login: Any
) -> Iterator[Callable[..., Any]]:
    """ada's shell on the login node, logged in for kubectl."""
    shell = ssh_as("ada")
    key = site.secrets / "users" / "ada_ed25519"
    words = ["ssh", "-F", str(ssh_config), "-i", str(key), "-l", "ada", "-n", site.first("login")]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([*words, f"{PLACE} labctl login"], stderr=subprocess.PIPE)

    assert "as ada" in labctl_login(start, browser, fill_login)
    assert shell(f"{PLACE} labctl kubeconfig --project vision --merge").code == 0
    yield lambda command, **options: shell(f"{PLACE} {command}", **options)
    shell("rm -rf ~/.e2e-auth")


def test_login_is_kept_where_only_its_owner_reads_it(ada: Any) -> None:
    done = ada("stat -c %a $XDG_STATE_HOME/labcluster $XDG_STATE_HOME/labcluster/*.json $KUBECONFIG")
    assert done.out.split() == ["700", "600", "600"]


def test_kubectl_knows_the_member_and_his_projects(ada: Any) -> None:
    me = json.loads(ada("kubectl auth whoami -o json").out)["status"]["userInfo"]
    assert me["username"] == "ada"
    assert set(me["groups"]) == {"vision", "shared", "system:authenticated"}


def test_kubectl_sees_the_members_projects_only(ada: Any) -> None:
    assert ada("kubectl get jobs").code == 0
    for refused in ("-n project-speech get jobs", "get nodes", "-n labcluster get secrets", "get configmaps"):
        done = ada(f"kubectl {refused}")
        assert (done.code, "forbidden" in done.err.lower()) == (1, True), refused


@pytest.fixture(scope="module")
def image(ada: Any) -> str:
    """An image that everybody may use, by name."""
    found = [image["reference"] for image in json.loads(ada("labctl image ls --json").out)["items"]]
    return str(next(reference for reference in found if "/common/" in reference))


def test_a_job_of_kubectl_runs_as_its_member_whatever_it_asks_for(ada: Any, image: str) -> None:
    name = f"e2e-auth-{os.getpid()}"
    asks = "securityContext: {runAsUser: 0, runAsNonRoot: false}"
    made = ada("kubectl create -f -", stdin=(JOB % (name, image, asks)).encode())
    if made.code:  # asking for root may be refused instead of corrected: both are the policies' answer
        assert "labcluster" in made.err or "policy" in made.err, made.err
        made = ada("kubectl create -f -", stdin=(JOB % (name, image, "")).encode())
    try:
        assert made.code == 0, made.err
        done = ada(
            f"kubectl wait --for=condition=complete --timeout=60s job/{name} && kubectl logs job/{name}"
        )
        assert done.out.split()[-1] == ada("id -u").out.strip(), done.err
    finally:
        ada(f"kubectl delete job {name} --ignore-not-found --wait=false")


def test_a_job_that_reaches_for_the_host_is_refused(ada: Any, image: str) -> None:
    asks = "securityContext: {privileged: true}"
    done = ada("kubectl create --dry-run=server -f -", stdin=(JOB % ("e2e-auth", image, asks)).encode())
    assert done.code == 1
    assert "privileged" in done.err


def test_bo_cannot_work_in_adas_project(ask_api: Send, dex: Dex, password_of: Any) -> None:
    token = dex.device_login("bo", password_of("bo"))["id_token"]
    assert ask_api("/apis/batch/v1/namespaces/project-speech/jobs", token).status_code == 200
    assert ask_api("/apis/batch/v1/namespaces/project-vision/jobs", token).status_code == 403


def test_another_machine_needs_a_config_only(
    site: Any, address: str, browser: Browser, fill_login: Any, tmp_path: Path
) -> None:
    """A laptop: this machine with an empty home, which learns the site's names by a hosts file of its own."""
    if os.geteuid() or not shutil.which("unshare"):
        pytest.skip("a hosts file of its own needs root and unshare")
    domain = site.variables["cluster_domain"]
    (tmp_path / "hosts").write_text(
        f"127.0.0.1 localhost\n{address} portal.{domain} dex.{domain} api.{domain}\n"
    )
    script = 'mount --bind "$0" /etc/hosts && exec "$@"'
    labctl = str(Path(sys.executable).with_name("labctl"))
    own = {"HOME": str(tmp_path), "PATH": f"{ROOT}/build/store/bin/kubernetes:/usr/bin:/bin"}

    def words(*command: str) -> list[str]:
        return ["unshare", "--mount", "sh", "-c", script, str(tmp_path / "hosts"), *command]

    def start() -> subprocess.Popen[bytes]:
        at = ["--portal", f"https://portal.{domain}", "--ca", str(site.secrets / "ca.crt")]
        return subprocess.Popen(words(labctl, "login", *at), env=own, stderr=subprocess.PIPE)

    def run(*command: str) -> str:
        done = subprocess.run(
            words(*command), env=own, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "as ada" in labctl_login(start, browser, fill_login)
    assert json.loads(run(labctl, "whoami", "--json"))["user"] == "ada"
    (tmp_path / "kubeconfig").write_text(run(labctl, "kubeconfig", "--project", "vision"))
    assert "job" in run("kubectl", "--kubeconfig", str(tmp_path / "kubeconfig"), "get", "jobs", "-o", "name")


@pytest.fixture(scope="module")
def ask_api(site: Any, address: str, admin: KubeApi) -> Iterator[Send]:
    """ask_api(path, token): kube-apiserver's answer."""
    config = (site.secrets / "kubeconfig").read_text()
    found = re.search(r"certificate-authority-data: (\S+)", config)
    assert found
    trust = ssl.create_default_context(cadata=base64.b64decode(found[1]).decode())
    with httpx.Client(verify=trust, base_url=f"https://{address}:6443", timeout=10) as client:
        yield lambda path, token: client.get(path, headers={"Authorization": f"Bearer {token}"})


@pytest.fixture(scope="module")
def ask_portal(site: Any, address: str) -> Iterator[Send]:
    """ask_portal(token): who the portal says it is."""
    trust = ssl.create_default_context(cafile=str(site.secrets / "ca.crt"))
    with httpx.Client(verify=trust, base_url=f"https://{address}", timeout=10) as client:
        yield lambda token: client.get("/api/v1/whoami", headers={"Authorization": f"Bearer {token}"})


@pytest.fixture(scope="module")
def sign(admin: KubeApi, dex: Dex) -> Callable[..., str]:
    """sign(groups=[…]): a token of Dex's own key for ada, with these claims instead."""
    key = RSAKey.import_key(admin.get(SIGNING_KEY)["signingKey"])

    def made(**changes: Any) -> str:
        now = int(time.time())
        claims = {"iss": dex.issuer, "sub": "e2e", "aud": "labctl", "iat": now, "exp": now + 300}
        claims |= {"preferred_username": "ada", "groups": ["vision"]} | changes
        return jwt.encode({"alg": "RS256", "kid": key.kid}, claims, key)

    return made


WHOAMI = "/apis/batch/v1/namespaces/project-vision/jobs"


def test_a_genuine_token_is_taken_by_both(sign: Any, ask_api: Send, ask_portal: Send) -> None:
    assert ask_api(WHOAMI, sign()).status_code == 200
    assert ask_portal(sign()).json()["user"] == "ada"


@pytest.mark.parametrize("fault", ["expired", "audience", "issuer", "tampered", "nobody"])
def test_a_token_that_is_not_for_now_here_and_him_is_refused_by_both(
    sign: Any, ask_api: Send, ask_portal: Send, fault: str
) -> None:
    now = int(time.time())
    head, _, signature = sign().split(".")
    token = {
        "expired": lambda: sign(iat=now - 1000, exp=now - 100),
        "audience": lambda: sign(aud="portal"),
        "issuer": lambda: sign(iss="https://elsewhere/dex"),
        "tampered": lambda: f"{head}.{sign(preferred_username='bo').split('.')[1]}.{signature}",
        "nobody": lambda: sign(preferred_username=""),
    }[fault]()
    assert ask_api(WHOAMI, token).status_code == 401
    assert ask_portal(token).status_code in ((401, 403) if fault == "nobody" else (401,))


@pytest.mark.parametrize(
    "claim",
    [
        {"groups": ["system:masters"]},
        {"groups": ["vision", "kubeadm:cluster-admins"]},
        {"groups": ["labcluster:shell"]},
        {"preferred_username": "system:kube-controller-manager"},
        {"preferred_username": "system:serviceaccount:labcluster:labcluster-portal"},
    ],
    ids=lambda claim: str(next(iter(claim.values()))),
)
def test_names_and_groups_of_the_system_are_nobodys(sign: Any, ask_api: Send, claim: dict[str, Any]) -> None:
    """An LDAP group of such a name would reach the token: the apiserver refuses it as a whole."""
    assert ask_api(WHOAMI, sign(**claim)).status_code == 401


def test_a_browsers_token_is_none_for_labctl_and_kubectl(
    site: Any, dex: Dex, ask_api: Send, ask_portal: Send, password_of: Any
) -> None:
    secret = site.variables["cluster_secrets"]["dex_portal_secret"]
    back = f"https://portal.{site.variables['cluster_domain']}/login/callback"
    token = dex.code_login("ada", password_of("ada"), "portal", secret, back)["id_token"]
    assert ask_portal(token).status_code == 401
    assert ask_api(WHOAMI, token).status_code == 401


@pytest.mark.parametrize(("user", "password"), [("ada", "wrong"), ("stranger", "any"), ("ada)(uid=*", "any")])
def test_wrong_passwords_and_strangers_find_no_login(dex: Dex, user: str, password: str) -> None:
    with pytest.raises(LookupError, match="Invalid"):
        dex.device_login(user, password)


@pytest.fixture
def passing(site: Any, ssh_as: Any, on_host: Any, address: str) -> Iterator[tuple[str, str]]:
    """Name and password of a member without a project, who is gone afterwards."""
    name, password = "e2e-auth", secrets.token_urlsafe(12)
    admin = ssh_as(site.variables["ansible_user"])
    for verb in (f"add {name} --full-name 'E2e Auth' --password-stdin", f"enable {name}"):
        done = admin(f"labctl admin member {verb}", stdin=f"{password}\n".encode())
        assert done.code == 0, done.err
    yield name, password
    base = site.variables["cluster_ldap_base_dn"]
    directory = ldap.initialize(f"ldaps://{address}")
    directory.set_option(ldap.OPT_X_TLS_CACERTFILE, str(site.secrets / "ca.crt"))
    directory.set_option(ldap.OPT_X_TLS_NEWCTX, 0)
    directory.simple_bind_s(f"cn=admin,{base}", site.variables["cluster_secrets"]["ldap_admin_password"])
    directory.delete_s(f"uid={name},ou=people,{base}")
    directory.unbind_s()
    on_host(site.first("file_server"), f"rm -rf /lab/home/{name} /lab/scratch/{name}")


def test_a_disabled_member_is_out_and_cannot_come_back(
    site: Any, ssh_as: Any, dex: Dex, ask_portal: Send, passing: tuple[str, str]
) -> None:
    name, password = passing
    tokens = dex.device_login(name, password)
    assert ask_portal(tokens["id_token"]).json()["user"] == name
    assert ssh_as(site.variables["ansible_user"])(f"labctl admin member disable {name}").code == 0
    time.sleep(10)  # for so long after a login Dex answers without the directory (reuseInterval)
    form = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
    assert dex.post("token", **form, client_id="labctl-laptop").status_code >= 400
    with pytest.raises(LookupError, match="Invalid"):
        dex.device_login(name, password)
    deadline = time.monotonic() + 10  # the portal reads the directory every two seconds
    while ask_portal(tokens["id_token"]).status_code != 403:
        assert time.monotonic() < deadline, "the portal still takes the token"
        time.sleep(0.3)


def test_a_login_elsewhere_ends_the_older_one_of_its_kind_only(dex: Dex, password_of: Any) -> None:
    def renew(tokens: dict[str, Any], client: str) -> int:
        form = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
        return dex.post("token", **form, client_id=client).status_code

    node = dex.device_login("bo", password_of("bo"), "labctl")
    first = dex.device_login("bo", password_of("bo"), "labctl-laptop")
    dex.device_login("bo", password_of("bo"), "labctl-laptop")
    assert renew(first, "labctl-laptop") == 400
    assert renew(node, "labctl") == 200


def test_tokens_go_on_while_dex_is_away(
    admin: KubeApi, dex: Dex, ask_api: Send, ask_portal: Send, password_of: Any
) -> None:
    tokens = dex.device_login("ada", password_of("ada"))
    assert ask_portal(tokens["id_token"]).status_code == 200
    assert ask_api(WHOAMI, tokens["id_token"]).status_code == 200
    for pod in admin.list(PODS, query={"labelSelector": "app.kubernetes.io/name=dex"}):
        admin.delete(f"{PODS}/{pod['metadata']['name']}")
    assert ask_portal(tokens["id_token"]).status_code == 200
    assert ask_api(WHOAMI, tokens["id_token"]).status_code == 200
    form = {
        "grant_type": "refresh_token",
        "refresh_token": tokens["refresh_token"],
        "client_id": "labctl-laptop",
    }
    deadline = time.monotonic() + 60
    while True:
        try:
            renewed = dex.post("token", **form)
        except httpx.TransportError:
            assert time.monotonic() < deadline, "Dex does not come back"
            time.sleep(0.3)
        else:
            break
    assert renewed.status_code == 200, renewed.text
    assert ask_api(WHOAMI, renewed.json()["id_token"]).status_code == 200
