"""Verdicts on runs that were run again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0007"
down_revision = "0005"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "reproductions",
        sa.Column("of", sa.Text, primary_key=True),
        sa.Column("again", sa.Text, primary_key=True),
        sa.Column("verdict", sa.Text, nullable=False),
        sa.Column("line", sa.Text, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("report", JSONB, nullable=False),
    )
    op.create_index("reproductions_again", "reproductions", ["again"])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("reproductions")
