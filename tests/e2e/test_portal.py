"""The portal from outside: its start page in a real browser, and who it takes a request from."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

pytestmark = pytest.mark.e2e

CURL = "curl -s --cacert /etc/labcluster/ca.crt -m 10"
SMALL = "--project vision --memory 256M --cpus 0.2"


@pytest.fixture(scope="module")
def url(site: Any) -> str:
    """The portal by its name."""
    return f"https://portal.{site.variables['cluster_domain']}"


@pytest.fixture(scope="module")
def page(browser: Browser, url: str, fill_login: Callable[[Page, str], None]) -> Iterator[Page]:
    """ada on the start page, logged in."""
    page = browser.new_page(ignore_https_errors=True)  # the site's authority is not this machine's
    page.goto(url)
    expect(page.get_by_role("heading", name="Welcome")).to_be_visible()
    page.locator("main").get_by_role("link", name="Log in").click()
    fill_login(page, "ada")
    page.wait_for_url(f"{url}/")
    yield page
    page.close()


def credential(cluster: str, method: str, target: str) -> str:
    """A shell word that makes a credential for one request without a body."""
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    text = f"labcluster:{cluster}\\n{method} {target}\\n{empty}"
    return f"$(printf {shlex.quote(text)} | munge)"


@pytest.fixture
def ask(ssh_as: Callable[..., Any], url: str) -> Callable[..., tuple[int, Any]]:
    """ask("ada", "GET", path, header): status and JSON of a request from the login node."""

    def request(user: str, target: str, header: str, before: str = "") -> tuple[int, Any]:
        curl = f"{CURL} -w '\\n%{{http_code}}' -H \"Authorization: Munge $c\""
        done = ssh_as(user)(f"c={header}; {before} {curl} {url}{target}")
        assert done.code == 0, done.err
        body, _, status = done.out.rpartition("\n")
        return int(status), json.loads(body)

    return request


def test_certificate_is_the_sites(ssh_as: Callable[..., Any], url: str) -> None:
    assert ssh_as("ada")(f"{CURL} {url}/readyz").out == "ok\n"
    assert ssh_as("ada")(f"curl -s --cacert /dev/null {url}/readyz").code != 0


def test_page_shows_nothing_without_a_login_and_who_it_is_with_one(
    page: Page, browser: Browser, url: str
) -> None:
    expect(page.locator("header")).to_contain_text("ada")
    stranger = browser.new_page(ignore_https_errors=True)
    stranger.goto(url)
    expect(stranger.get_by_role("heading", name="Welcome")).to_be_visible()
    assert stranger.locator(".node").count() == 0
    stranger.close()


def test_new_run_appears_on_the_open_page_by_itself(page: Page, ssh_as: Callable[..., Any]) -> None:
    ada = ssh_as("ada")
    run = json.loads(ada(f"labctl submit {SMALL} --json -- echo not-for-everybody").out)
    row = page.locator("tr", has_text=run["id"]).first
    expect(row).to_be_visible(timeout=20_000)
    expect(row.locator(".state")).to_have_text("succeeded", timeout=60_000)
    assert "not-for-everybody" not in page.content()


def test_page_shows_every_node_with_its_gpus(page: Page, site: Any) -> None:
    for node in site.groups["gpu_node"]:
        card = page.locator(".node", has_text=node)
        expect(card).to_be_visible()
        assert card.locator(".gpus i").count() == site.hosts[node]["gpu_count"]


def test_page_needs_nothing_from_elsewhere(page: Page, url: str) -> None:
    seen: list[str] = []
    page.on("request", lambda request: seen.append(request.url))
    page.reload()
    assert seen
    assert all(address.startswith(url) for address in seen)


def test_right_credential_is_good_once(ask: Callable[..., Any], site: Any, url: str) -> None:
    cluster, target = site.variables["cluster_name"], "/api/v1/whoami"
    good = credential(cluster, "GET", target)
    assert ask("ada", target, good)[1]["user"] == "ada"
    first = f'{CURL} -o /dev/null -H "Authorization: Munge $c" {url}{target};'
    status, problem = ask("ada", target, good, before=first)
    assert (status, problem["code"]) == (401, 3)
    assert "used before" in problem["detail"]


# A munged of one's own, with a key of one's own: the wrong one.
OWN_MUNGED = (
    "d=$(mktemp -d /tmp/e2e.XXXXXX); head -c 128 /dev/urandom > $d/key; chmod 600 $d/key; "
    "/usr/sbin/munged --force --key-file=$d/key --socket=$d/s --pid-file=$d/p --log-file=$d/l "
    "--seed-file=$d/seed"
)
OTHER_LETTER = "sed -E 's/^(.{40})A/\\1B/;t;s/^(.{40})./\\1A/'"


@pytest.mark.parametrize(
    "fault",
    ["cluster", "method", "target", "expired", "tampered", "foreign key", "another reader", "nonsense"],
)
def test_wrong_credentials_are_refused(ask: Callable[..., Any], site: Any, fault: str) -> None:
    cluster, target = site.variables["cluster_name"], "/api/v1/whoami"
    made = {
        "cluster": credential("other", "GET", target),
        "method": credential(cluster, "POST", target),
        "target": credential(cluster, "GET", "/api/v1/queue"),
        "expired": credential(cluster, "GET", target).replace("munge)", "munge --ttl=1)"),
        "tampered": credential(cluster, "GET", target).replace("munge)", f"munge | {OTHER_LETTER})"),
        "foreign key": credential(cluster, "GET", target)
        .replace("$(", f"$({OWN_MUNGED}; ", 1)
        .replace("munge)", "munge --socket=$d/s; kill $(cat $d/p); rm -r $d)"),
        "another reader": credential(cluster, "GET", target).replace("munge)", "munge --restrict-uid=1)"),
        "nonsense": "MUNGE:AAAA:",
    }[fault]
    status, problem = ask("ada", target, made, before="sleep 2.5;" if fault == "expired" else "")
    assert (status, problem["code"]) == (401, 3)


def test_credential_is_not_good_again_after_a_restart_of_munged(
    ask: Callable[..., Any], ssh_as: Callable[..., Any], on_host: Callable[..., Any], site: Any
) -> None:
    target = "/api/v1/whoami"
    used = ssh_as("ada")(f"echo {credential(site.variables['cluster_name'], 'GET', target)}").out.strip()
    assert ask("ada", target, used)[0] == 200
    pod = (
        "kubectl --kubeconfig /etc/kubernetes/admin.conf --namespace labcluster exec deploy/portal -c munged"
    )
    on_host(site.first("management"), f"{pod} -- sh -c 'kill 1'")
    deadline = time.monotonic() + 40
    while ssh_as("ada")("labctl whoami").code:
        assert time.monotonic() < deadline, "munged does not come back"
        time.sleep(0.5)
    status, problem = ask("ada", target, used)
    assert (status, "used before" not in problem["detail"]) == (503, True), problem


def test_root_of_the_login_node_is_nobody(on_host: Callable[..., Any], site: Any, url: str) -> None:
    cluster, target = site.variables["cluster_name"], "/api/v1/runs"
    made = credential(cluster, "GET", target)
    done = on_host(site.first("login"), f'{CURL} -H "Authorization: Munge {made}" {url}{target}')
    assert json.loads(done.out)["code"] == 3


def test_openapi_names_every_path(ssh_as: Callable[..., Any], url: str) -> None:
    document = json.loads(ssh_as("ada")(f"{CURL} {url}/api/v1/openapi.json").out)
    assert "/api/v1/runs/{run_id}/logs" in document["paths"]


def test_logout_ends_the_browsers_session(page: Page) -> None:
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", name="Welcome")).to_be_visible()
    assert page.evaluate("async () => (await fetch('/api/v1/whoami')).status") == 401
