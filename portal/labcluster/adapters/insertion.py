"""How accepted runs are written down: all of one request, or none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY as PG_ARRAY
from sqlalchemy.dialects.postgresql import insert

from labcluster.adapters.tables import ARRAYS, COUNTERS, RUNS
from labcluster.models.code import MAX_SEED, member_seed
from labcluster.models.runs import Run, RunState, Submission


class Accepted(NamedTuple):
    """One request that passed every check."""

    items: Sequence[Submission]
    key: str
    fingerprint: str


_COUNTER = insert(COUNTERS).values(project=sa.bindparam("name"), last=sa.bindparam("more"))
_NEXT = _COUNTER.on_conflict_do_update(
    index_elements=["project"], set_={"last": COUNTERS.c.last + _COUNTER.excluded.last}
).returning(COUNTERS.c.last, sa.func.clock_timestamp())
_INSERT = RUNS.insert()


def insert_runs(connection: sa.Connection, requests: Sequence[Accepted]) -> list[list[Run]]:
    """Write requests' runs under their projects' next numbers; IntegrityError if a key was used."""
    counts = Counter(item.run.project for request in requests for item in request.items)
    following: dict[str, int] = {}
    now: datetime | None = None
    for project in sorted(counts):  # always in this order, so that two never wait for each other
        last, now = connection.execute(_NEXT, {"name": project, "more": counts[project]}).one()
        following[project] = last - counts[project] + 1
    answers: list[list[Run]] = []
    rows: list[dict[str, Any]] = []
    for request in requests:
        runs = []
        for place, item in enumerate(request.items):
            run = _row(item, following[item.run.project], now)
            following[item.run.project] += 1
            runs.append(run)
            rows.append(
                {
                    **run.model_dump(),
                    "command": list(run.command),
                    "after": list(run.after),
                    "data": list(run.data),
                    "idempotency_key": key_of(request.key, place),
                    "fingerprint": request.fingerprint,
                }
            )
        answers.append(runs)
    connection.execute(_INSERT, rows)
    items = [item for request in requests for item in request.items]
    for item, row in zip(items, rows, strict=True):
        if item.array:
            _insert_array(connection, item, row)
    return answers


def _row(item: Submission, number: int, now: datetime | None) -> Run:
    """A run, or the first member of an array."""
    index = item.array.indices[0] if item.array else None
    own = {
        "array_index": index,
        "array_size": len(item.array.indices) if item.array else None,
        "number": number,
        "trial": index or 0,
        "seed": item.run.seed if item.run.seed is None else member_seed(item.run.seed, index or 0),
        "state": RunState.QUEUED,
        "reason": item.reason,
        "drawn": item.array is None or item.array.sweep is None,
        "submitted_at": now,
    }
    return Run(**(item.run.model_dump() | own))


def _insert_array(connection: sa.Connection, item: Submission, first: dict[str, Any]) -> None:
    """The array of a first member, and its other members as copies of that."""
    array = item.array
    assert array is not None
    same = {name: first[name] for name in ("project", "number", "name", "user", "submitted_at")}
    parent = same | {"indices": array.text, "total": len(array.indices), "parallel": array.parallel}
    parent["sweep"] = array.sweep.model_dump(mode="json") if array.sweep else None
    connection.execute(ARRAYS.insert(), [parent])
    rest = sa.literal(list(array.indices[1:]), PG_ARRAY(sa.Integer))
    others = sa.func.unnest(rest).table_valued(sa.column("index", sa.Integer), with_ordinality="place")
    others = others.render_derived()
    own: dict[str, Any] = {
        "trial": others.c.index,
        "array_index": others.c.index,
        "idempotency_key": sa.literal(first["idempotency_key"] + ".") + sa.cast(others.c.place, sa.Text),
    }
    if array.parallel is not None:
        held = sa.literal(item.held_reason, sa.Text)
        own["reason"] = sa.case(
            (others.c.place < array.parallel, sa.literal(item.reason, sa.Text)), else_=held
        )
    if item.run.seed is not None:
        # As `member_seed`; in 64 bits, in which the sum cannot overflow.
        seeds = (sa.literal(item.run.seed, sa.BigInteger) + others.c.index) % (MAX_SEED + 1)
        own["seed"] = sa.cast(seeds, sa.Integer)
    names = list(first)
    values = [own[name] if name in own else sa.literal(first[name], RUNS.c[name].type) for name in names]
    connection.execute(RUNS.insert().from_select(names, sa.select(*values).select_from(others)))


def key_of(key: str, place: int) -> str:
    """The key in the row of one item of a request; nobody can send one with a # in it."""
    return f"{key}#{place}" if place else key
