"""The queue of notices on a real PostgreSQL: what runs put into it, and how it empties."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from labcluster.adapters.notices import PostgresNotices
from labcluster.adapters.postgres import PostgresRuns
from labcluster.models.notices import Notice, NoticeEvent, ReceiverKind, ReceiverRequest, Scope
from labcluster.models.runs import NewArray, Run, RunChange, RunState, Submission
from test_postgres import NEW


@pytest.fixture
def store(pool: sa.Engine) -> PostgresNotices:
    with pool.begin() as connection:
        connection.execute(sa.text("TRUNCATE runs, arrays, run_counters, receivers, notices"))
    return PostgresNotices(pool)


@pytest.fixture
def runs(pool: sa.Engine, store: PostgresNotices) -> PostgresRuns:
    return PostgresRuns(pool)


def receiver(
    store: PostgresNotices,
    *events: str,
    scope: Scope = Scope.USER,
    owner: str = "ada",
    name: str = "slack",
    wait: int = 60,
) -> None:
    request = ReceiverRequest(
        kind=ReceiverKind.WEBHOOK,
        target="https://hooks.test/secret",  # type: ignore[arg-type]
        events=tuple(NoticeEvent(event) for event in events),
        wait_seconds=wait,
    )
    store.keep(scope, owner, name, request, "ada")


def run(runs: PostgresRuns, **changes: str) -> Run:
    submission = Submission(run=NEW.model_copy(update=changes))
    return runs.add([submission], str(uuid.uuid4()), "f")[0][0]


def become(runs: PostgresRuns, run: Run, state: str, reason: str | None = None) -> None:
    found = runs.get(run.project, run.number, run.trial)
    assert found is not None
    change = RunChange.of(found).model_copy(update={"state": RunState(state), "reason": reason})
    assert runs.change(found, change)


def queued(store: PostgresNotices) -> list[Notice]:
    return [notice for _, notices in store.due() for notice in notices]


def test_what_becomes_of_a_run_is_queued_with_it(store: PostgresNotices, runs: PostgresRuns) -> None:
    receiver(store, "start", "end", "failure")
    one = run(runs)
    for state in ("starting", "running", "running"):
        become(runs, one, state)
    become(runs, one, "failed", "out of memory")
    [(to, notices)] = store.due()
    assert to.target.get_secret_value() == "https://hooks.test/secret"
    assert [(notice.event, notice.run, notice.state) for notice in notices] == [
        ("start", "vision-1", "running"),
        ("failure", "vision-1", "failed"),
    ]
    assert (notices[1].reason, notices[1].user, notices[1].name) == ("out of memory", "ada", "train")


@pytest.mark.parametrize(
    ("scope", "owner", "told"),
    [
        (Scope.USER, "ada", True),
        (Scope.USER, "bo", False),
        (Scope.PROJECT, "vision", True),
        (Scope.PROJECT, "ada", False),
    ],
)
def test_only_who_asked_is_told(
    store: PostgresNotices, runs: PostgresRuns, scope: Scope, owner: str, told: bool
) -> None:
    receiver(store, "end", scope=scope, owner=owner)
    receiver(store, "failure", scope=scope, owner=owner, name="other")
    become(runs, run(runs), "succeeded")
    assert [notice.event for notice in queued(store)] == ([NoticeEvent.END] if told else [])


def test_a_long_wait_is_told_once_an_attempt_and_never_of_members(
    store: PostgresNotices, runs: PostgresRuns, pool: sa.Engine
) -> None:
    receiver(store, "wait", wait=600)
    one = run(runs)
    members = NewArray(text="0-2", indices=(0, 1, 2))
    runs.add([Submission(run=NEW, array=members)], str(uuid.uuid4()), "f")
    store.add_waits()
    assert queued(store) == []
    with pool.begin() as connection:
        connection.execute(sa.text("UPDATE runs SET submitted_at = submitted_at - interval '11 minutes'"))
    store.add_waits()
    [notice] = queued(store)
    assert (notice.event, notice.run) == (NoticeEvent.WAIT, one.id)
    store.delivered(notice.receiver, [notice.id])
    store.add_waits()
    assert queued(store) == []


def test_what_failed_waits_and_what_was_delivered_can_be_read(
    store: PostgresNotices, runs: PostgresRuns
) -> None:
    receiver(store, "start", "end")
    one = run(runs)
    become(runs, one, "running")
    become(runs, one, "succeeded")
    [(to, [first, second])] = store.due()
    now = datetime.now(UTC)
    store.failed(to.id, "it answered 500", [second.id], now + timedelta(seconds=60), [first.id])
    assert store.due() == []
    [(shown, waiting)] = store.receivers("ada", [])
    assert (shown.trouble, waiting) == ("it answered 500", 1)
    store.failed(to.id, "it answered 500", [second.id], now - timedelta(seconds=1), [])
    [(_, [again])] = store.due()
    assert (again.id, again.tries) == (second.id, 2)
    store.delivered(to.id, [second.id])
    [(shown, waiting)] = store.receivers("ada", [])
    assert (shown.trouble, waiting) == (None, 0)
    assert shown.delivered_at is not None
    assert [notice.event for notice in store.read(to.id, None, 10)] == [NoticeEvent.START, NoticeEvent.END]
    assert store.read(to.id, datetime.now(UTC), 10) == []
    store.forget(datetime.now(UTC) + timedelta(days=31))
    assert store.read(to.id, None, 10) == []


def test_a_removed_receiver_takes_its_notices_with_it(store: PostgresNotices, runs: PostgresRuns) -> None:
    receiver(store, "end")
    become(runs, run(runs), "cancelled")
    store.add_test(queued(store)[0].receiver)
    assert [notice.event for notice in queued(store)] == [NoticeEvent.END, NoticeEvent.TEST]
    assert store.remove(Scope.USER, "ada", "slack")
    assert not store.remove(Scope.USER, "ada", "slack")
    assert queued(store) == []
    become(runs, run(runs), "succeeded")


def test_setting_it_again_changes_it_and_keeps_what_waits(store: PostgresNotices, runs: PostgresRuns) -> None:
    receiver(store, "end")
    become(runs, run(runs), "succeeded")
    receiver(store, "failure")
    [(shown, waiting)] = store.receivers("ada", ["vision"])
    assert (shown.events, waiting) == ((NoticeEvent.FAILURE,), 1)
    assert store.receivers("bo", ["speech"]) == []
