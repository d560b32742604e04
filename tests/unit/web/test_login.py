"""Who the portal takes a request from besides the login node: tokens of Dex, and browsers with a session."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from labcluster.errors import UnreachableError
from portal_site import Site

RUN = {"command": ["python", "train.py"], "workdir": "/lab/home/ada", "idempotency_key": "key-0001"}
OWN = {"Origin": "https://portal"}


@pytest.fixture
def site(lab: Any) -> Iterator[Site]:
    with start_blocking_portal() as loop:
        yield Site(lab, loop, public_page=False)


def bearer(site: Site, token: str, target: str = "/api/v1/whoami") -> Any:
    return site.client.get(target, headers={"Authorization": f"Bearer {token}"})


def log_in(site: Site, user: str = "ada") -> Any:
    answer = site.client.get("/login")
    assert (answer.status_code, answer.headers["location"]) == (302, "https://dex/auth?state=s1")
    return site.client.get(f"/login/callback?state=s1&code={user}")


def test_token_is_as_good_as_munge(site: Site) -> None:
    me = bearer(site, "labctl-laptop:ada").json()
    assert me == site.ask("ada", "GET", "/api/v1/whoami").json()
    assert bearer(site, "labctl:carl").json()["user"] == "carl"


def test_token_of_nobody_and_for_others_is_refused(site: Site) -> None:
    assert bearer(site, "portal:ada").status_code == 401
    answer = bearer(site, "labctl:stranger")
    assert (answer.status_code, answer.json()["code"]) == (403, 3)


def test_no_token_makes_an_administrator(site: Site) -> None:
    """Administrators are local users of the nodes: who has that name in the directory is another."""
    assert bearer(site, "labctl:labadmin").status_code == 403


def test_start_page_asks_for_a_login_and_then_says_who_it_is(site: Site) -> None:
    site.ask("ada", "POST", "/api/v1/runs", RUN)
    before = site.client.get("/").text
    assert 'href="/login"' in before
    assert "vision-1" not in before
    answer = log_in(site)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    page = site.client.get("/").text
    assert "vision-1" in page
    assert "<span>ada</span>" in page
    assert site.client.get("/api/v1/whoami").json()["user"] == "ada"


def test_session_cookie_is_the_portals_alone(site: Site) -> None:
    log_in(site)
    cookie = site.client.get("/login").headers["set-cookie"]
    assert cookie.startswith("__Host-labcluster=")
    for word in ("secure", "httponly", "samesite=lax", "path=/"):
        assert word in cookie.lower()
    assert "domain" not in cookie.lower()


def test_logout_ends_it_but_not_from_elsewhere(site: Site) -> None:
    log_in(site)
    foreign = ({}, {"Origin": "https://evil"}, {"Origin": "http://portal"}, {"Origin": "null"})
    for origin in (*foreign, OWN | {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}):
        assert site.client.request("POST", "/logout", headers=origin).status_code == 403
    assert site.client.get("/api/v1/whoami").status_code == 200
    assert site.client.request("POST", "/logout", headers=OWN).headers["location"] == "/"
    assert site.client.get("/api/v1/whoami").status_code == 401
    assert 'href="/login"' in site.client.get("/").text


def test_browser_that_says_where_a_request_comes_from_needs_no_origin(site: Site) -> None:
    log_in(site)
    answer = site.client.request(
        "POST", "/logout", headers={"Origin": "null", "Sec-Fetch-Site": "same-origin"}
    )
    assert answer.status_code == 303


def test_another_sites_page_changes_nothing_by_the_session(site: Site) -> None:
    log_in(site)
    for headers in ({}, {"Origin": "https://evil"}):
        assert site.client.request("POST", "/api/v1/runs", json=RUN, headers=headers).status_code == 403
    assert not site.lab.store.rows
    assert site.client.request("POST", "/api/v1/runs", json=RUN, headers=OWN).status_code == 201


def test_login_that_did_not_begin_here_gives_no_session(site: Site) -> None:
    answer = site.client.get("/login/callback?state=s1&code=ada")
    assert answer.status_code == 401
    assert "begun elsewhere" in answer.text
    assert site.client.get("/api/v1/whoami").status_code == 401


def test_what_a_login_brought_is_good_once(site: Site) -> None:
    log_in(site)
    site.client.request("POST", "/logout", headers=OWN)
    assert site.client.get("/login/callback?state=s1&code=ada").status_code == 401


def test_stranger_of_the_directory_gets_no_session(site: Site) -> None:
    answer = log_in(site, "stranger")
    assert answer.status_code == 403
    assert "no member" in answer.text
    assert site.client.get("/api/v1/whoami").status_code == 401


def test_session_ends_when_its_owner_is_no_member_any_more(site: Site, lab: Any) -> None:
    log_in(site)
    for members in lab.cluster.members.values():
        members.pop("ada", None)
    assert site.client.get("/api/v1/whoami").status_code == 403
    assert 'href="/login"' in site.client.get("/").text


def test_forged_session_is_none(site: Site) -> None:
    answer = site.client.get(
        "/api/v1/whoami", headers={"Cookie": "__Host-labcluster=eyJ1c2VyIjogImFkYSJ9.x.y"}
    )
    assert answer.status_code == 401


def test_login_by_an_address_goes_on_under_the_portals_name(site: Site) -> None:
    """Dex sends the browser back to that name, where a session of the address would be unknown."""
    answer = site.client.get("/login", headers={"Host": "127.0.0.1:8443"})
    assert (answer.status_code, answer.headers["location"]) == (302, "https://portal/login")


def test_login_while_dex_is_away_says_so(site: Site) -> None:
    site.dex.away = True
    answer = log_in(site)
    assert answer.status_code == UnreachableError.http_status
    assert "does not answer" in answer.text


def test_anybody_may_know_where_to_log_in(site: Site) -> None:
    place = site.client.get("/api/v1/site").json()
    assert place["login"] == {
        "issuer": "https://dex",
        "client_id": "labctl",
        "client_id_elsewhere": "labctl-laptop",
    }
    assert place["kubernetes"]["server"] == "https://api:6443"
