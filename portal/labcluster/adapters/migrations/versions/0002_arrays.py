"""Arrays of runs, gangs, priorities, dependencies and attempts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"


def _columns() -> list[sa.Column[object]]:
    return [
        sa.Column("nodes", sa.Integer, nullable=False, server_default="1"),
        sa.Column("priority", sa.Text, nullable=False, server_default="normal"),
        sa.Column("requeue", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("after", JSONB, nullable=False, server_default="[]"),
        sa.Column("array_index", sa.Integer),
        sa.Column("array_size", sa.Integer),
        sa.Column("attempt", sa.Integer, nullable=False, server_default="1"),
    ]


def upgrade() -> None:
    """Add columns for what a run may ask for, and the table of arrays."""
    for column in _columns():
        op.add_column("runs", column)
    op.create_check_constraint("runs_priority", "runs", "priority IN ('interactive', 'normal', 'low')")
    op.create_table(
        "arrays",
        sa.Column("project", sa.Text, primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("user", sa.Text, nullable=False),
        sa.Column("indices", sa.Text, nullable=False),
        sa.Column("total", sa.Integer, nullable=False),
        sa.Column("parallel", sa.Integer),
        sa.Column("submitted_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("arrays_submitted", "arrays", ["submitted_at"])
    # Lists show an array as one row: its members must not be in the way of finding the others.
    op.drop_index("runs_submitted", "runs")
    op.create_index(
        "runs_submitted", "runs", ["submitted_at"], postgresql_where=sa.text("array_index IS NULL")
    )


def downgrade() -> None:
    """Drop them again; members of arrays stay as runs."""
    op.drop_index("runs_submitted", "runs")
    op.create_index("runs_submitted", "runs", ["submitted_at"])
    op.drop_table("arrays")
    op.drop_constraint("runs_priority", "runs")
    for column in _columns():
        op.drop_column("runs", column.name)
