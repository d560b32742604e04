"""A queue of notices in memory, and a sender that remembers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from labcluster.models.notices import Notice, NoticeEvent, Receiver, ReceiverRequest, Scope
from pydantic import SecretStr
from store_fakes import Clock


class FakeNotices:
    """services.notices.NoticeStore."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.table: dict[tuple[Scope, str, str], Receiver] = {}
        self.queue: dict[int, tuple[Notice, datetime]] = {}
        self.done: list[Notice] = []
        self.count = 0

    def keep(self, scope: Scope, owner: str, name: str, request: ReceiverRequest, by: str) -> None:
        old = self.table.get((scope, owner, name))
        self.count += 1
        self.table[scope, owner, name] = Receiver(
            id=old.id if old else self.count,
            scope=scope,
            owner=owner,
            name=name,
            kind=request.kind,
            target=request.target or SecretStr(""),
            events=request.events,
            wait_seconds=request.wait_seconds,
            set_by=by,
        )

    def remove(self, scope: Scope, owner: str, name: str) -> bool:
        return self.table.pop((scope, owner, name), None) is not None

    def receivers(self, user: str | None, projects: Collection[str]) -> Sequence[tuple[Receiver, int]]:
        return [
            (one, sum(notice.receiver == one.id for notice, _ in self.queue.values()))
            for (scope, owner, _), one in sorted(self.table.items())
            if owner in (projects if scope is Scope.PROJECT else [user])
        ]

    def add(self, receiver: int, event: str = "end", **about: Any) -> None:
        """Queue a notice as the trigger would."""
        self.count += 1
        defaults = {
            "run": "vision-1",
            "project": "vision",
            "user": "ada",
            "name": "train",
            "state": "succeeded",
        }
        fields = ({} if event == "test" else defaults) | about
        notice = Notice(id=self.count, receiver=receiver, event=NoticeEvent(event), at=self.clock(), **fields)
        self.queue[notice.id] = (notice, self.clock())

    def add_test(self, receiver: int) -> None:
        self.add(receiver, "test")

    def add_waits(self) -> None: ...

    def due(self) -> Sequence[tuple[Receiver, Sequence[Notice]]]:
        now = self.clock()
        found = []
        for receiver in self.table.values():
            mine = [n for n, due in self.queue.values() if n.receiver == receiver.id and due <= now]
            if mine:
                found.append((receiver, mine))
        return found

    def read(self, receiver: int, since: datetime | None, limit: int) -> Sequence[Notice]:
        return [one for one in self.done if one.receiver == receiver and (not since or one.at > since)][
            -limit:
        ]

    def delivered(self, receiver: int, notices: Collection[int]) -> None:
        self._finish(notices)
        self._change(receiver, trouble=None, delivered_at=self.clock())

    def failed(
        self, receiver: int, trouble: str, again: Collection[int], due: datetime, given_up: Collection[int]
    ) -> None:
        self._finish(given_up)
        self._change(receiver, trouble=trouble)
        for one in again:
            notice = self.queue[one][0]
            self.queue[one] = (notice.model_copy(update={"tries": notice.tries + 1}), due)

    def forget(self, now: datetime) -> None: ...

    def _finish(self, notices: Collection[int]) -> None:
        self.done += [self.queue.pop(one)[0] for one in notices]

    def _change(self, receiver: int, **values: Any) -> None:
        key = next(key for key, one in self.table.items() if one.id == receiver)
        self.table[key] = self.table[key].model_copy(update=values)


class FakeSender:
    """Remembers what it was given; fails for targets in `broken`."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, ...]] = []
        self.broken: dict[str, Exception] = {}

    def webhook(self, url: str, payload: dict[str, Any]) -> None:
        if url in self.broken:
            raise self.broken[url]
        self.sent.append((url, payload["text"]))

    def mail(self, address: str, subject: str, text: str) -> None:
        if address in self.broken:
            raise self.broken[address]
        self.sent.append((address, subject, text))
