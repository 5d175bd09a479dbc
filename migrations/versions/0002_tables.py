"""Rows of mutable tables: the timelines that each has been in, and truncates."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# As in the revision before.
PARTITIONS = 8

AutoNumber = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "identities",
        sa.Column("timeline_version_id", sa.BigInteger, nullable=False),
        sa.Column("row_key", sa.LargeBinary, nullable=False),
        sa.Column("entity_key", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("timeline_version_id", "row_key", "entity_key", name="pk_identities"),
        sqlite_with_rowid=False,
        postgresql_partition_by="HASH (row_key)",
    )
    if op.get_bind().dialect.name == "postgresql":
        for rest in range(PARTITIONS):
            op.execute(
                f"CREATE TABLE identities_{rest} PARTITION OF identities "
                f"FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER {rest})"
            )
    op.create_table(
        "truncates",
        sa.Column("id", AutoNumber, nullable=False, autoincrement=True),
        sa.Column("timeline_version_id", sa.BigInteger, nullable=False),
        sa.Column("position", sa.Text, nullable=False),
        sa.Column("changed_at", sa.BigInteger, nullable=False),
        sa.Column("available_at", sa.BigInteger, nullable=True),
        sa.Column("commit_number", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_truncates"),
        sa.ForeignKeyConstraint(
            ["timeline_version_id"],
            ["timeline_versions.id"],
            name="fk_truncates_timeline_version_id_timeline_versions",
        ),
        sa.ForeignKeyConstraint(
            ["commit_number"], ["commits.number"], name="fk_truncates_commit_number_commits"
        ),
    )
    op.create_index("ix_truncates_timeline_version_id", "truncates", ["timeline_version_id"])
