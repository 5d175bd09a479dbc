"""Forgotten entities: which keys are left out for good, by digest, and how far each has been erased."""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

AutoNumber = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "forgotten",
        sa.Column("id", AutoNumber, nullable=False, autoincrement=True),
        sa.Column("columns", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("counts", sa.Text, nullable=False),
        sa.Column("commit_number", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_forgotten"),
        sa.UniqueConstraint("columns", "digest", name="uq_forgotten_columns_digest"),
        sa.ForeignKeyConstraint(
            ["commit_number"], ["commits.number"], name="fk_forgotten_commit_number_commits"
        ),
        sqlite_autoincrement=True,
    )
    # Digests are keyed by it: equal keys in two stores have different ones.
    meta = sa.table("store_meta", sa.column("key", sa.Text), sa.column("value", sa.Text))
    op.bulk_insert(meta, [{"key": "digest_key", "value": secrets.token_hex(32)}])
