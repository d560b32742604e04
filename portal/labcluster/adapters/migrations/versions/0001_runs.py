"""The run table and the counters that number runs within their project."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None

_ACTIVE = "state IN ('queued', 'starting', 'running')"


def upgrade() -> None:
    """Make both tables."""
    op.create_table(
        "run_counters",
        sa.Column("project", sa.Text, primary_key=True),
        sa.Column("last", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "runs",
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
        sa.CheckConstraint(
            "state IN ('queued', 'starting', 'running',"
            " 'succeeded', 'failed', 'cancelled', 'timed_out', 'lost')",
            name="runs_state",
        ),
        sa.UniqueConstraint("user", "idempotency_key", name="runs_user_key"),
    )
    op.create_index("runs_active", "runs", ["submitted_at"], postgresql_where=sa.text(_ACTIVE))
    op.create_index("runs_submitted", "runs", ["submitted_at"])
    op.create_index("runs_finished", "runs", ["finished_at"])


def downgrade() -> None:
    """Drop both tables."""
    op.drop_table("runs")
    op.drop_table("run_counters")
