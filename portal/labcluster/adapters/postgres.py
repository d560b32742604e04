"""The run table in PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from labcluster.errors import ConflictError, UncertainError, UnreachableError
from labcluster.models.runs import ACTIVE_STATES, NewRun, Run, RunChange, RunFilter
from labcluster.models.settings import DatabaseSettings

METADATA = sa.MetaData()
_ACTIVE_SQL = "state IN ('queued', 'starting', 'running')"

COUNTERS = sa.Table(
    "run_counters",
    METADATA,
    sa.Column("project", sa.Text, primary_key=True),
    sa.Column("last", sa.BigInteger, nullable=False),
)

RUNS = sa.Table(
    "runs",
    METADATA,
    sa.Column("project", sa.Text, primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True),
    sa.Column("trial", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("user", sa.Text, nullable=False),
    sa.Column("uid", sa.BigInteger, nullable=False),
    sa.Column("gid", sa.BigInteger, nullable=False),
    sa.Column("image", sa.Text, nullable=False),
    sa.Column("image_digest", sa.Text, nullable=False),
    sa.Column("command", JSONB, nullable=False),
    sa.Column("workdir", sa.Text, nullable=False),
    sa.Column("gpus", sa.Integer, nullable=False),
    sa.Column("cpus", sa.Double, nullable=False),
    sa.Column("memory", sa.Text, nullable=False),
    sa.Column("time_seconds", sa.Integer),
    sa.Column("env", JSONB, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("submitted_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("started_at", sa.DateTime(timezone=True)),
    sa.Column("finished_at", sa.DateTime(timezone=True)),
    sa.Column("exit_code", sa.Integer),
    sa.Column("node", sa.Text),
    sa.Column("job_uid", sa.Text),
    sa.Column("idempotency_key", sa.Text, nullable=False),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.UniqueConstraint("user", "idempotency_key", name="runs_user_key"),
    sa.Index("runs_active", "submitted_at", postgresql_where=sa.text(_ACTIVE_SQL)),
    sa.Index("runs_submitted", "submitted_at"),
    sa.Index("runs_finished", "finished_at"),
)

_ACTIVE = RUNS.c.state.in_(sorted(ACTIVE_STATES))
_PUBLIC = [column for column in RUNS.c if column.name not in ("idempotency_key", "fingerprint")]


def connect(settings: DatabaseSettings) -> sa.Engine:
    """A pool of connections over verified TLS; nothing is opened yet."""
    url = sa.URL.create(
        "postgresql+psycopg",
        username=settings.user,
        password=settings.password_file.read_text().strip(),
        host=settings.host,
        port=settings.port,
        database=settings.name,
    )
    arguments: dict[str, Any] = {
        "sslmode": "verify-full",
        "sslrootcert": str(settings.ca_file),
        "connect_timeout": 3,
        "application_name": "labcluster",
        # A database host that vanished must not hold a request for minutes.
        "tcp_user_timeout": 5000,
        "options": "-c statement_timeout=10000 -c idle_in_transaction_session_timeout=30000",
    }
    return engine(url, arguments, settings.pool_size)


def engine(url: sa.URL | str, arguments: dict[str, Any], pool_size: int) -> sa.Engine:
    """A pool that notices dead connections before a request does."""
    return sa.create_engine(
        url,
        connect_args=arguments,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=5,
        pool_pre_ping=True,
        pool_recycle=1800,
    )


def migrate(pool: sa.Engine) -> None:
    """Bring the schema up to date; only one of several that start together does it."""
    configuration = Config()
    configuration.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with _reachable(), pool.begin() as connection:
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('labcluster migrations'))"))
        configuration.attributes["connection"] = connection
        command.upgrade(configuration, "head")


class PostgresRuns:
    """Implements `services.ports.RunStore`."""

    def __init__(self, pool: sa.Engine) -> None:
        self._pool = pool

    def add(self, run: NewRun, key: str, fingerprint: str) -> tuple[Run, bool]:
        """Commit a new run under its project's next number; the lock of the counter orders them."""
        number = (
            insert(COUNTERS)
            .values(project=run.project, last=1)
            .on_conflict_do_update(index_elements=["project"], set_={"last": COUNTERS.c.last + 1})
            .returning(COUNTERS.c.last)
        )
        with _reachable(), self._pool.connect() as connection, connection.begin() as transaction:
            values = {
                **run.model_dump(),
                "command": list(run.command),
                "number": connection.execute(number).scalar_one(),
                "trial": 0,
                "state": "queued",
                "submitted_at": sa.func.clock_timestamp(),
                "idempotency_key": key,
                "fingerprint": fingerprint,
            }
            row = connection.execute(
                insert(RUNS)
                .values(values)
                .on_conflict_do_nothing(index_elements=["user", "idempotency_key"])
                .returning(*_PUBLIC)
            ).one_or_none()
            if row is not None:
                with _certain():
                    transaction.commit()
                return _run(row), True
            # The same request is being accepted beside us: give the number back.
            transaction.rollback()
        known = self.by_key(run.user, key, fingerprint)
        if known is None:
            raise ConflictError("this request is being answered right now: try again")
        return known, False

    def by_key(self, user: str, key: str, fingerprint: str) -> Run | None:
        """The run that an earlier request with this key made."""
        query = sa.select(RUNS).where(RUNS.c.user == user, RUNS.c.idempotency_key == key)
        row = self._one(query)
        if row is None:
            return None
        if row.fingerprint != fingerprint:
            raise ConflictError("this idempotency key was used for another request")
        return _run(row)

    def get(self, project: str, number: int, trial: int) -> Run | None:
        """One run."""
        row = self._one(sa.select(*_PUBLIC).where(*_same(project, number, trial)))
        return _run(row) if row is not None else None

    def find(self, query: RunFilter) -> Sequence[Run]:
        """Runs, newest first."""
        select = sa.select(*_PUBLIC).order_by(RUNS.c.submitted_at.desc()).limit(query.limit)
        if query.projects is not None:
            select = select.where(RUNS.c.project.in_(sorted(query.projects)))
        if query.user is not None:
            select = select.where(RUNS.c.user == query.user)
        if query.states is not None:
            select = select.where(RUNS.c.state.in_(sorted(query.states)))
        return self._many(select)

    def active(self) -> Sequence[Run]:
        """All runs that are not final, oldest first."""
        return self._many(sa.select(*_PUBLIC).where(_ACTIVE).order_by(RUNS.c.submitted_at))

    def ended_since(self, moment: datetime) -> Sequence[Run]:
        """Runs that became final after `moment`."""
        return self._many(sa.select(*_PUBLIC).where(~_ACTIVE, RUNS.c.finished_at > moment))

    def change(self, run: Run, change: RunChange) -> bool:
        """Write what happened to a run that is not final."""
        update = RUNS.update().where(*_key(run), _ACTIVE).values(change.model_dump())
        return self._write(update)

    def set_job(self, run: Run, job_uid: str) -> None:
        """Note that the run's Job was made."""
        self._write(RUNS.update().where(*_key(run)).values(job_uid=job_uid))

    def ping(self) -> None:
        """Raise UnreachableError unless the database answers."""
        self._one(sa.select(sa.literal(1)))

    def _one(self, query: sa.Select[Any]) -> sa.Row[Any] | None:
        with _reachable(), self._pool.connect() as connection:
            return connection.execute(query).one_or_none()

    def _many(self, query: sa.Select[Any]) -> list[Run]:
        with _reachable(), self._pool.connect() as connection:
            return [_run(row) for row in connection.execute(query)]

    def _write(self, statement: sa.Update | sa.Delete) -> bool:
        with _reachable(), self._pool.begin() as connection:
            return connection.execute(statement).rowcount > 0


def _key(run: Run) -> tuple[sa.ColumnElement[bool], ...]:
    return _same(run.project, run.number, run.trial)


def _same(project: str, number: int, trial: int) -> tuple[sa.ColumnElement[bool], ...]:
    return (RUNS.c.project == project, RUNS.c.number == number, RUNS.c.trial == trial)


def _run(row: sa.Row[Any]) -> Run:
    values = dict(row._mapping)
    values.pop("idempotency_key", None)
    values.pop("fingerprint", None)
    return Run.model_validate(values)


@contextmanager
def _certain() -> Iterator[None]:
    """A commit that breaks may have been made."""
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        raise UncertainError(f"the run database died over a commit: {_line(error)}") from error


@contextmanager
def _reachable() -> Iterator[None]:
    """A database that is away or overrun is the cluster's fault, not the request's."""
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeoutError) as error:
        raise UnreachableError(f"the run database does not answer: {_line(error)}") from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise UnreachableError(f"the run database does not answer: {_line(error)}") from error
        raise


def _line(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or error
    return str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
