"""Sweeps: arrays whose members get their parameters one after the other."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add what a sweep searches and how its arms stand, and a schema of its own for Optuna's tables."""
    op.add_column("arrays", sa.Column("sweep", JSONB))
    op.create_index(
        "arrays_sweeps", "arrays", ["submitted_at"], postgresql_where=sa.text("sweep IS NOT NULL")
    )
    op.add_column("runs", sa.Column("drawn", sa.Boolean, nullable=False, server_default=sa.true()))
    op.add_column("runs", sa.Column("value", sa.Double))
    op.add_column("runs", sa.Column("judged_at", sa.DateTime(timezone=True)))
    # Optuna keeps its own version table, which has the same name as ours.
    op.execute("CREATE SCHEMA IF NOT EXISTS optuna")


def downgrade() -> None:
    """Drop them again; arms of sweeps stay as members of arrays."""
    op.execute("DROP SCHEMA IF EXISTS optuna CASCADE")
    for column in ("drawn", "value", "judged_at"):
        op.drop_column("runs", column)
    op.drop_index("arrays_sweeps", "arrays")
    op.drop_column("arrays", "sweep")
