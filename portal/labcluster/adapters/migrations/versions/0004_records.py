"""What a run was made from, and when its record got its result."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0004"
down_revision = "0003"

_UNRECORDED = "recorded_at IS NULL AND NOT (state IN ('queued', 'starting', 'running'))"


def _columns() -> list[sa.Column[object]]:
    return [
        sa.Column("code", JSONB),
        sa.Column("params", JSONB, nullable=False, server_default="{}"),
        sa.Column("seed", sa.Integer),
        sa.Column("data", JSONB, nullable=False, server_default="[]"),
        sa.Column("parent", sa.Text),
        sa.Column("recorded_at", sa.DateTime(timezone=True)),
    ]


def upgrade() -> None:
    """Add the columns; runs that ended before there were records count as recorded."""
    for column in _columns():
        op.add_column("runs", column)
    op.execute(
        "UPDATE runs SET recorded_at = finished_at WHERE state NOT IN ('queued', 'starting', 'running')"
    )
    op.create_index("runs_unrecorded", "runs", ["finished_at"], postgresql_where=sa.text(_UNRECORDED))


def downgrade() -> None:
    """Drop them again; what is on the tree stays there."""
    op.drop_index("runs_unrecorded", "runs")
    for column in _columns():
        op.drop_column("runs", column.name)
