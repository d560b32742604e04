"""The queue of notices in PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.dialects.postgresql import insert

from labcluster.adapters.postgres import reachable
from labcluster.adapters.tables import NOTICES, RECEIVERS, RUNS
from labcluster.models.notices import KEPT_DAYS, Notice, NoticeEvent, Receiver, ReceiverRequest, Scope

_AT_ONCE = 2000
_KEY = (RECEIVERS.c.scope, RECEIVERS.c.owner, RECEIVERS.c.name)
_OF_RUN = (
    (NOTICES.c.project == RUNS.c.project)
    & (NOTICES.c.number == RUNS.c.number)
    & (NOTICES.c.trial == RUNS.c.trial)
)


class PostgresNotices:
    """Implements `services.notices.NoticeStore`."""

    def __init__(self, pool: sa.Engine) -> None:
        self._pool = pool

    def keep(self, scope: Scope, owner: str, name: str, request: ReceiverRequest, by: str) -> None:
        """Make a receiver be so; what waits for it goes to its new place."""
        values = {
            "kind": request.kind,
            "target": request.target.get_secret_value() if request.target else "",
            "events": [event.value for event in request.events],
            "wait_seconds": request.wait_seconds,
            "set_by": by,
            "trouble": None,
        }
        statement = insert(RECEIVERS).values(scope=scope, owner=owner, name=name, **values)
        statement = statement.on_conflict_do_update(index_elements=list(_KEY), set_=values)
        with reachable(), self._pool.begin() as connection:
            connection.execute(statement)

    def remove(self, scope: Scope, owner: str, name: str) -> bool:
        """Forget a receiver and all its notices; whether it was there."""
        statement = sa.delete(RECEIVERS).where(*_is(scope, owner, name))
        with reachable(), self._pool.begin() as connection:
            return connection.execute(statement).rowcount > 0

    def receivers(self, user: str | None, projects: Collection[str]) -> Sequence[tuple[Receiver, int]]:
        """Those of a user and of projects, each with how many notices wait for it."""
        waiting = (
            sa.select(sa.func.count())
            .where(NOTICES.c.receiver == RECEIVERS.c.id, NOTICES.c.done_at.is_(None))
            .scalar_subquery()
        )
        own = sa.and_(RECEIVERS.c.scope == Scope.USER, RECEIVERS.c.owner == user)
        of_projects = sa.and_(RECEIVERS.c.scope == Scope.PROJECT, RECEIVERS.c.owner.in_(sorted(projects)))
        query = sa.select(RECEIVERS, waiting).where(sa.or_(own, of_projects)).order_by(*_KEY)
        with reachable(), self._pool.connect() as connection:
            return [(_receiver(row), row[-1]) for row in connection.execute(query)]

    def add_test(self, receiver: int) -> None:
        """Queue a notice that somebody asked for."""
        with reachable(), self._pool.begin() as connection:
            connection.execute(sa.insert(NOTICES).values(receiver=receiver, event=NoticeEvent.TEST))

    def add_waits(self) -> None:
        """Queue a notice for each run that waits for longer than somebody wants to wait in silence."""
        columns = RUNS.c
        patience = sa.func.make_interval(0, 0, 0, 0, 0, 0, RECEIVERS.c.wait_seconds)
        found = sa.select(
            RECEIVERS.c.id,
            sa.literal(NoticeEvent.WAIT.value),
            columns.project,
            columns.number,
            columns.trial,
            columns.attempt,
            columns.state,
        ).where(
            columns.state == "queued",
            # Of an array so many may wait on purpose.
            columns.array_index.is_(None),
            columns.submitted_at < sa.func.now() - patience,
            sa.literal(NoticeEvent.WAIT.value) == sa.any_(RECEIVERS.c.events),
            sa.or_(
                sa.and_(RECEIVERS.c.scope == Scope.USER, RECEIVERS.c.owner == columns.user),
                sa.and_(RECEIVERS.c.scope == Scope.PROJECT, RECEIVERS.c.owner == columns.project),
            ),
        )
        names = ["receiver", "event", "project", "number", "trial", "attempt", "state"]
        with reachable(), self._pool.begin() as connection:
            connection.execute(insert(NOTICES).from_select(names, found).on_conflict_do_nothing())

    def due(self) -> Sequence[tuple[Receiver, Sequence[Notice]]]:
        """What is to be delivered now, by receiver, oldest first."""
        query = (
            _notices()
            .where(NOTICES.c.done_at.is_(None), NOTICES.c.due_at <= sa.func.now())
            .order_by(NOTICES.c.id)
            .limit(_AT_ONCE)
        )
        with reachable(), self._pool.connect() as connection:
            rows = list(connection.execute(query))
            wanted = sa.select(RECEIVERS).where(RECEIVERS.c.id.in_({row.receiver for row in rows}))
            receivers = {row.id: _receiver(row) for row in connection.execute(wanted)} if rows else {}
        grouped: dict[int, list[Notice]] = {}
        for row in rows:
            grouped.setdefault(row.receiver, []).append(_notice(row))
        return [(receivers[key], notices) for key, notices in grouped.items() if key in receivers]

    def read(self, receiver: int, since: datetime | None, limit: int) -> Sequence[Notice]:
        """The newest notices of a receiver, oldest first."""
        query = _notices().where(NOTICES.c.receiver == receiver).order_by(NOTICES.c.id.desc()).limit(limit)
        if since is not None:
            query = query.where(NOTICES.c.at > since)
        with reachable(), self._pool.connect() as connection:
            return [_notice(row) for row in connection.execute(query)][::-1]

    def delivered(self, receiver: int, notices: Collection[int]) -> None:
        """Remember that it has these."""
        with reachable(), self._pool.begin() as connection:
            self._finish(connection, notices)
            statement = sa.update(RECEIVERS).where(RECEIVERS.c.id == receiver)
            connection.execute(statement.values(trouble=None, delivered_at=sa.func.now()))

    def failed(
        self, receiver: int, trouble: str, again: Collection[int], due: datetime, given_up: Collection[int]
    ) -> None:
        """Remember why it has not, when these are tried again, and which are not."""
        with reachable(), self._pool.begin() as connection:
            self._finish(connection, given_up)
            connection.execute(sa.update(RECEIVERS).where(RECEIVERS.c.id == receiver).values(trouble=trouble))
            if again:
                statement = sa.update(NOTICES).where(NOTICES.c.id.in_(sorted(again)))
                connection.execute(statement.values(due_at=due, tries=NOTICES.c.tries + 1))

    def forget(self, now: datetime) -> None:
        """Remove what was done long ago."""
        statement = sa.delete(NOTICES).where(NOTICES.c.done_at < now - timedelta(days=KEPT_DAYS))
        with reachable(), self._pool.begin() as connection:
            connection.execute(statement)

    @staticmethod
    def _finish(connection: sa.Connection, notices: Collection[int]) -> None:
        if notices:
            statement = sa.update(NOTICES).where(NOTICES.c.id.in_(sorted(notices)))
            connection.execute(statement.values(done_at=sa.func.now()))


def _is(scope: Scope, owner: str, name: str) -> list[sa.ColumnElement[bool]]:
    return [column == value for column, value in zip(_KEY, (scope, owner, name), strict=True)]


def _notices() -> sa.Select[Any]:
    about = [RUNS.c.user, RUNS.c.name, RUNS.c.reason, RUNS.c.array_index]
    return sa.select(NOTICES, *about).select_from(NOTICES.outerjoin(RUNS, _OF_RUN))


def _receiver(row: sa.Row[Any]) -> Receiver:
    fields = {name: getattr(row, name) for name in Receiver.model_fields}
    return Receiver.model_validate(fields | {"target": SecretStr(row.target)})


def _notice(row: sa.Row[Any]) -> Notice:
    run = ""
    if row.project is not None:
        member = row.array_index is not None or row.trial
        run = f"{row.project}-{row.number}" + (f".{row.trial}" if member else "")
    return Notice(
        id=row.id,
        receiver=row.receiver,
        event=row.event,
        at=row.at,
        tries=row.tries,
        run=run,
        project=row.project or "",
        user=row.user or "",
        name=row.name or "",
        state=row.state,
        reason=row.reason,
        attempt=row.attempt or 1,
    )
