"""Who may be told of runs, what is said, and what becomes of it when nobody listens."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from labcluster.errors import (
    ConflictError,
    LabclusterError,
    NotAllowedError,
    NotFoundError,
    UnreachableError,
    UsageError,
)
from labcluster.models.callers import Caller
from labcluster.models.notices import ReceiverRequest, Scope
from labcluster.models.settings import MailSettings, NoticeSettings
from labcluster.services.notices import NoticeDelivery, NoticeService
from notice_fakes import FakeNotices, FakeSender

HOOK = "https://hooks.slack.test/services/T0/B0/secret"
SETTINGS = NoticeSettings(
    webhook_hosts=("hooks.slack.test", "*.chat.test", "inside.test:8443"),
    mail=MailSettings(host="mail", sender="lab@lab.test", domains=("lab.test",)),
)


class Told:
    """The service and the delivery over one queue."""

    def __init__(self, lab: Any) -> None:
        self.lab = lab
        self.store = FakeNotices(lab.clock)
        self.sender = FakeSender()
        self.service = NoticeService(self.store, lab.cluster, SETTINGS)
        self.delivery = NoticeDelivery(self.store, self.sender, SETTINGS, "lab", lab.clock)

    def set(self, caller: Caller, name: str = "slack", **changes: Any) -> Any:
        scope, owner = changes.pop("scope", Scope.USER), changes.pop("owner", caller.user)
        request = ReceiverRequest.model_validate({"kind": "webhook", "target": HOOK} | changes)
        return self.service.set(caller, scope, owner, name, request)

    def id(self, name: str = "slack") -> int:
        return next(one.id for one in self.store.table.values() if one.name == name)


@pytest.fixture
def told(lab: Any) -> Told:
    return Told(lab)


@pytest.mark.parametrize(
    "target",
    [HOOK, "https://team.chat.test/x", "https://inside.test:8443/x", "https://HOOKS.slack.test/x"],
)
def test_webhooks_go_where_the_site_lets_them(told: Told, target: str) -> None:
    assert told.set(told.lab.ada, target=target).where in target.lower()


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.test/x", "https://hooks.slack.test.evil.test/x", "https://chat.test/x", "https://.chat.test/",
        "https://inside.test/x", "https://inside.test:443/x", "https://hooks.slack.test:8443/x",
        "http://hooks.slack.test/x", "https://127.0.0.1/x", "https://[::1]/x", "https://10.96.0.1/x",
        "https://user@hooks.slack.test/x", "https://hooks.slack.test@evil.test/x", "https://hooks.slack.test:x/",
        "https://hooks.slack.test\\@evil.test/", "https://evil.test#hooks.slack.test", "file:///etc/passwd",
        "https://hooks.slack.test/a b", "https://hooks.slack.test/\r\nHost: x", "https:hooks.slack.test", "",
        "https://evil.test?.chat.test", "https://ｈooks.slack.test/",
    ],
)  # fmt: skip
def test_webhooks_go_nowhere_else(told: Told, target: str) -> None:
    with pytest.raises((NotAllowedError, UsageError)):
        told.set(told.lab.ada, target=target)
    assert told.store.table == {}


@pytest.mark.parametrize(
    ("target", "fits"),
    [("ada@lab.test", True), ("ada@LAB.test", True), ("ada@evil.test", False), ("ada", False),
     ("ada@lab.test\nBcc: x@evil.test", False), ("a@b@lab.test", False), ("ada@x.lab.test", False)],
)  # fmt: skip
def test_mail_goes_to_the_sites_domains(told: Told, target: str, fits: bool) -> None:
    if fits:
        assert told.set(told.lab.ada, kind="mail", target=target).where == target
    else:
        with pytest.raises((NotAllowedError, UsageError)):
            told.set(told.lab.ada, kind="mail", target=target)


def test_everybody_has_his_own_and_those_of_his_projects(told: Told) -> None:
    ada, bo = told.lab.ada, told.lab.bo
    told.set(ada)
    told.set(ada, "team", scope=Scope.PROJECT, owner="vision")
    told.set(bo, "both", scope=Scope.PROJECT, owner="shared")
    assert [one.name for one in told.service.all(ada)] == ["both", "team", "slack"]
    assert [one.name for one in told.service.all(bo)] == ["both"]
    for scope, owner in ((Scope.USER, "ada"), (Scope.PROJECT, "vision")):
        with pytest.raises(NotAllowedError):
            told.set(bo, scope=scope, owner=owner)
        with pytest.raises(NotAllowedError):
            told.service.remove(bo, scope, owner, "slack")
        with pytest.raises(NotAllowedError):
            told.service.read(bo, scope, owner, "slack", None, 10)
    told.service.remove(ada, Scope.PROJECT, "vision", "team")
    with pytest.raises(NotFoundError):
        told.service.remove(ada, Scope.PROJECT, "vision", "team")


def test_a_run_cannot_change_who_is_told(told: Told) -> None:
    pod = Caller("ada", 20001, project="vision")
    for call in (lambda: told.set(pod), lambda: told.service.all(pod)):
        with pytest.raises(NotAllowedError):
            call()


def test_nobody_sees_a_webhooks_address_again(told: Told) -> None:
    shown = told.set(told.lab.ada)
    assert "secret" not in shown.model_dump_json() + repr(told.store.table)
    assert shown.where == "hooks.slack.test"


@pytest.mark.parametrize("name", ["", "A", "a/b", "-a", "a" * 41, "ä"])
def test_names_are_plain(told: Told, name: str) -> None:
    with pytest.raises(UsageError):
        told.set(told.lab.ada, name)


def test_nobody_has_more_than_some(told: Told) -> None:
    for number in range(20):
        told.set(told.lab.ada, f"n{number}")
    with pytest.raises(ConflictError):
        told.set(told.lab.ada, "one-more")
    told.set(told.lab.ada, "n3", events=["failure"])


def test_one_notice_is_a_sentence_and_many_are_one_message(told: Told) -> None:
    told.set(told.lab.ada)
    told.store.add(told.id(), "failure", state="failed", reason="out of memory: it used <4 GiB>")
    told.delivery.turn()
    assert told.sender.sent == [
        (HOOK, "vision-1 train of ada has failed: out of memory: it used &lt;4 GiB&gt;")
    ]
    for number in range(30):
        told.store.add(told.id(), run=f"vision-9.{number}", state="failed" if number == 7 else "succeeded")
    told.delivery.turn()
    [_, (_, text)] = told.sender.sent
    assert text.splitlines()[0] == "30 notices of runs: 29 succeeded, 1 failed"
    assert len(text.splitlines()) == 22
    told.delivery.turn()
    assert len(told.sender.sent) == 2


def test_mail_says_it_in_its_subject(told: Told) -> None:
    told.set(told.lab.ada, "me", kind="mail", target="ada@lab.test")
    told.store.add(told.id("me"), "wait", state="queued", reason="waits for 4 GPUs")
    told.delivery.turn()
    sentence = "vision-1 train of ada is still waiting: waits for 4 GPUs"
    assert told.sender.sent == [("ada@lab.test", f"[lab] {sentence}", sentence + "\n")]


def test_an_inbox_is_read(told: Told) -> None:
    told.set(told.lab.ada, "me", kind="inbox", target=None)
    told.store.add(told.id("me"), "start", state="running", reason="not said")
    told.delivery.turn()
    assert told.sender.sent == []
    [notice] = told.service.read(told.lab.ada, Scope.USER, "ada", "me", None, 10)
    assert notice.text == "vision-1 train of ada has started"


def test_a_dead_receiver_is_tried_less_and_less_and_given_up_after_a_day(
    told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    told.set(told.lab.ada)
    told.set(told.lab.bo, "alive", target="https://team.chat.test/x")
    told.sender.broken[HOOK] = UnreachableError("it answered 404")
    caplog.set_level(logging.DEBUG)
    told.store.add(told.id())
    told.store.add(told.id("alive"))
    tries = 0
    for _ in range(26 * 60):
        waiting = bool(told.store.due())
        told.delivery.turn()
        tries += waiting
        told.lab.clock.advance(60)
    assert [url for url, _ in told.sender.sent] == ["https://team.chat.test/x"]
    assert 10 < tries < 60
    assert told.store.queue == {}
    [shown] = told.service.all(told.lab.ada)
    assert (shown.trouble, shown.waiting) == ("it answered 404; 1 given up", 0)
    assert "secret" not in caplog.text
    # What comes later is tried anew.
    del told.sender.broken[HOOK]
    told.store.add(told.id())
    told.delivery.turn()
    assert told.service.all(told.lab.ada)[0].trouble is None


def test_a_test_is_tried_once(told: Told) -> None:
    told.set(told.lab.ada)
    told.sender.broken[HOOK] = UnreachableError("it answered 403")
    shown = told.service.test(told.lab.ada, Scope.USER, "ada", "slack")
    assert shown.waiting == 1
    told.delivery.turn()
    [shown] = told.service.all(told.lab.ada)
    assert (shown.waiting, shown.trouble) == (0, "it answered 403; 1 given up")


def test_a_fault_with_one_receiver_is_not_the_others(told: Told) -> None:
    told.set(told.lab.ada)
    told.set(told.lab.bo, "alive", target="https://team.chat.test/x")
    told.sender.broken[HOOK] = RuntimeError(f"something with {HOOK}")
    told.store.add(told.id())
    told.store.add(told.id("alive"))
    told.delivery.turn()
    assert len(told.sender.sent) == 1
    assert told.service.all(told.lab.ada)[0].trouble == "a fault of ours (RuntimeError)"


def test_a_site_that_became_stricter_is_obeyed(told: Told) -> None:
    told.set(told.lab.ada)
    told.store.add(told.id())
    strict = NoticeDelivery(told.store, told.sender, NoticeSettings(), "lab", told.lab.clock)
    strict.turn()
    assert told.sender.sent == []
    assert "does not send webhooks" in (told.service.all(told.lab.ada)[0].trouble or "")


def test_a_database_that_is_away_is_waited_for(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    import threading

    stop, turns = threading.Event(), iter(range(3))

    def away() -> None:
        if next(turns) == 2:
            stop.set()
        raise LabclusterError("the database does not answer")

    told.store.add_waits = away  # type: ignore[method-assign]
    stop.wait = lambda timeout=None: stop.is_set()  # type: ignore[method-assign]
    told.delivery.run(stop)
    assert caplog.text.count("the database does not answer") == 1
