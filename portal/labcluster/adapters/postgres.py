"""The run table in PostgreSQL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.dialects.postgresql import aggregate_order_by, distinct_on
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from labcluster.adapters.insertion import Accepted, insert_runs, key_of
from labcluster.adapters.tables import ARRAYS, RUNS
from labcluster.adapters.together import Together
from labcluster.errors import ConflictError, UncertainError, UnreachableError
from labcluster.models.runs import (
    ACTIVE_STATES,
    ArraySlots,
    ArraySummary,
    Run,
    RunArray,
    RunChange,
    RunFilter,
    RunState,
    Submission,
)
from labcluster.models.settings import DatabaseSettings

_ACTIVE = RUNS.c.state.in_(sorted(ACTIVE_STATES))
PUBLIC = [column for column in RUNS.c if column.name not in ("idempotency_key", "fingerprint")]


def connect(settings: DatabaseSettings) -> sa.Engine:
    """A pool of connections over verified TLS; nothing is opened yet."""
    return engine(*address(settings), settings.pool_size)


def address(settings: DatabaseSettings, schema: str | None = None) -> tuple[sa.URL, dict[str, Any]]:
    """Where the database is, and what a connection over verified TLS is opened with."""
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
    if schema:
        arguments["options"] += f" -c search_path={schema}"
    return url, arguments


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
    with reachable(), pool.begin() as connection:
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('labcluster migrations'))"))
        configuration.attributes["connection"] = connection
        command.upgrade(configuration, "head")


# What a row is emptied of when its next attempt begins.
_OF_AN_ATTEMPT = (
    *("started_at", "finished_at", "exit_code", "node"),
    *("recorded_at", "value", "judged_at", "job_uid"),
)

# Submits that share a transaction at most.
_TOGETHER = 64


class PostgresRuns:
    """Implements `services.ports.RunStore`."""

    def __init__(self, pool: sa.Engine) -> None:
        self._pool = pool
        self._together = Together(self._add_all, _TOGETHER)

    def add(self, items: Sequence[Submission], key: str, fingerprint: str) -> tuple[list[Run], bool]:
        """Commit runs under their projects' next numbers, all or none; the counters' locks order them.

        Of an array its first member is given. Single runs that come at the same moment share one
        transaction: the lock of their project's counter and the wait for the disk are paid once.
        """
        request = Accepted(items, key, fingerprint)
        if len(items) == 1 and items[0].array is None:
            return self._together.do(request)
        return self._add(request)

    def _add_all(self, requests: Sequence[Accepted]) -> Sequence[tuple[list[Run], bool] | Exception]:
        try:
            return [(runs, True) for runs in self._commit(requests)]
        except IntegrityError:
            return [self._add_or_error(request) for request in requests]

    def _add_or_error(self, request: Accepted) -> tuple[list[Run], bool] | Exception:
        try:
            return self._add(request)
        except Exception as error:  # noqa: BLE001 - it is raised where this request came from
            return error

    def _add(self, request: Accepted) -> tuple[list[Run], bool]:
        try:
            return self._commit([request])[0], True
        except IntegrityError:
            # The same request was accepted before or beside us; the numbers were given back.
            user = request.items[0].run.user
            known = self.by_key(user, request.key, request.fingerprint, len(request.items))
        if not known:
            raise ConflictError("this request is being answered right now: try again")
        return known, False

    def _commit(self, requests: Sequence[Accepted]) -> list[list[Run]]:
        with reachable(), self._pool.connect() as connection, connection.begin() as transaction:
            answers = insert_runs(connection, requests)
            with _certain():
                transaction.commit()
            return answers

    def by_key(self, user: str, key: str, fingerprint: str, items: int = 1) -> list[Run]:
        """What an earlier request with this key made, in its order; of an array its first member."""
        keys = [key_of(key, item) for item in range(items)]
        query = sa.select(RUNS).where(RUNS.c.user == user, RUNS.c.idempotency_key.in_(keys))
        with reachable(), self._pool.connect() as connection:
            rows = connection.execute(query).all()
        if any(row.fingerprint != fingerprint for row in rows):
            raise ConflictError("this idempotency key was used for another request")
        return [run_of(row) for row in sorted(rows, key=lambda row: keys.index(row.idempotency_key))]

    def get(self, project: str, number: int, trial: int) -> Run | None:
        """One run."""
        row = self._one(sa.select(*PUBLIC).where(*_same(project, number, trial)))
        return run_of(row) if row is not None else None

    def members(self, project: str, number: int) -> Sequence[Run]:
        """The members of an array by index."""
        same = (RUNS.c.project == project, RUNS.c.number == number, RUNS.c.array_index.is_not(None))
        return self._many(sa.select(*PUBLIC).where(*same).order_by(RUNS.c.trial))

    def array(self, project: str, number: int) -> RunArray | None:
        """One array."""
        found = self._arrays(sa.select(ARRAYS).where(ARRAYS.c.project == project, ARRAYS.c.number == number))
        return found[0] if found else None

    def find(self, query: RunFilter) -> Sequence[Run | RunArray]:
        """Runs and arrays, newest first; an array counts as one, in every state that a member is in."""
        runs = sa.select(*PUBLIC).where(RUNS.c.array_index.is_(None), *_matching(RUNS, query))
        if query.states is not None:
            runs = runs.where(RUNS.c.state.in_(sorted(query.states)))
        arrays = sa.select(ARRAYS).where(*_matching(ARRAYS, query))
        if query.states is not None:
            same = (RUNS.c.project == ARRAYS.c.project, RUNS.c.number == ARRAYS.c.number)
            arrays = arrays.where(sa.exists().where(*same, RUNS.c.state.in_(sorted(query.states))))
        found: list[Run | RunArray] = []
        found += self._many(runs.order_by(RUNS.c.submitted_at.desc()).limit(query.limit))
        found += self._arrays(arrays.order_by(ARRAYS.c.submitted_at.desc()).limit(query.limit))
        return sorted(found, key=lambda one: one.submitted_at, reverse=True)[: query.limit]

    def states(self, runs: Iterable[tuple[str, int, int | None]]) -> Mapping[str, Counter[RunState]]:
        """How many are in which state, by id, of runs and (where the index is None) of whole arrays."""
        wanted = set(runs)
        if not wanted:
            return {}
        columns = (RUNS.c.project, RUNS.c.number, RUNS.c.trial, RUNS.c.array_index, RUNS.c.state)
        numbers = sorted({(project, number) for project, number, _ in wanted})
        query = sa.select(*columns).where(sa.tuple_(RUNS.c.project, RUNS.c.number).in_(numbers))
        found: dict[str, Counter[RunState]] = {}
        with reachable(), self._pool.connect() as connection:
            for project, number, trial, index, state in connection.execute(query):
                whole = f"{project}-{number}"
                if (project, number, None) in wanted:
                    found.setdefault(whole, Counter())[RunState(state)] += 1
                if (project, number, trial) in wanted and (index is not None or trial):
                    found.setdefault(f"{whole}.{trial}", Counter())[RunState(state)] += 1
        return found

    def slots(self, arrays: Iterable[tuple[str, int]]) -> Mapping[tuple[str, int], ArraySlots]:
        """What is taken and who waits in those arrays that have a limit."""
        wanted = sorted(set(arrays))
        if not wanted:
            return {}
        waits = sa.and_(RUNS.c.state == RunState.QUEUED, RUNS.c.job_uid.is_(None))
        together = RUNS.join(
            ARRAYS, sa.and_(RUNS.c.project == ARRAYS.c.project, RUNS.c.number == ARRAYS.c.number)
        )
        query = (
            sa.select(
                ARRAYS.c.project,
                ARRAYS.c.number,
                ARRAYS.c.parallel,
                sa.func.count().filter(~waits),
                sa.func.array_agg(aggregate_order_by(RUNS.c.trial, RUNS.c.trial.asc())).filter(waits),
            )
            .select_from(together)
            .where(
                sa.tuple_(ARRAYS.c.project, ARRAYS.c.number).in_(wanted),
                ARRAYS.c.parallel.is_not(None),
                _ACTIVE,
            )
            .group_by(ARRAYS.c.project, ARRAYS.c.number, ARRAYS.c.parallel)
        )
        with reachable(), self._pool.connect() as connection:
            return {
                (project, number): ArraySlots(parallel=parallel, taken=taken, waiting=tuple(waiting or ()))
                for project, number, parallel, taken, waiting in connection.execute(query)
            }

    def active(self) -> Sequence[Run]:
        """All runs that are not final, oldest first."""
        return self._many(sa.select(*PUBLIC).where(_ACTIVE).order_by(RUNS.c.submitted_at))

    def ended_since(self, moment: datetime) -> Sequence[Run]:
        """Runs that became final after `moment`."""
        return self._many(sa.select(*PUBLIC).where(~_ACTIVE, RUNS.c.finished_at > moment))

    def change(self, run: Run, change: RunChange) -> bool:
        """Write what happened to this attempt of a run that is not final."""
        update = RUNS.update().where(*_attempt(run), _ACTIVE).values(change.model_dump())
        return self._write(update)

    def explain(self, runs: Sequence[Run], reason: str) -> None:
        """Write what queued runs wait for, all in one statement."""
        same = sa.tuple_(RUNS.c.project, RUNS.c.number, RUNS.c.trial, RUNS.c.attempt).in_(
            [(run.project, run.number, run.trial, run.attempt) for run in runs]
        )
        self._write(RUNS.update().where(same, RUNS.c.state == RunState.QUEUED).values(reason=reason))

    def end(
        self, project: str, number: int, trials: Sequence[int] | None, change: RunChange
    ) -> Sequence[Run]:
        """Write the end of those members of an array that are not final, and give them."""
        update = RUNS.update().where(RUNS.c.project == project, RUNS.c.number == number, _ACTIVE)
        if trials is not None:
            update = update.where(RUNS.c.trial.in_(trials))
        fields = {"state", "reason", "finished_at"}
        return self._changed(update.values(change.model_dump(include=fields)))

    def requeue(self, runs: Sequence[Run], reason: str) -> Sequence[Run]:
        """Begin the next attempt of runs of one number that are still in the attempt given; give them."""
        if not runs:
            return []
        same = sa.tuple_(RUNS.c.trial, RUNS.c.attempt).in_([(run.trial, run.attempt) for run in runs])
        update = RUNS.update().where(RUNS.c.project == runs[0].project, RUNS.c.number == runs[0].number, same)
        emptied = dict.fromkeys(_OF_AN_ATTEMPT)
        return self._changed(
            update.values(state=RunState.QUEUED, reason=reason, attempt=RUNS.c.attempt + 1, **emptied)
        )

    def set_job(self, run: Run, job_uid: str) -> None:
        """Note that the Job of this attempt was made."""
        self._write(RUNS.update().where(*_attempt(run)).values(job_uid=job_uid))

    def ping(self) -> None:
        """Raise UnreachableError unless the database answers."""
        self._one(sa.select(sa.literal(1)))

    def _one(self, query: sa.Select[Any]) -> sa.Row[Any] | None:
        with reachable(), self._pool.connect() as connection:
            return connection.execute(query).one_or_none()

    def _many(self, query: sa.Select[Any]) -> list[Run]:
        with reachable(), self._pool.connect() as connection:
            return [run_of(row) for row in connection.execute(query)]

    def _changed(self, statement: sa.Update) -> list[Run]:
        with reachable(), self._pool.begin() as connection:
            rows = connection.execute(statement.returning(*PUBLIC)).all()
        return sorted((run_of(row) for row in rows), key=lambda run: run.trial)

    def _arrays(self, query: sa.Select[Any]) -> list[RunArray]:
        """The arrays that a query of their table finds, in its order."""
        with reachable(), self._pool.connect() as connection:
            rows = connection.execute(query).all()
            if not rows:
                return []
            keys = [(row.project, row.number) for row in rows]
            same = sa.tuple_(RUNS.c.project, RUNS.c.number).in_(keys)
            number = (RUNS.c.project, RUNS.c.number)
            firsts = sa.select(*PUBLIC).where(same).ext(distinct_on(*number)).order_by(*number, RUNS.c.trial)
            first = {(row.project, row.number): run_of(row) for row in connection.execute(firsts)}
            counts: dict[tuple[str, int], list[sa.Row[Any]]] = {}
            tally = sa.select(
                *number,
                RUNS.c.state,
                sa.func.count().label("members"),
                sa.func.min(RUNS.c.started_at).label("started"),
                sa.func.max(RUNS.c.finished_at).label("finished"),
                sa.func.max(RUNS.c.exit_code).label("code"),
            ).where(same)
            for row in connection.execute(tally.group_by(*number, RUNS.c.state)):
                counts.setdefault((row.project, row.number), []).append(row)
        return [_array(row, first[key], counts[key]) for key, row in zip(keys, rows, strict=True)]

    def _write(self, statement: sa.Update | sa.Delete) -> bool:
        with reachable(), self._pool.begin() as connection:
            return connection.execute(statement).rowcount > 0


def _array(row: sa.Row[Any], first: Run, counts: Sequence[sa.Row[Any]]) -> RunArray:
    started = [count.started for count in counts if count.started]
    finished = [count.finished for count in counts if count.finished]
    codes = [count.code for count in counts if count.code is not None]
    return RunArray(
        first=first,
        summary=ArraySummary(
            indices=row.indices,
            total=row.total,
            parallel=row.parallel,
            sweep=row.sweep,
            counts={RunState(count.state): count.members for count in counts},
        ),
        started_at=min(started, default=None),
        finished_at=max(finished, default=None),
        exit_code=max(codes, default=None),
    )


def _matching(table: sa.Table, query: RunFilter) -> list[sa.ColumnElement[bool]]:
    """The conditions of a filter that runs and arrays have in common."""
    conditions: list[sa.ColumnElement[bool]] = []
    if query.projects is not None:
        conditions.append(table.c.project.in_(sorted(query.projects)))
    if query.user is not None:
        conditions.append(table.c.user == query.user)
    return conditions


def _attempt(run: Run) -> tuple[sa.ColumnElement[bool], ...]:
    return (*_same(run.project, run.number, run.trial), RUNS.c.attempt == run.attempt)


def _same(project: str, number: int, trial: int) -> tuple[sa.ColumnElement[bool], ...]:
    return (RUNS.c.project == project, RUNS.c.number == number, RUNS.c.trial == trial)


def run_of(row: sa.Row[Any]) -> Run:
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
def reachable() -> Iterator[None]:
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
