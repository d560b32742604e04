"""REST for notices: who may do what is the service's; what is said is here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from labcluster.models.settings import NoticeSettings
from labcluster.services.notices import NoticeDelivery, NoticeService
from labcluster.web.app import create_app
from notice_fakes import FakeNotices, FakeSender
from portal_site import Client, Site

HOOK = "https://hooks.test/T0/secret"
AT = "/api/v1/receivers/user/ada/slack"
SETTINGS = NoticeSettings(webhook_hosts=("hooks.test",))


@pytest.fixture
def site(lab: Any) -> Iterator[Site]:
    with start_blocking_portal() as loop:
        yield Site(lab, loop)


@pytest.fixture
def told(lab: Any, site: Site) -> FakeNotices:
    store = FakeNotices(lab.clock)
    service = NoticeService(store, lab.cluster, SETTINGS)
    site.client = Client(create_app(replace(site.portal, notices=service)), site.client._loop)
    return store


def test_a_receiver_is_set_tested_read_and_removed(lab: Any, site: Site, told: FakeNotices) -> None:
    made = site.ask("ada", "PUT", AT, {"kind": "webhook", "target": HOOK, "events": ["end"]})
    assert made.status_code == 200, made.text
    assert made.json()["where"] == "hooks.test"
    assert site.ask("ada", "POST", AT + "/test").json()["waiting"] == 1
    NoticeDelivery(told, FakeSender(), SETTINGS, "lab", lab.clock).turn()
    [shown] = site.ask("ada", "GET", "/api/v1/receivers").json()["items"]
    assert (shown["waiting"], shown["trouble"]) == (0, None)
    [notice] = site.ask("ada", "GET", AT + "/notices").json()["items"]
    assert notice["text"] == "This is a test of labctl notify."
    assert site.ask("ada", "DELETE", AT).status_code == 204
    assert site.ask("ada", "DELETE", AT).status_code == 404
    assert "secret" not in made.text + str(shown) + str(notice)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"kind": "webhook", "target": "https://evil.test/secret"}, 403),
        ({"kind": "webhook", "target": "http://hooks.test/secret"}, 400),
        ({"kind": "webhook", "target": 5}, 400),
        ({"kind": "file", "target": "/secret"}, 400),
        ({"kind": "webhook", "target": HOOK, "events": []}, 400),
        ({"kind": "webhook", "target": HOOK, "events": ["test"]}, 400),
        ({"kind": "webhook", "target": HOOK, "wait_seconds": 1}, 400),
        ({"kind": "webhook", "target": "https://hooks.test/secret" + "x" * 3000}, 400),
    ],
)
def test_what_is_wrong_is_said_without_the_address(
    site: Site, told: FakeNotices, body: dict[str, Any], status: int
) -> None:
    answer = site.ask("ada", "PUT", AT, body)
    assert answer.status_code == status, answer.text
    assert "secret" not in answer.text
    assert told.table == {}


def test_others_are_refused(site: Site, told: FakeNotices) -> None:
    body = {"kind": "webhook", "target": HOOK}
    assert site.ask("bo", "PUT", AT, body).status_code == 403
    assert site.ask("bo", "PUT", "/api/v1/receivers/project/vision/x", body).status_code == 403
    assert site.ask("bo", "GET", "/api/v1/receivers").json() == {"items": []}


def test_a_portal_without_notices_says_so(site: Site) -> None:
    assert site.ask("ada", "GET", "/api/v1/receivers").status_code == 503
