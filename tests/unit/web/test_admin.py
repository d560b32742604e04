"""The administrators' endpoints: wired to the services, and only for administrators."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from identity_fakes import FakeDirectory, FakeProjects
from labcluster.services.members import CachedDirectory
from labcluster.web.wiring import Administration
from portal_site import Site


@pytest.fixture
def site(lab: Any) -> Iterator[Site]:
    directory = FakeDirectory()
    administration = Administration(directory, CachedDirectory(directory), FakeProjects(), lab.store)
    with start_blocking_portal() as loop:
        yield Site(lab, loop, administration)


def put(site: Site, path: str, data: Any = None) -> Any:
    return site.ask("labadmin", "PUT", f"/api/v1/admin/{path}", data)


def test_member_is_added_once_and_listed(site: Site) -> None:
    first = put(site, "members/ada", {"full_name": "Ada Lovelace"})
    assert first.json() == {"changed": True, "actions": ["add member ada with uid 20000"]}
    assert put(site, "members/ada", {"full_name": "Ada Lovelace"}).json()["changed"] is False
    items = site.ask("labadmin", "GET", "/api/v1/admin/members").json()["items"]
    assert [(member["name"], member["uid"]) for member in items] == [("ada", 20000)]


def test_dry_run_says_it_and_leaves_it(site: Site) -> None:
    assert put(site, "members/ada?dry_run=true", {"full_name": "Ada"}).json()["changed"] is True
    assert site.ask("labadmin", "GET", "/api/v1/admin/members").json()["items"] == []


def test_project_and_its_members(site: Site) -> None:
    put(site, "members/ada", {"full_name": "Ada"})
    assert put(site, "projects/vision", {"gpus": 2, "max_gpus": 4}).json()["changed"] is True
    assert put(site, "projects/vision/members/ada").json()["changed"] is True
    assert put(site, "projects/vision/members/ada").json()["changed"] is False
    (project,) = site.ask("labadmin", "GET", "/api/v1/admin/projects").json()["items"]
    assert (project["name"], project["members"], project["max_gpus"]) == ("vision", ["ada"], 4)
    gone = site.ask("labadmin", "DELETE", "/api/v1/admin/projects/vision/members/ada")
    assert gone.json()["changed"] is True


@pytest.mark.parametrize(
    ("path", "data", "code"),
    [
        ("members/Ada", {"full_name": "Ada"}, 2),
        ("members/ada", {}, 2),
        ("members/ada", {"full_name": "Ada", "ssh_keys": ["nonsense"]}, 2),
        ("projects/vision", {"gpus": 4, "max_gpus": 2}, 2),
        ("projects/nosuch/members/ada", None, 4),
    ],
)
def test_wrong_requests_are_problem_documents(site: Site, path: str, data: Any, code: int) -> None:
    assert put(site, path, data).json()["code"] == code


def test_members_may_not(site: Site) -> None:
    for method, path in (
        ("GET", "members"),
        ("PUT", "members/eve"),
        ("DELETE", "projects/vision/members/bo"),
    ):
        answer = site.ask("ada", method, f"/api/v1/admin/{path}")
        assert (answer.status_code, answer.json()["code"]) == (403, 3)
