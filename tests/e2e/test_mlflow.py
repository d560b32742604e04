"""MLflow through the portal: its pages in a real browser, and what another project's member gets of a run."""

from __future__ import annotations

import json
import shlex
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from dex import Dex
from playwright.sync_api import Browser, Page, expect

pytestmark = pytest.mark.e2e

#: Appears in everything that the run leaves.
SECRET = "vision-secret-0815"
PROGRAM = (
    f"echo 'labcluster: step=1 loss=0.125'; echo {SECRET};"
    f" mkdir -p $LABCLUSTER_ARTIFACTS/notes; echo {SECRET} > $LABCLUSTER_ARTIFACTS/notes/secret.txt"
)
RECORD_SECONDS = 90
#: Asks with the token that the kubelet gave the pod.
ASK = """
import os, ssl, sys, urllib.error, urllib.request
trust = ssl.create_default_context(cafile="/labcluster/ca.crt")
token = open("/var/run/secrets/labcluster/token/token").read()
foreign = "/mlflow/w/vision/api/2.0/mlflow/runs/get?run_id=" + sys.argv[1]
own = [f"/mlflow/w/{name}/version" for name in ("speech", "vision", "shared")]
for path in (*own, foreign, "/api/v1/whoami"):
    headers = {"Authorization": "Bearer " + token}
    request = urllib.request.Request(os.environ["LABCLUSTER_PORTAL"] + path, headers=headers)
    try:
        print("said", urllib.request.urlopen(request, context=trust).status)
    except urllib.error.HTTPError as error:
        print("said", error.code)
"""


@dataclass(frozen=True)
class Recorded:
    """A run of ada's in vision, as MLflow has it."""

    run: str
    experiment_id: str
    run_id: str

    @property
    def file(self) -> str:
        """Its artifact, as the artifacts' own routes name it."""
        return f"{self.experiment_id}/{self.run_id}/artifacts/notes/secret.txt"


@pytest.fixture(scope="module")
def url(site: Any) -> str:
    """The portal by its name."""
    return f"https://portal.{site.variables['cluster_domain']}"


@pytest.fixture(scope="module")
def mlflow(
    site: Any, address: str, password_of: Callable[[str], str]
) -> Iterator[Callable[[str, str], httpx.Client]]:
    """mlflow("ada", "vision"): a client with a token of Dex's, at the portal's address."""
    ca = site.secrets / "ca.crt"
    trust = ssl.create_default_context(cafile=str(ca))
    made: list[httpx.Client] = []
    with closing(Dex(site.variables["cluster_domain"], address, ca)) as dex:

        def client(user: str, project: str) -> httpx.Client:
            token = dex.device_login(user, password_of(user))["id_token"]
            base = f"https://{address}/mlflow/w/{project}"
            headers = {"Authorization": f"Bearer {token}"}
            made.append(httpx.Client(base_url=base, headers=headers, verify=trust, timeout=30))
            return made[-1]

        yield client
    for client in made:
        client.close()


@pytest.fixture(scope="module")
def recorded(ssh_as: Callable[..., Any], mlflow: Callable[[str, str], httpx.Client]) -> Recorded:
    """The run, as soon as its record is whole."""
    words = "labctl submit --project vision --name secrets --memory 256M --cpus 0.2 --no-code --json --"
    done = ssh_as("ada")(f"cd; {words} {shlex.join(['bash', '-c', PROGRAM])}")
    assert done.code == 0, done.err
    run = json.loads(done.out)["id"]
    ada = mlflow("ada", "vision")
    deadline = time.monotonic() + RECORD_SECONDS
    while True:
        found = _find(ada, run)
        if found is not None and found["info"].get("status") == "FINISHED":
            recorded = Recorded(run, found["info"]["experiment_id"], found["info"]["run_id"])
            if ada.get(f"/api/2.0/mlflow-artifacts/artifacts/{recorded.file}").status_code == 200:
                return recorded
        assert time.monotonic() < deadline, f"{run} is not recorded: {found}"
        time.sleep(1)


def _find(client: httpx.Client, run: str) -> dict[str, Any] | None:
    experiment = client.get("/api/2.0/mlflow/experiments/get-by-name", params={"experiment_name": "secrets"})
    if experiment.status_code != 200:
        return None
    body = {
        "experiment_ids": [experiment.json()["experiment"]["experiment_id"]],
        "filter": f"tags.`labcluster.run` = '{run}'",
    }
    runs = client.post("/api/2.0/mlflow/runs/search", json=body).json().get("runs", [])
    return runs[0] if runs else None


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page(ignore_https_errors=True)  # the site's authority is not this machine's
    yield page
    page.close()


def test_browser_comes_by_the_login_to_the_projects_page_and_sees_the_run(
    page: Page, url: str, fill_login: Callable[[Page, str], None], recorded: Recorded
) -> None:
    failed: list[str] = []
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.goto(f"{url}/mlflow/w/vision/")
    fill_login(page, "ada")
    page.wait_for_url(f"{url}/mlflow/w/vision/**")
    expect(page.get_by_text("Select workspace")).to_have_count(0)
    place = f"{url}/mlflow/w/vision/#/experiments/{recorded.experiment_id}/runs/{recorded.run_id}"
    page.goto(place)
    expect(page.get_by_text("loss").first).to_be_visible(timeout=30_000)
    page.goto(f"{place}/artifacts/notes/secret.txt")
    expect(page.get_by_text(SECRET).first).to_be_visible(timeout=30_000)
    assert failed == []
    page.goto(url)
    link = page.get_by_role("link", name="vision", exact=True)
    expect(link).to_have_attribute("href", "/mlflow/w/vision/")


def test_stranger_in_the_browser_sees_nothing_of_it(
    page: Page, url: str, fill_login: Callable[[Page, str], None], recorded: Recorded
) -> None:
    page.goto(f"{url}/mlflow/w/speech/")
    fill_login(page, "bo")
    page.wait_for_url(f"{url}/mlflow/w/speech/**")
    for path in ("/", f"/get-artifact?run_uuid={recorded.run_id}&path=notes/secret.txt"):
        answer = page.goto(f"{url}/mlflow/w/vision{path}")
        assert answer is not None
        assert answer.status == 403
    place = f"{url}/mlflow/w/speech/#/experiments/{recorded.experiment_id}/runs/{recorded.run_id}"
    page.goto(place)
    page.wait_for_timeout(5000)
    assert SECRET not in page.content()


def test_stranger_gets_nothing_by_rest_and_artifact_paths(
    mlflow: Callable[[str, str], httpx.Client], recorded: Recorded
) -> None:
    requests: list[tuple[str, str, Any]] = [
        ("GET", f"/api/2.0/mlflow/runs/get?run_id={recorded.run_id}", None),
        ("GET", f"/ajax-api/2.0/mlflow/runs/get?run_id={recorded.run_id}", None),
        ("POST", "/api/2.0/mlflow/runs/search", {"experiment_ids": [recorded.experiment_id]}),
        ("POST", "/api/2.0/mlflow/runs/set-tag", {"run_id": recorded.run_id, "key": "k", "value": "v"}),
        ("POST", "/api/2.0/mlflow/runs/delete", {"run_id": recorded.run_id}),
        ("GET", f"/get-artifact?run_uuid={recorded.run_id}&path=notes/secret.txt", None),
        ("GET", f"/api/2.0/mlflow-artifacts/artifacts/{recorded.file}", None),
        ("GET", f"/api/2.0/mlflow-artifacts/artifacts/workspaces/vision/{recorded.file}", None),
        ("GET", f"/api/2.0/mlflow-artifacts/artifacts/%252e%252e/vision/{recorded.file}", None),
        ("PUT", f"/api/2.0/mlflow-artifacts/artifacts/{recorded.file}", None),
        ("DELETE", f"/api/2.0/mlflow-artifacts/artifacts/{recorded.file}", None),
    ]
    for project in ("vision", "speech", "shared"):
        client = mlflow("bo", project)
        for method, path, body in requests:
            answer = client.request(method, path, json=body, headers={"X-MLFLOW-WORKSPACE": "vision"})
            # A search in a project of his own finds nothing of the other.
            nothing = answer.status_code == 200 and path.endswith("/search") and answer.json() == {}
            assert nothing or answer.status_code in (400, 403, 404), (project, method, path, answer.text)
            assert SECRET not in answer.text
    ada = mlflow("ada", "vision")
    assert ada.get(f"/api/2.0/mlflow-artifacts/artifacts/{recorded.file}").text.strip() == SECRET
    found = ada.get("/api/2.0/mlflow/runs/get", params={"run_id": recorded.run_id}).json()["run"]
    assert found["info"]["lifecycle_stage"] == "active"
    assert "k" not in [tag["key"] for tag in found["data"]["tags"]]


def test_token_of_a_pod_is_good_for_its_own_project_alone(
    ssh_as: Callable[..., Any], recorded: Recorded
) -> None:
    """From within a run of bo's in speech, where the token lies."""
    words = "labctl submit --project speech --memory 256M --cpus 0.2 --no-code --follow --"
    program = shlex.join(["python", "-c", ASK, recorded.run_id])
    done = ssh_as("bo")(f"cd; {words} {program}", timeout=180)
    said = [line.split()[-1] for line in done.out.splitlines() if line.startswith("said ")]
    assert said == ["200", "403", "403", "403", "401"], done.out + done.err
