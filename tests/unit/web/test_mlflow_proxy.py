"""What the portal passes on to MLflow, for whom, and what it says of him; over real connections."""

from __future__ import annotations

import hashlib
import http.client
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from anyio.from_thread import start_blocking_portal
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from labcluster.adapters.mlflow import AssertionSigner, MlflowUpstream
from labcluster.models.settings import MlflowSettings
from labcluster.services.experiments import MAX_BODY, ExperimentService
from labcluster.web.app import create_app
from labcluster.web.wiring import Experiments
from labcluster_mlflow.assertions import Assertions, Passage
from portal_site import Site
from stand_in_mlflow import BLOCK, StandInMlflow, serving

LIST = "/mlflow/w/vision/api/2.0/mlflow/experiments/search?max_results=5"
PUT = "/mlflow/w/vision/api/2.0/mlflow-artifacts/artifacts/1/2/artifacts/m%20odel.pt"
ADA = {"Authorization": "Bearer labctl:ada"}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The portal's key, and what MLflow has of it."""
    key = Ed25519PrivateKey.generate()
    folder = tmp_path_factory.mktemp("keys")
    private, public = folder / "key.pem", folder / "public.pem"
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture
def mlflow() -> StandInMlflow:
    return StandInMlflow()


@pytest.fixture
def site(lab: Any, mlflow: StandInMlflow, keys: tuple[Path, Path]) -> Iterator[Site]:
    with serving(mlflow) as address, start_blocking_portal() as loop:
        settings = MlflowSettings(url=f"http://{address}", ca_file=Path("ca.crt"), key_file=keys[0])
        service = ExperimentService(lab.cluster, AssertionSigner(settings.key_file))
        upstream = MlflowUpstream(settings)
        yield Site(lab, loop, public_page=False, experiments=Experiments(service, upstream))
        loop.call(upstream.close)


@pytest.fixture
def portal(site: Site) -> Iterator[httpx.Client]:
    """A client of the served portal; with `https` in its address for those who look at it."""
    with serving(create_app(site.portal)) as address, httpx.Client(base_url=f"http://{address}") as client:
        yield client


def passage(said: dict[str, Any], keys: tuple[Path, Path]) -> Passage | None:
    """What MLflow's door would make of what the portal said."""
    [word] = [value for name, value in said["headers"] if name == "x-lab-assertion"]
    return Assertions(keys[1]).read(word)


def test_member_is_passed_on_with_the_portals_word(portal: httpx.Client, keys: tuple[Path, Path]) -> None:
    said = portal.get(LIST, headers=ADA).json()
    assert (said["method"], said["path"]) == ("GET", "/api/2.0/mlflow/experiments/search")
    assert said["query"] == "max_results=5"
    assert passage(said, keys) == Passage("ada", "vision")


def test_path_goes_on_as_it_came(portal: httpx.Client) -> None:
    assert portal.put(PUT, headers=ADA, content=b"x").json()["path"].endswith("/artifacts/m%20odel.pt")


def test_foreign_project_and_unknown_project_are_refused_alike(
    portal: httpx.Client, mlflow: StandInMlflow
) -> None:
    answers = [
        portal.get(LIST.replace("vision", name), headers=ADA).json() for name in ("speech", "no-such-one")
    ]
    assert [answer["status"] for answer in answers] == [403, 403]
    assert answers[0]["detail"].replace("speech", "no-such-one") == answers[1]["detail"]
    assert mlflow.asked == []


def test_administrator_without_membership_is_refused(portal: httpx.Client, site: Site) -> None:
    said = portal.get(LIST, headers={"Authorization": site.credential("labadmin", "GET", LIST, b"")}).json()
    assert (said["status"], said["code"]) == (403, 3)


def test_munge_proves_a_member_and_binds_the_body(portal: httpx.Client, site: Site) -> None:
    target = "/mlflow/w/vision/api/2.0/mlflow/runs/search"
    good = {"Authorization": site.credential("ada", "POST", target, b"{}")}
    assert portal.post(target, headers=good, content=b"{}").json()["size"] == 2
    other = {"Authorization": site.credential("ada", "POST", target, b"{}")}
    assert portal.post(target, headers=other, content=b"{ }").status_code == 401


def test_body_that_munge_must_prove_is_not_read_without_end(
    portal: httpx.Client, mlflow: StandInMlflow
) -> None:
    answer = portal.put(PUT, headers={"Authorization": "Munge x"}, content=b"0" * (2 << 20))
    assert answer.status_code == 400
    assert mlflow.asked == []


@pytest.mark.parametrize(
    ("token", "project", "status"),
    [
        ("pod:ada:vision", "vision", 200),
        # ada's, but the pod is of another of her projects; no member; not genuine; the same elsewhere.
        ("pod:ada:vision", "shared", 403),
        ("pod:bo:vision", "vision", 403),
        ("pod:forged:vision", "vision", 401),
    ],
)
def test_pod_acts_for_its_user_in_its_own_project(
    portal: httpx.Client, keys: tuple[Path, Path], token: str, project: str, status: int
) -> None:
    answer = portal.get(LIST.replace("vision", project), headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == status
    if status == 200:
        assert passage(answer.json(), keys) == Passage("ada", "vision")


def test_pods_token_is_good_for_experiments_alone(portal: httpx.Client) -> None:
    answer = portal.get("/api/v1/whoami", headers={"Authorization": "Bearer pod:ada:vision"})
    assert answer.status_code == 401


def test_nothing_that_could_be_taken_for_a_proof_goes_on(
    portal: httpx.Client, keys: tuple[Path, Path]
) -> None:
    forged = {
        "X-Lab-Assertion": "forged",
        "X_Lab_Assertion": "forged",
        "X-MLFLOW-WORKSPACE": "speech",
        "X-MLflow-Authorization": "Basic x",
        "X-Forwarded-For": "10.0.0.1",
        "Cookie": "session=x",
        "Origin": "https://evil",
        "X-Mlflow-Experiment-Id": "7",
    }
    said = portal.get(LIST, headers={**ADA, **forged}).json()
    names = {name for name, _ in said["headers"]}
    assert passage(said, keys) == Passage("ada", "vision")
    assert names <= {
        *("accept", "accept-encoding", "host", "connection", "user-agent"),
        *("x-lab-assertion", "x-mlflow-experiment-id"),
    }


def test_browser_gets_nothing_that_is_mlflows_own_business(
    portal: httpx.Client, mlflow: StandInMlflow
) -> None:
    mlflow.headers += [
        (b"set-cookie", b"session=x"),
        (b"www-authenticate", b"Basic"),
        (b"access-control-allow-origin", b"*"),
        (b"x-frame-options", b"NONE"),
        (b"etag", b'"1"'),
    ]
    answer = portal.get(LIST, headers=ADA)
    assert answer.headers["etag"] == '"1"'
    assert not {"set-cookie", "www-authenticate", "access-control-allow-origin", "x-frame-options"} & set(
        answer.headers
    )


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("/", "default-src 'self'"),
        ("/get-artifact?path=1", "sandbox"),
        ("/api/2.0/mlflow-artifacts/artifacts/1/2/artifacts/page.html", "sandbox"),
        ("/model-versions/get-artifact?path=1", "sandbox"),
        ("/ajax-api/2.0/mlflow/logged-models/m/artifacts/files", "sandbox"),
    ],
)
def test_pages_run_no_script_of_others_and_artifacts_none_at_all(
    portal: httpx.Client, path: str, rule: str
) -> None:
    policies = portal.get(f"/mlflow/w/vision{path}", headers=ADA).headers.get_list("content-security-policy")
    assert len(policies) == 1
    assert policies[0].startswith(rule)
    assert "script-src" not in policies[0]
    assert "frame-ancestors 'none'" in policies[0]


@pytest.mark.parametrize("path", ["/../speech/", "/a/%2e%2e/b", "/a/.%2E", "/./a", "/a/.."])
def test_path_that_climbs_is_refused(portal: httpx.Client, mlflow: StandInMlflow, path: str) -> None:
    """By a client that does not tidy it up first."""
    connection = http.client.HTTPConnection(portal.base_url.host, portal.base_url.port)
    connection.request("GET", f"/mlflow/w/vision{path}", headers=ADA)
    assert connection.getresponse().status == 400
    connection.close()
    assert mlflow.asked == []


@pytest.mark.parametrize(
    "path", ["/mlflow/w/Vision/", "/mlflow/w//", "/mlflow/w/vision%2F..%2Fspeech/", "/mlflow/w/v_/"]
)
def test_what_is_no_project_is_not_found(site: Site, path: str) -> None:
    assert site.client.get(path, headers=ADA).status_code == 404


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE"])
def test_other_methods_are_refused(portal: httpx.Client, mlflow: StandInMlflow, method: str) -> None:
    assert portal.request(method, LIST, headers=ADA).status_code == 405
    assert mlflow.asked == []


def test_prefix_without_its_slash_leads_to_the_page(portal: httpx.Client) -> None:
    answer = portal.get("/mlflow/w/vision", headers=ADA)
    assert (answer.status_code, answer.headers["location"]) == (308, "/mlflow/w/vision/")


def test_browser_logs_in_and_comes_back_to_its_project(site: Site) -> None:
    page = {"Accept": "text/html"}
    answer = site.client.get("/mlflow/w/vision/", headers=page)
    assert (answer.status_code, answer.headers["location"]) == (302, "/login")
    site.client.get("/login")
    assert site.client.get("/login/callback?state=s1&code=ada").headers["location"] == "/mlflow/w/vision/"
    assert site.client.get("/mlflow/w/vision/").status_code == 200
    assert site.client.get("/mlflow/w/speech/").status_code == 403
    assert '<a href="/mlflow/w/vision/">' in site.client.get("/").text


def test_client_without_a_credential_is_not_sent_to_a_login_page(portal: httpx.Client) -> None:
    assert portal.get(LIST).status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://portal"}, 200),
        ({"Origin": "https://portal"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "https://evil"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "https://portal"}, 403),
        ({"Origin": "https://evil"}, 403),
        ({}, 403),
    ],
)
def test_other_sites_write_nothing_with_a_browsers_session(
    site: Site, mlflow: StandInMlflow, headers: dict[str, str], status: int
) -> None:
    site.client.get("/login")
    site.client.get("/login/callback?state=s1&code=ada")
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        answer = site.client.request(method, LIST.partition("?")[0], headers=headers, content=b"{}")
        assert answer.status_code == status
    assert len(mlflow.asked) == (4 if status == 200 else 0)


def test_artifacts_go_up_while_they_arrive(portal: httpx.Client, mlflow: StandInMlflow) -> None:
    """The second half is sent only when the first has been seen at the other end."""
    seen, blocks = threading.Event(), 1024
    mlflow.gate = lambda size: seen.set() if size >= 16 * len(BLOCK) else None
    digest = hashlib.sha256()

    def content() -> Iterator[bytes]:
        for index in range(blocks):
            if index == blocks // 2:
                assert seen.wait(10), "nothing arrived before the end"
            digest.update(BLOCK)
            yield BLOCK

    said = portal.put(PUT, headers=ADA, content=content()).json()
    assert said["size"] == blocks * len(BLOCK) > MAX_BODY
    assert said["sha256"] == digest.hexdigest()


def test_artifacts_come_down_whole(portal: httpx.Client) -> None:
    size = 600 * len(BLOCK)
    answer = portal.get(f"/mlflow/w/vision/get-artifact?path={size}", headers=ADA)
    assert len(answer.content) == size > MAX_BODY


def test_what_mlflow_keeps_in_memory_is_bounded(portal: httpx.Client, mlflow: StandInMlflow) -> None:
    target = "/mlflow/w/vision/api/2.0/mlflow/runs/log-batch"
    assert portal.post(target, headers=ADA, content=b"0" * (MAX_BODY + 1)).status_code == 400

    def unannounced() -> Iterator[bytes]:
        for _ in range(MAX_BODY // len(BLOCK) + 2):
            yield BLOCK

    assert portal.post(target, headers=ADA, content=unannounced()).status_code == 400
    assert all("sha256" not in said for said in mlflow.asked)


def test_client_that_leaves_ends_its_upload(portal: httpx.Client, mlflow: StandInMlflow) -> None:
    ended = threading.Event()
    mlflow.asked = _Told(ended)

    def breaks_off() -> Iterator[bytes]:
        yield BLOCK * 4
        raise KeyError("gone")

    with pytest.raises(KeyError):
        portal.put(PUT, headers={**ADA, "Content-Length": str(1 << 30)}, content=breaks_off())
    assert ended.wait(10)
    assert mlflow.asked[0].get("broken")
    assert portal.get(LIST, headers=ADA).status_code == 200


class _Told(list[dict[str, Any]]):
    """A list that says when something was added."""

    def __init__(self, event: threading.Event) -> None:
        super().__init__()
        self._event = event

    def append(self, item: dict[str, Any]) -> None:
        super().append(item)
        self._event.set()


@pytest.mark.parametrize("status", [400, 403, 404, 500])
def test_mlflows_own_refusals_are_its_own(portal: httpx.Client, mlflow: StandInMlflow, status: int) -> None:
    mlflow.status = status
    answer = portal.get(LIST, headers=ADA)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")


def test_mlflow_that_does_not_believe_is_our_failure(portal: httpx.Client, mlflow: StandInMlflow) -> None:
    mlflow.status = 401
    answer = portal.get(LIST, headers=ADA).json()
    assert (answer["status"], answer["code"]) == (503, 6)


def test_mlflow_that_is_away_is_said_in_a_sentence(lab: Any, keys: tuple[Path, Path]) -> None:
    settings = MlflowSettings(url="http://127.0.0.1:1", ca_file=Path("ca.crt"), key_file=keys[0])
    service = ExperimentService(lab.cluster, AssertionSigner(settings.key_file))
    with start_blocking_portal() as loop:
        site = Site(lab, loop, experiments=Experiments(service, MlflowUpstream(settings)))
        answer = site.client.get(LIST, headers=ADA).json()
        loop.call(site.portal.experiments.upstream.close)
    assert (answer["status"], answer["code"]) == (503, 6)
    assert "MLflow does not answer" in answer["detail"]


def test_portal_without_mlflow_says_so(lab: Any) -> None:
    with start_blocking_portal() as loop:
        answer = Site(lab, loop).client.get(LIST, headers=ADA).json()
    assert (answer["status"], answer["detail"]) == (404, "this portal has no MLflow")
