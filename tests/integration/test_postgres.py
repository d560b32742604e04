"""The run table on a real PostgreSQL: numbering, idempotency, migrations. Needs Debian's postgresql."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from labcluster.adapters import postgres
from labcluster.errors import ConflictError, UnreachableError
from labcluster.models.runs import NewRun, RunChange, RunFilter, RunState

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
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


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of our own; PostgreSQL does not run as root, so root borrows Debian's user."""
    root = os.geteuid() == 0
    if not BINARIES or (root and not shutil.which("runuser")):
        pytest.skip("PostgreSQL's server is not installed")
    home = tmp_path_factory.mktemp("postgresql")
    as_user = ["runuser", "-u", "postgres", "--"] if root else []
    user = "postgres" if root else getpass.getuser()
    if root:
        for folder in (home, home.parent):
            folder.chmod(0o755)
        home.parent.parent.chmod(0o755)
        shutil.chown(home, "postgres")
    data = home / "data"
    initialise = [*as_user, BINARIES[-1] / "initdb", "-D", data, "-A", "trust", "-N"]
    subprocess.run(initialise, check=True, capture_output=True)
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c fsync=off -k {home}"
    control = [*as_user, BINARIES[-1] / "pg_ctl", "-D", data, "-w"]
    subprocess.run([*control, "-l", home / "log", "-o", options, "start"], check=True, capture_output=True)
    try:
        yield f"postgresql+psycopg://{user}@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=True, capture_output=True)


@pytest.fixture(scope="module")
def pool(server: str) -> Iterator[sa.Engine]:
    pool = postgres.engine(server, {}, 8)
    together = [threading.Thread(target=postgres.migrate, args=(pool,)) for _ in range(3)]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join()
    yield pool
    pool.dispose()


@pytest.fixture
def store(pool: sa.Engine) -> postgres.PostgresRuns:
    with pool.begin() as connection:
        connection.execute(sa.text("TRUNCATE runs, run_counters"))
    return postgres.PostgresRuns(pool)


def key() -> str:
    return str(uuid.uuid4())


def test_migrations_make_what_the_code_expects(pool: sa.Engine) -> None:
    postgres.migrate(pool)
    with pool.connect() as connection:
        ours = {"include_object": lambda _o, name, kind, *_: kind != "table" or name in postgres.METADATA}
        context = MigrationContext.configure(connection, opts=ours)
        assert compare_metadata(context, postgres.METADATA) == []


def test_run_comes_back_as_it_went_in(store: postgres.PostgresRuns) -> None:
    run, created = store.add(NEW, key(), "f")
    assert created
    assert store.get("vision", 1, 0) == run
    assert run.model_dump(include=set(NewRun.model_fields)) == NEW.model_dump()
    assert run.submitted_at.utcoffset() is not None


def test_runs_of_many_threads_are_numbered_without_a_gap(store: postgres.PostgresRuns) -> None:
    same = key()

    def submit() -> None:
        for _ in range(20):
            store.add(NEW, key(), "f")
            store.add(NEW, same, "f")

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    numbers = sorted(run.number for run in store.active())
    assert numbers == list(range(1, 8 * 20 + 2))


def test_key_of_another_request_is_a_conflict_for_this_user_only(store: postgres.PostgresRuns) -> None:
    same = key()
    store.add(NEW, same, "f")
    with pytest.raises(ConflictError):
        store.add(NEW, same, "g")
    assert store.add(NEW.model_copy(update={"user": "bo"}), same, "g")[1]


def test_final_run_changes_no_more(store: postgres.PostgresRuns) -> None:
    run, _ = store.add(NEW, key(), "f")
    now = datetime.now(UTC)
    assert store.change(run, RunChange(state=RunState.CANCELLED, finished_at=now))
    assert not store.change(run, RunChange(state=RunState.RUNNING))
    assert store.active() == []
    assert [ended.id for ended in store.ended_since(now - timedelta(minutes=1))] == [run.id]


def test_lists_are_bounded_by_what_the_caller_may_see(store: postgres.PostgresRuns) -> None:
    for project in ("vision", "speech", "vision"):
        store.add(NEW.model_copy(update={"project": project}), key(), "f")
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
