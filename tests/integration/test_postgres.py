"""The run table on a real PostgreSQL: numbering, idempotency, migrations. Needs Debian's postgresql."""

from __future__ import annotations

import threading
import uuid
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from labcluster.adapters import postgres, tables
from labcluster.adapters.recording import PostgresRecords
from labcluster.adapters.usage import PostgresUsage
from labcluster.errors import ConflictError, UnreachableError
from labcluster.models.code import MAX_SEED, CodeRef
from labcluster.models.runs import (
    NewArray,
    NewRun,
    Run,
    RunArray,
    RunChange,
    RunFilter,
    RunState,
    Submission,
)
from labcluster.models.usage import StorageAmount, StorageReport

NEW = NewRun(
    project="vision",
    name="train",
    user="ada",
    uid=20000,
    gid=30000,
    image="registry.lab.internal:5000/common/python-ml:1",
    image_digest="sha256:1",
    command=("python", "-c", "print('ü')"),
    workdir="/lab/home/ada",
    gpus=1,
    cpus=1.5,
    memory="4Gi",
    time_seconds=None,
    env={"A": "ü\n"},
)


@pytest.fixture
def store(pool: sa.Engine) -> postgres.PostgresRuns:
    with pool.begin() as connection:
        connection.execute(sa.text("TRUNCATE runs, arrays, run_counters"))
    return postgres.PostgresRuns(pool)


def key() -> str:
    return str(uuid.uuid4())


def add(store: postgres.PostgresRuns, run: NewRun, name: str, fingerprint: str = "f") -> tuple[Run, bool]:
    """One single run."""
    runs, created = store.add([Submission(run=run)], name, fingerprint)
    return runs[0], created


def test_migrations_make_what_the_code_expects(pool: sa.Engine) -> None:
    postgres.migrate(pool)
    with pool.connect() as connection:
        ours = {"include_object": lambda _o, name, kind, *_: kind != "table" or name in tables.METADATA}
        context = MigrationContext.configure(connection, opts=ours)
        assert compare_metadata(context, tables.METADATA) == []


def test_run_comes_back_as_it_went_in(store: postgres.PostgresRuns) -> None:
    run, created = add(store, NEW, key())
    assert created
    assert store.get("vision", 1, 0) == run
    assert run.model_dump(include=set(NewRun.model_fields)) == NEW.model_dump()
    assert run.submitted_at.utcoffset() is not None


def test_origin_of_a_run_comes_back_as_it_went_in(store: postgres.PostgresRuns) -> None:
    code = CodeRef(digest="a" * 64, commit="b" * 40, dirty=True, subdir="src", root="/lab/home/ada/ü")
    more = {"code": code, "params": {"lr": "0.1"}, "seed": 7, "data": ("/lab/datasets/a",), "parent": "x-1"}
    new = NEW.model_copy(update=more)
    run, _ = add(store, new, key())
    assert store.get("vision", 1, 0) == run
    assert run.model_dump(include=set(NewRun.model_fields)) == new.model_dump()


def test_members_of_an_array_have_the_code_and_seeds_one_after_the_other(
    store: postgres.PostgresRuns,
) -> None:
    item = array("5-7", range(5, 8))
    code = CodeRef(digest="a" * 64, root="/lab/home/ada")
    seeded = item.run.model_copy(update={"seed": MAX_SEED - 5, "code": code})
    store.add([item.model_copy(update={"run": seeded})], key(), "f")
    members = store.members("vision", 1)
    assert [run.seed for run in members] == [MAX_SEED, 0, 1]
    assert {run.code for run in members} == {code}


def test_runs_of_many_threads_are_numbered_without_a_gap(store: postgres.PostgresRuns) -> None:
    same = key()

    def submit() -> None:
        for _ in range(20):
            add(store, NEW, key())
            add(store, NEW, same, "f")

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    numbers = sorted(run.number for run in store.active())
    assert numbers == list(range(1, 8 * 20 + 2))


def test_key_of_another_request_is_a_conflict_for_this_user_only(store: postgres.PostgresRuns) -> None:
    same = key()
    add(store, NEW, same, "f")
    with pytest.raises(ConflictError):
        add(store, NEW, same, "g")
    assert add(store, NEW.model_copy(update={"user": "bo"}), same, "g")[1]


def test_final_run_changes_no_more(store: postgres.PostgresRuns) -> None:
    run, _ = add(store, NEW, key())
    now = datetime.now(UTC)
    assert store.change(run, RunChange(state=RunState.CANCELLED, finished_at=now))
    assert not store.change(run, RunChange(state=RunState.RUNNING))
    assert store.active() == []
    assert [ended.id for ended in store.ended_since(now - timedelta(minutes=1))] == [run.id]


def test_lists_are_bounded_by_what_the_caller_may_see(store: postgres.PostgresRuns) -> None:
    for project in ("vision", "speech", "vision"):
        add(store, NEW.model_copy(update={"project": project}), key(), "f")
    ids = [run.id for run in store.find(RunFilter(projects=frozenset({"vision"})))]
    assert ids == ["vision-2", "vision-1"]
    assert store.find(RunFilter(projects=frozenset())) == []
    assert len(store.find(RunFilter(limit=2))) == 2


def test_lost_connection_is_healed_by_itself(store: postgres.PostgresRuns, pool: sa.Engine) -> None:
    store.ping()
    with pool.connect() as connection:
        kill = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )
        connection.execute(sa.text(kill))
    store.ping()
    with pool.connect() as connection:
        assert connection.execute(sa.text("SELECT 1")).scalar_one() == 1


def test_absent_server_is_unreachable() -> None:
    pool = postgres.engine("postgresql+psycopg://nobody@127.0.0.1:1/none", {}, 1)
    with pytest.raises(UnreachableError, match="does not answer"):
        postgres.PostgresRuns(pool).ping()


def array(text: str, indices: range, parallel: int | None = None) -> Submission:
    """An array of runs like NEW."""
    made = NewArray(text=text, indices=tuple(indices), parallel=parallel)
    return Submission(run=NEW, array=made, held_reason="waits for its array")


def test_array_is_one_row_in_lists_and_a_run_for_each_index(store: postgres.PostgresRuns) -> None:
    same = key()
    first = store.add([array("5-14%3", range(5, 15), 3)], same, "f")[0][0]
    assert (first.id, first.array_id, first.job_name) == ("vision-1.5", "vision-1", "run-vision-1-5")
    members = store.members("vision", 1)
    assert [run.array_index for run in members] == list(range(5, 15))
    assert [run.reason for run in members[2:4]] == [None, "waits for its array"]
    assert {run.command for run in members} == {NEW.command}
    add(store, NEW, key())
    found = store.find(RunFilter())
    assert [one.id for one in found] == ["vision-2", "vision-1"]
    assert isinstance(found[1], RunArray)
    assert found[1].summary.counts == {RunState.QUEUED: 10}
    again, created = store.add([array("5-14%3", range(5, 15), 3)], same, "f")
    assert (again, created) == ([first], False)
    assert len(store.members("vision", 1)) == 10


def test_members_are_listed_by_the_states_they_are_in(store: postgres.PostgresRuns) -> None:
    first = store.add([array("0-1", range(2))], key(), "f")[0][0]
    store.change(first, RunChange(state=RunState.FAILED, exit_code=3, finished_at=datetime.now(UTC)))
    for state in (RunState.FAILED, RunState.QUEUED):
        assert [one.id for one in store.find(RunFilter(states=frozenset({state})))] == ["vision-1"]
    assert store.find(RunFilter(states=frozenset({RunState.LOST}))) == []
    whole = store.array("vision", 1)
    assert whole is not None
    assert (whole.state, whole.exit_code) == (RunState.QUEUED, 3)


def test_slots_of_an_array_count_what_is_made_and_give_the_next(store: postgres.PostgresRuns) -> None:
    store.add([array("0-9%3", range(10), 3), array("0-1", range(2))], key(), "f")
    members = store.members("vision", 1)
    store.set_job(members[1], "uid")
    slots = store.slots([("vision", 1), ("vision", 2)])
    assert list(slots) == [("vision", 1)], "the other has no limit"
    assert (slots["vision", 1].taken, slots["vision", 1].waiting[:3]) == (1, (0, 2, 3))


def test_bulk_is_accepted_whole_or_not_at_all(store: postgres.PostgresRuns) -> None:
    same = key()
    items = [Submission(run=NEW.model_copy(update={"name": f"n{n}"})) for n in range(500)]
    runs, created = store.add(items, same, "f")
    assert created
    assert [run.number for run in runs] == list(range(1, 501))
    assert store.add(items, same, "f") == (runs, False)
    taken = key()
    add(store, NEW, taken)
    with pytest.raises(ConflictError):
        store.add(items, taken, "g")
    assert len(store.active()) == 501
    assert add(store, NEW, key())[0].number == 502, "no number is lost by what was refused"


def test_states_are_told_of_runs_members_and_arrays(store: postgres.PostgresRuns) -> None:
    store.add([array("0-1", range(2)), Submission(run=NEW)], key(), "f")
    store.end("vision", 1, [0], RunChange(state=RunState.CANCELLED, finished_at=datetime.now(UTC)))
    wanted = [
        ("vision", 1, None),
        ("vision", 1, 0),
        ("vision", 2, None),
        ("vision", 2, 0),
        ("vision", 9, None),
    ]
    assert store.states(wanted) == {
        "vision-1": {RunState.QUEUED: 1, RunState.CANCELLED: 1},
        "vision-1.0": {RunState.CANCELLED: 1},
        "vision-2": {RunState.QUEUED: 1},
    }


def test_ending_members_leaves_ended_ones_as_they_are(store: postgres.PostgresRuns) -> None:
    store.add([array("0-4", range(5))], key(), "f")
    change = RunChange(state=RunState.CANCELLED, reason="cancelled by ada", finished_at=datetime.now(UTC))
    assert [run.array_index for run in store.end("vision", 1, [1, 3, 77], change)] == [1, 3]
    assert [run.array_index for run in store.end("vision", 1, None, change)] == [0, 2, 4]
    assert store.end("vision", 1, None, change) == []


def test_reason_is_written_to_those_that_still_wait(store: postgres.PostgresRuns) -> None:
    store.add([array("0-2", range(3))], key(), "f")
    members = store.members("vision", 1)
    store.change(members[1], RunChange(state=RunState.RUNNING, node="gpu1"))
    store.explain(members[:2], "waits for 1 GPU")
    assert [run.reason for run in store.members("vision", 1)] == ["waits for 1 GPU", None, None]


def test_news_of_an_old_attempt_change_nothing(store: postgres.PostgresRuns) -> None:
    run, _ = add(store, NEW, key())
    store.set_job(run, "uid")
    store.change(run, RunChange(state=RunState.FAILED, node="gpu1", finished_at=datetime.now(UTC)))
    again = store.requeue([run], "queued again by ada")[0]
    assert (again.state, again.attempt, again.node, again.job_uid) == (RunState.QUEUED, 2, None, None)
    assert store.requeue([run], "queued again by ada") == [], "the request came twice"
    assert not store.change(run, RunChange(state=RunState.FAILED))
    store.set_job(run, "old")
    assert store.get("vision", 1, 0) == again


def ran(
    store: postgres.PostgresRuns,
    pool: sa.Engine,
    *,
    started: bool = True,
    ended: bool = True,
    **changes: object,
) -> None:
    """A run of two GPUs and three processors that waited a minute, from 08:01 to 10:01."""
    run, _ = add(store, NEW.model_copy(update={"gpus": 2, "cpus": 3.0, **changes}), key())
    times = {"submitted_at": DAY}
    if started:
        times["started_at"] = DAY + timedelta(minutes=1)
    if ended:
        times["finished_at"] = DAY + timedelta(hours=2, minutes=1)
    same = (tables.RUNS.c.project == run.project, tables.RUNS.c.number == run.number)
    with pool.begin() as connection:
        connection.execute(tables.RUNS.update().where(*same).values(**times))


DAY = datetime(2026, 11, 1, 8, 0, tzinfo=UTC)


def test_usage_counts_the_part_of_a_run_that_lies_within(
    store: postgres.PostgresRuns, pool: sa.Engine
) -> None:
    used = PostgresUsage(pool)
    ran(store, pool)
    ran(store, pool, nodes=2, user="bo")
    ran(store, pool, project="speech", user="bo", ended=False)
    ran(store, pool, started=False, user="eve")  # was cancelled in the queue
    add(store, NEW, key())  # was submitted later
    one_hour = (DAY + timedelta(minutes=31), DAY + timedelta(minutes=91))
    by_project, by_user = used.consumed(*one_hour, None, None)
    assert [(line.runs, line.gpu_hours, line.wait_seconds) for line in by_user if line.name == "eve"] == [
        (1, 0.0, None)
    ]
    by_user = [line for line in by_user if line.name != "eve"]
    assert {(line.name, line.runs, line.gpu_hours, line.cpu_hours) for line in by_project} == {
        ("vision", 3, 6.0, 9.0),
        ("speech", 1, 2.0, 3.0),
    }
    assert {(line.name, line.runs, line.gpu_hours) for line in by_user} == {("ada", 1, 2.0), ("bo", 2, 6.0)}
    assert {line.wait_seconds for line in by_project} == {60.0}
    only, people = used.consumed(*one_hour, frozenset({"vision"}), "bo")
    assert [(line.name, line.gpu_hours) for line in only] == [("vision", 4.0)]
    assert [line.name for line in people] == ["bo"]
    assert used.consumed(DAY - timedelta(days=2), DAY - timedelta(days=1), None, None) == ([], [])
    assert used.consumed(*one_hour, frozenset(), None) == ([], [])


def test_newest_report_of_what_is_stored_is_kept(pool: sa.Engine) -> None:
    used = PostgresUsage(pool)
    for size in (1, 2):
        amount = StorageAmount(bytes=size, files=1)
        report = StorageReport(measured_at=DAY, quotas=True, projects={"vision": amount}, people={})
        used.keep_storage(report)
        assert used.storage() == report


def test_ended_runs_without_a_result_in_the_record_are_found_once(
    store: postgres.PostgresRuns, pool: sa.Engine
) -> None:
    table = PostgresRecords(pool)
    now = datetime.now(UTC)
    first = store.add([array("0-4", range(5))], key(), "f")[0][0]
    members = store.members("vision", first.number)
    for place, run in enumerate(members[:4]):
        # Two end at the same moment, one long ago.
        end = now - timedelta(days=10) if place == 3 else now - timedelta(seconds=place // 2)
        store.change(run, RunChange(state=RunState.LOST, finished_at=end))
    since = now - timedelta(days=7)
    found = table.unrecorded(since, 10)
    assert [run.trial for run in found] == [2, 0, 1]
    assert [run.trial for run in table.unrecorded(since, 1)] == [2]
    assert [run.trial for run in table.unrecorded(since, 9, found[1])] == [1]
    table.set_recorded(found[0], now)
    table.set_recorded(found[1].model_copy(update={"attempt": 9}), now)
    assert [run.trial for run in table.unrecorded(since, 10)] == [0, 1]
    store.requeue([found[0]], "again")
    store.change(store.members("vision", first.number)[2], RunChange(state=RunState.LOST, finished_at=now))
    assert {run.trial for run in table.unrecorded(since, 10)} == {0, 1, 2}
