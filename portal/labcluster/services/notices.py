"""Notices of what becomes of runs: who may want them, what they say, and how they are delivered.

At least once, in bunches: what happens within a few seconds is one message, so that an array of a thousand
members is not a thousand. A receiver that cannot be reached delays nobody else's; after a day its notices are
given up.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from urllib.parse import urlsplit

from labcluster.errors import ConflictError, LabclusterError, NotAllowedError, NotFoundError, UsageError
from labcluster.models.callers import Caller
from labcluster.models.notices import (
    GIVE_UP_SECONDS,
    Notice,
    NoticeEvent,
    NoticeView,
    Receiver,
    ReceiverKind,
    ReceiverRequest,
    ReceiverView,
    Scope,
)
from labcluster.models.settings import NoticeSettings
from labcluster.services.ports import ClusterView
from labcluster.services.turns import take_turns

log = logging.getLogger(__name__)

NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")
_ADDRESS = re.compile(r"[A-Za-z0-9._%+-]{1,64}@([A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+)")
_MOST_OF_ONE = 20
_LINES = 20
_FIRST_PAUSE, _LAST_PAUSE = 30, 3600
_SENDERS = 8
_WORDS = {
    NoticeEvent.START: "has started",
    NoticeEvent.WAIT: "is still waiting",
    NoticeEvent.TEST: "This is a test of labctl notify.",
}


class NoticeStore(Protocol):
    """Receivers and the queue."""

    def keep(self, scope: Scope, owner: str, name: str, request: ReceiverRequest, by: str) -> None:
        """Make a receiver be so."""

    def remove(self, scope: Scope, owner: str, name: str) -> bool:
        """Forget a receiver; whether it was there."""

    def receivers(self, user: str | None, projects: Collection[str]) -> Sequence[tuple[Receiver, int]]:
        """Those of a user and of projects, with how many notices wait for each."""

    def add_test(self, receiver: int) -> None:
        """Queue a notice that somebody asked for."""

    def add_waits(self) -> None:
        """Queue notices of runs that wait for long."""

    def due(self) -> Sequence[tuple[Receiver, Sequence[Notice]]]:
        """What is to be delivered now."""

    def read(self, receiver: int, since: datetime | None, limit: int) -> Sequence[Notice]:
        """The newest notices of a receiver, oldest first."""

    def delivered(self, receiver: int, notices: Collection[int]) -> None:
        """Remember that it has these."""

    def failed(
        self, receiver: int, trouble: str, again: Collection[int], due: datetime, given_up: Collection[int]
    ) -> None:
        """Remember why it has not, when these are tried again, and which are not."""

    def forget(self, now: datetime) -> None:
        """Remove what was done long ago."""


class Sender(Protocol):
    """What brings messages out; UnreachableError says why one was not taken, without any secret."""

    def webhook(self, url: str, payload: dict[str, Any]) -> None:
        """An HTTPS request."""

    def mail(self, address: str, subject: str, text: str) -> None:
        """A mail."""


def check_target(kind: ReceiverKind, target: str, settings: NoticeSettings) -> str:
    """What of a target may be shown; NotAllowedError where the site does not let notices go there."""
    if kind is ReceiverKind.INBOX:
        if target:
            raise UsageError("an inbox has no address")
        return "labctl notify read"
    return _check_webhook(target, settings) if kind is ReceiverKind.WEBHOOK else _check_mail(target, settings)


def _check_webhook(target: str, settings: NoticeSettings) -> str:
    try:
        url = urlsplit(target)
        host, port = url.hostname or "", url.port or 443
    except ValueError:
        raise UsageError("the webhook is no address: write https://HOST/PATH") from None
    fit = target.isascii() and target.isprintable() and " " not in target
    if url.scheme != "https" or not host or url.username is not None or not fit:
        raise UsageError("the webhook is no address that can be used: write https://HOST/PATH")
    for allowed in settings.webhook_hosts:
        name, _, number = allowed.partition(":")
        same = (
            host.endswith(name[1:]) and len(host) > len(name) - 1 if name.startswith("*.") else host == name
        )
        if same and port == int(number or 443):
            return host
    hosts = ", ".join(settings.webhook_hosts)
    where = f"it lets them go to {hosts}" if hosts else "it has allowed none"
    raise NotAllowedError(f"this site does not send webhooks to {host}:{port}: {where}")


def _check_mail(target: str, settings: NoticeSettings) -> str:
    if settings.mail is None:
        raise NotAllowedError("this site sends no mail: use a webhook or an inbox")
    match = _ADDRESS.fullmatch(target)
    if match is None:
        raise UsageError(f"{target[:100]!r} is no mail address")
    if match[1].lower() not in settings.mail.domains:
        domains = ", ".join(settings.mail.domains) or "nowhere"
        raise NotAllowedError(f"this site sends no mail to {match[1]}: it lets it go to {domains}")
    return target


class NoticeService:
    """What members may do with their own receivers and with those of their projects."""

    def __init__(self, store: NoticeStore, view: ClusterView, settings: NoticeSettings) -> None:
        self._store = store
        self._view = view
        self._settings = settings

    def all(self, caller: Caller) -> list[ReceiverView]:
        """The caller's own, and those of his projects."""
        _no_pod(caller)
        return [self._view_of(receiver, waiting) for receiver, waiting in self._of(caller)]

    def set(
        self, caller: Caller, scope: Scope, owner: str, name: str, request: ReceiverRequest
    ) -> ReceiverView:
        """Make a receiver be so."""
        self._may(caller, scope, owner)
        if not NAME.fullmatch(name):
            raise UsageError(f"{name!r} is no name: small letters, digits and - are, at most 40")
        if NoticeEvent.TEST in request.events:
            raise UsageError("test is no event that can be waited for")
        target = request.target.get_secret_value() if request.target else ""
        check_target(request.kind, target, self._settings)
        names = {one.name for one, _ in self._of(caller) if (one.scope, one.owner) == (scope, owner)}
        if len(names - {name}) >= _MOST_OF_ONE:
            raise ConflictError(f"{scope} {owner} has {len(names)} receivers already: remove one")
        self._store.keep(scope, owner, name, request, caller.user)
        return self._view_of(*self._one(caller, scope, owner, name))

    def remove(self, caller: Caller, scope: Scope, owner: str, name: str) -> None:
        """Forget a receiver, and what waits for it."""
        self._may(caller, scope, owner)
        if not self._store.remove(scope, owner, name):
            raise NotFoundError(f"{scope} {owner} has no receiver {name}")

    def test(self, caller: Caller, scope: Scope, owner: str, name: str) -> ReceiverView:
        """Queue a notice; whether it arrived can be seen in the list."""
        self._may(caller, scope, owner)
        receiver, _ = self._one(caller, scope, owner, name)
        self._store.add_test(receiver.id)
        return self._view_of(*self._one(caller, scope, owner, name))

    def read(
        self, caller: Caller, scope: Scope, owner: str, name: str, since: datetime | None, limit: int
    ) -> list[NoticeView]:
        """Notices of a receiver, newest last."""
        self._may(caller, scope, owner)
        receiver, _ = self._one(caller, scope, owner, name)
        return [
            NoticeView(at=one.at, event=one.event, run=one.run, text=sentence(one))
            for one in self._store.read(receiver.id, since, limit)
        ]

    def _of(self, caller: Caller) -> Sequence[tuple[Receiver, int]]:
        everything = [share.name for share in self._view.projects()] if caller.admin else None
        projects = everything if everything is not None else list(self._view.memberships(caller.user))
        return self._store.receivers(caller.user, projects)

    def _one(self, caller: Caller, scope: Scope, owner: str, name: str) -> tuple[Receiver, int]:
        for receiver, waiting in self._of(caller):
            if (receiver.scope, receiver.owner, receiver.name) == (scope, owner, name):
                return receiver, waiting
        raise NotFoundError(f"{scope} {owner} has no receiver {name}")

    def _may(self, caller: Caller, scope: Scope, owner: str) -> None:
        _no_pod(caller)
        if scope is Scope.USER:
            if owner != caller.user:
                raise NotAllowedError(f"notices of {owner} are {owner}'s own")
        elif not caller.admin and owner not in self._view.memberships(caller.user):
            raise NotAllowedError(f"{caller.user} is no member of project {owner}")

    def _view_of(self, receiver: Receiver, waiting: int) -> ReceiverView:
        fields = receiver.model_dump(exclude={"id", "target"})
        return ReceiverView(**fields, where=_shown(receiver), waiting=waiting)


def _no_pod(caller: Caller) -> None:
    if caller.project is not None:
        raise NotAllowedError("a run may not change who is told of runs")


def _shown(receiver: Receiver) -> str:
    target = receiver.target.get_secret_value()
    if receiver.kind is ReceiverKind.WEBHOOK:
        return urlsplit(target).hostname or "?"
    return target or "labctl notify read"


def sentence(notice: Notice) -> str:
    """What happened, in one line."""
    if notice.event is NoticeEvent.TEST:
        return _WORDS[NoticeEvent.TEST]
    what = _WORDS.get(notice.event) or f"has {_ended(notice)}"
    because = f": {notice.reason}" if notice.reason and notice.event is not NoticeEvent.START else ""
    return f"{notice.run} {notice.name} of {notice.user} {what}{because}"[:600]


def _ended(notice: Notice) -> str:
    words = {"cancelled": "been cancelled", "timed_out": "reached its time limit", "lost": "been lost"}
    state = str(notice.state or notice.event)
    return words.get(state, state)


def summary(notices: Sequence[Notice]) -> str:
    """The first line of a message about all of these."""
    if len(notices) == 1:
        return sentence(notices[0])
    counts: dict[str, int] = {}
    for notice in notices:
        word = str(notice.state) if notice.event in (NoticeEvent.END, NoticeEvent.FAILURE) else notice.event
        counts[word] = counts.get(word, 0) + 1
    told = ", ".join(f"{count} {word.replace('_', ' ')}" for word, count in counts.items())
    return f"{len(notices)} notices of runs: {told}"


def text_of(notices: Sequence[Notice]) -> str:
    """A message about all of these."""
    if len(notices) == 1:
        return sentence(notices[0])
    lines = [sentence(notice) for notice in notices[:_LINES]]
    if len(notices) > _LINES:
        lines.append(f"… and {len(notices) - _LINES} more: labctl ls")
    return "\n".join([summary(notices), *lines])


def _for_slack(text: str) -> str:
    """Slack's own escapes: a run's name must not mention everybody or be a link."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


class NoticeDelivery:
    """Delivers what the queue holds, beside whatever else the process does."""

    def __init__(
        self,
        store: NoticeStore,
        sender: Sender,
        settings: NoticeSettings,
        cluster: str,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._sender = sender
        self._settings = settings
        self._cluster = cluster
        self._clock = clock

    def run(self, stop: threading.Event) -> None:
        """Deliver until `stop` is set."""
        take_turns(stop, self.turn, "notices")

    def turn(self) -> None:
        """Deliver all that is due, once."""
        self._store.add_waits()
        due = self._store.due()
        if due:
            with ThreadPoolExecutor(_SENDERS, thread_name_prefix="notice") as senders:
                list(senders.map(lambda pair: self._deliver(*pair), due))
        self._store.forget(self._clock())

    def _deliver(self, receiver: Receiver, notices: Sequence[Notice]) -> None:
        ids = [notice.id for notice in notices]
        try:
            self._send(receiver, notices)
        except LabclusterError as error:
            self._failed(receiver, notices, error.detail)
        except Exception as error:  # noqa: BLE001 - one receiver must not stop the others
            self._failed(receiver, notices, f"a fault of ours ({type(error).__name__})")
        else:
            self._store.delivered(receiver.id, ids)

    def _send(self, receiver: Receiver, notices: Sequence[Notice]) -> None:
        target = receiver.target.get_secret_value()
        # The site may have become stricter since it was set.
        check_target(receiver.kind, target, self._settings)
        if receiver.kind is ReceiverKind.WEBHOOK:
            self._sender.webhook(target, {"text": _for_slack(text_of(notices))})
        elif receiver.kind is ReceiverKind.MAIL:
            self._sender.mail(target, f"[{self._cluster}] {summary(notices)}"[:200], text_of(notices) + "\n")

    def _failed(self, receiver: Receiver, notices: Sequence[Notice], why: str) -> None:
        now = self._clock()
        old = [one.id for one in notices if (now - one.at).total_seconds() >= GIVE_UP_SECONDS]
        # A test is for somebody who looks: it is not tried for a day.
        old += [one.id for one in notices if one.event is NoticeEvent.TEST and one.id not in old]
        again = [one.id for one in notices if one.id not in old]
        pause = min(_LAST_PAUSE, _FIRST_PAUSE * 2 ** min(10, max(one.tries for one in notices)))
        trouble = why + (f"; {len(old)} given up" if old else "")
        if receiver.trouble != trouble:
            whose = f"{receiver.scope} {receiver.owner}/{receiver.name}"
            log.warning("notices to %s are late: %s", whose, trouble)
        self._store.failed(receiver.id, trouble, again, now + timedelta(seconds=pause), old)
