"""The id of the topic that a position is in: one that was deleted and made again is another topic."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Null: not known, until a worker takes the partition again.
    op.add_column("stream_writers", sa.Column("topic_id", sa.Text, nullable=True))
