"""What other parts of the site report, the newest of each kind."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "reports",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("report", JSONB, nullable=False),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("reports")
