"""Streams: positions in topics, who may move them, and what could not be read."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "positions",
        sa.Column("timeline_version_id", sa.BigInteger, nullable=False),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("partition", sa.BigInteger, nullable=False),
        sa.Column("first_offset", sa.BigInteger, nullable=False),
        sa.Column("next_offset", sa.BigInteger, nullable=False),
        sa.Column("target_offset", sa.BigInteger, nullable=False),
        sa.Column("end_offset", sa.BigInteger, nullable=False),
        sa.Column("commit_number", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("timeline_version_id", "topic", "partition", name="pk_positions"),
        sa.ForeignKeyConstraint(
            ["timeline_version_id"],
            ["timeline_versions.id"],
            name="fk_positions_timeline_version_id_timeline_versions",
        ),
        sa.ForeignKeyConstraint(
            ["commit_number"], ["commits.number"], name="fk_positions_commit_number_commits"
        ),
    )
    op.create_table(
        "stream_writers",
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("partition", sa.BigInteger, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("worker", sa.Text, nullable=False),
        sa.Column("commit_number", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("source", "topic", "partition", name="pk_stream_writers"),
        sa.ForeignKeyConstraint(
            ["commit_number"], ["commits.number"], name="fk_stream_writers_commit_number_commits"
        ),
    )
    op.create_table(
        "dead_letters",
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("partition", sa.BigInteger, nullable=False),
        sa.Column("message_offset", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("timestamp_us", sa.BigInteger, nullable=True),
        sa.Column("key", sa.LargeBinary, nullable=True),
        sa.Column("value", sa.LargeBinary, nullable=True),
        sa.Column("published", sa.BigInteger, nullable=False),
        sa.Column("commit_number", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("source", "topic", "partition", "message_offset", name="pk_dead_letters"),
        sa.ForeignKeyConstraint(
            ["commit_number"], ["commits.number"], name="fk_dead_letters_commit_number_commits"
        ),
    )
    op.add_column("timeline_versions", sa.Column("filled_commit", sa.BigInteger, nullable=True))
