"""How accepted runs are written down: all of one request, or none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY as PG_ARRAY
from sqlalchemy.dialects.postgresql import insert

from labcluster.adapters.tables import ARRAYS, COUNTERS, RUNS
from labcluster.models.runs import Run, RunState, Submission


def insert_runs(
    connection: sa.Connection, items: Sequence[Submission], key: str, fingerprint: str
) -> list[Run]:
    """Write a request's runs under their projects' next numbers; IntegrityError if its key was used."""
    counts = Counter(item.run.project for item in items)
    following: dict[str, int] = {}
    now: datetime | None = None
    for project in sorted(counts):  # always in this order, so that two requests never wait for each other
        new = insert(COUNTERS).values(project=project, last=counts[project])
        number = new.on_conflict_do_update(
            index_elements=["project"], set_={"last": COUNTERS.c.last + new.excluded.last}
        ).returning(COUNTERS.c.last, sa.func.clock_timestamp())
        last, now = connection.execute(number).one()
        following[project] = last - counts[project] + 1
    runs: list[Run] = []
    rows: list[dict[str, Any]] = []
    for place, item in enumerate(items):
        index = item.array.indices[0] if item.array else None
        size = len(item.array.indices) if item.array else None
        values: dict[str, Any] = {
            **item.run.model_dump(),
            "array_index": index,
            "array_size": size,
            "number": following[item.run.project],
            "trial": index or 0,
            "attempt": 1,
            "state": RunState.QUEUED,
            "reason": item.reason,
            "submitted_at": now,
        }
        following[item.run.project] += 1
        runs.append(Run(**values))
        values |= {"command": list(item.run.command), "after": list(item.run.after)}
        rows.append(values | {"idempotency_key": key_of(key, place), "fingerprint": fingerprint})
    # The first of a request decides whether it is new.
    connection.execute(RUNS.insert(), rows)
    for item, row in zip(items, rows, strict=True):
        if item.array:
            _insert_array(connection, item, row)
    return runs


def _insert_array(connection: sa.Connection, item: Submission, first: dict[str, Any]) -> None:
    """The array of a first member, and its other members as copies of that."""
    array = item.array
    assert array is not None
    same = {name: first[name] for name in ("project", "number", "name", "user", "submitted_at")}
    parent = same | {"indices": array.text, "total": len(array.indices), "parallel": array.parallel}
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
    names = list(first)
    values = [own[name] if name in own else sa.literal(first[name], RUNS.c[name].type) for name in names]
    connection.execute(RUNS.insert().from_select(names, sa.select(*values).select_from(others)))


def key_of(key: str, place: int) -> str:
    """The key in the row of one item of a request; nobody can send one with a # in it."""
    return f"{key}#{place}" if place else key
