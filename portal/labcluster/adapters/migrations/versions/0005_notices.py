"""Who wants notices of runs, and the queue of what is to be told."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

# In the transaction that changes the run: no change is missed, or told without having happened.
_FUNCTION = """
CREATE FUNCTION notice_of_run() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO notices (receiver, event, project, number, trial, attempt, state)
  SELECT receivers.id, happened.event, NEW.project, NEW.number, NEW.trial, NEW.attempt, NEW.state
  FROM receivers, (SELECT CASE
    WHEN NEW.state = 'running' THEN 'start'
    WHEN NEW.state IN ('succeeded', 'cancelled') THEN 'end'
    ELSE 'failure' END AS event) AS happened
  WHERE happened.event = ANY (receivers.events)
    AND ((receivers.scope = 'user' AND receivers.owner = NEW."user")
      OR (receivers.scope = 'project' AND receivers.owner = NEW.project))
  ON CONFLICT DO NOTHING;
  RETURN NULL;
END $$
"""
_TRIGGER = """
CREATE TRIGGER runs_notices AFTER UPDATE OF state ON runs FOR EACH ROW
WHEN (NEW.state IS DISTINCT FROM OLD.state
  AND NEW.state IN ('running', 'succeeded', 'cancelled', 'failed', 'timed_out', 'lost'))
EXECUTE FUNCTION notice_of_run()
"""


def upgrade() -> None:
    """Make the tables and the trigger that fills the queue."""
    op.create_table(
        "receivers",
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
    op.create_table(
        "notices",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column(
            "receiver", sa.BigInteger, sa.ForeignKey("receivers.id", ondelete="CASCADE"), nullable=False
        ),
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
        sa.UniqueConstraint(
            "receiver", "event", "project", "number", "trial", "attempt", name="notices_once"
        ),
    )
    op.create_index("notices_due", "notices", ["due_at"], postgresql_where=sa.text("done_at IS NULL"))
    op.execute(_FUNCTION)
    op.execute(_TRIGGER)


def downgrade() -> None:
    """Drop them."""
    op.execute("DROP TRIGGER runs_notices ON runs")
    op.execute("DROP FUNCTION notice_of_run()")
    op.drop_table("notices")
    op.drop_table("receivers")
