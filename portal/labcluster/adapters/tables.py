"""The tables, as the newest migration leaves them."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

METADATA = sa.MetaData()
ACTIVE_SQL = "state IN ('queued', 'starting', 'running')"

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
    sa.Column("nodes", sa.Integer, nullable=False),
    sa.Column("priority", sa.Text, nullable=False),
    sa.Column("requeue", sa.Boolean, nullable=False),
    sa.Column("after", JSONB, nullable=False),
    sa.Column("array_index", sa.Integer),
    sa.Column("array_size", sa.Integer),
    sa.Column("env", JSONB, nullable=False),
    sa.Column("code", JSONB(none_as_null=True)),
    sa.Column("params", JSONB, nullable=False),
    sa.Column("seed", sa.Integer),
    sa.Column("data", JSONB, nullable=False),
    sa.Column("parent", sa.Text),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("submitted_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("started_at", sa.DateTime(timezone=True)),
    sa.Column("finished_at", sa.DateTime(timezone=True)),
    sa.Column("exit_code", sa.Integer),
    sa.Column("node", sa.Text),
    sa.Column("recorded_at", sa.DateTime(timezone=True)),
    sa.Column("drawn", sa.Boolean, nullable=False),
    sa.Column("value", sa.Double),
    sa.Column("judged_at", sa.DateTime(timezone=True)),
    sa.Column("job_uid", sa.Text),
    sa.Column("idempotency_key", sa.Text, nullable=False),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.UniqueConstraint("user", "idempotency_key", name="runs_user_key"),
    sa.Index("runs_active", "submitted_at", postgresql_where=sa.text(ACTIVE_SQL)),
    sa.Index("runs_submitted", "submitted_at", postgresql_where=sa.text("array_index IS NULL")),
    sa.Index("runs_finished", "finished_at"),
    sa.Index(
        "runs_unrecorded",
        "finished_at",
        postgresql_where=sa.text(f"recorded_at IS NULL AND NOT ({ACTIVE_SQL})"),
    ),
)

ARRAYS = sa.Table(
    "arrays",
    METADATA,
    sa.Column("project", sa.Text, primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("user", sa.Text, nullable=False),
    sa.Column("indices", sa.Text, nullable=False),
    sa.Column("total", sa.Integer, nullable=False),
    sa.Column("parallel", sa.Integer),
    sa.Column("submitted_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("sweep", JSONB(none_as_null=True)),
    sa.Index("arrays_submitted", "submitted_at"),
    sa.Index("arrays_sweeps", "submitted_at", postgresql_where=sa.text("sweep IS NOT NULL")),
)

# The newest report of each kind that another part of the site sends, e.g. what is stored on the tree.
REPORTS = sa.Table(
    "reports",
    METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("report", JSONB, nullable=False),
)

# Who wants notices of runs; `target` is a secret where it is a webhook's address.
RECEIVERS = sa.Table(
    "receivers",
    METADATA,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("scope", sa.Text, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("events", sa.ARRAY(sa.Text), nullable=False),
    sa.Column("wait_seconds", sa.Integer, nullable=False),
    sa.Column("set_by", sa.Text, nullable=False),
    sa.Column("trouble", sa.Text),
    sa.Column("delivered_at", sa.DateTime(timezone=True)),
    sa.UniqueConstraint("scope", "owner", "name", name="receivers_owner_name"),
)

# A trigger on `runs` adds to it in the transaction that changes a run's state (migration 0005).
NOTICES = sa.Table(
    "notices",
    METADATA,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("receiver", sa.BigInteger, sa.ForeignKey("receivers.id", ondelete="CASCADE"), nullable=False),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("project", sa.Text),
    sa.Column("number", sa.BigInteger),
    sa.Column("trial", sa.Integer),
    sa.Column("attempt", sa.Integer),
    sa.Column("state", sa.Text),
    sa.Column("at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("due_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
    sa.Column("done_at", sa.DateTime(timezone=True)),
    sa.UniqueConstraint("receiver", "event", "project", "number", "trial", "attempt", name="notices_once"),
    sa.Index("notices_due", "due_at", postgresql_where=sa.text("done_at IS NULL")),
)

# Verdicts on runs by their ids; `again` is empty where a run could not be repeated at all.
REPRODUCTIONS = sa.Table(
    "reproductions",
    METADATA,
    sa.Column("of", sa.Text, primary_key=True),
    sa.Column("again", sa.Text, primary_key=True),
    sa.Column("verdict", sa.Text, nullable=False),
    sa.Column("line", sa.Text, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("report", JSONB, nullable=False),
    sa.Index("reproductions_again", "again"),
)
