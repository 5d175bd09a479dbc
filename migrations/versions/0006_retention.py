"""The floor of a timeline version: events before it may have been dropped."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("timeline_versions", sa.Column("floor_us", sa.BigInteger, nullable=True))
