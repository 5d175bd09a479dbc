"""Timelines, their versions, arrivals, counters and the progress of backfills."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

AutoNumber = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def number(name: str, *, null: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=null)


# Ordered by its bytes on every database.
Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

# Of a table in PostgreSQL that is hashed by its key.
PARTITIONS = 8


def text(name: str, *, null: bool = False) -> sa.Column[str]:
    return sa.Column(name, Text, nullable=null)


def points(table: str, column: str, to: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [to], name=f"fk_{table}_{column}")


def key(table: str, *columns: str) -> sa.PrimaryKeyConstraint:
    return sa.PrimaryKeyConstraint(*columns, name=f"pk_{table}")


def upgrade() -> None:
    op.create_table("store_meta", text("key"), text("value"), key("store_meta", "key"))
    op.create_table(
        "commits",
        sa.Column("number", AutoNumber, nullable=False, autoincrement=True),
        number("committed_at_us"),
        text("kind"),
        text("detail"),
        number("last_arrival"),
        number("registry_commit"),
        key("commits", "number"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "definitions",
        text("kind"),
        text("name"),
        text("payload"),
        text("fingerprint"),
        number("commit_number"),
        key("definitions", "kind", "name"),
        points("definitions", "commit_number", "commits.number"),
    )
    op.create_table(
        "timeline_versions",
        sa.Column("id", AutoNumber, nullable=False, autoincrement=True),
        text("source"),
        text("entity"),
        text("fingerprint"),
        text("columns"),
        text("roles"),
        text("state"),
        number("horizon_us", null=True),
        number("created_commit"),
        key("timeline_versions", "id"),
        points("timeline_versions", "created_commit", "commits.number"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "view_versions",
        sa.Column("id", AutoNumber, nullable=False, autoincrement=True),
        text("view"),
        number("version"),
        text("fingerprint"),
        text("spec"),
        number("timeline_version_id"),
        text("state"),
        number("created_commit"),
        number("switched_commit", null=True),
        key("view_versions", "id"),
        sa.UniqueConstraint("view", "version", name="uq_view_versions_view_version"),
        points("view_versions", "timeline_version_id", "timeline_versions.id"),
        points("view_versions", "created_commit", "commits.number"),
        points("view_versions", "switched_commit", "commits.number"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "segments",
        number("timeline_version_id"),
        sa.Column("entity_key", sa.LargeBinary, nullable=False),
        number("level"),
        number("start"),
        number("commit_number"),
        number("versions"),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        key("segments", "timeline_version_id", "entity_key", "level", "start", "commit_number"),
        postgresql_partition_by="HASH (entity_key)",
    )
    if op.get_bind().dialect.name == "postgresql":
        # Payloads are compressed already. Said before the partitions are made, which take it over.
        op.execute("ALTER TABLE segments ALTER COLUMN payload SET STORAGE EXTERNAL")
        for rest in range(PARTITIONS):
            op.execute(
                f"CREATE TABLE segments_{rest} PARTITION OF segments "
                f"FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER {rest})"
            )
    op.create_table(
        "arrivals",
        number("first_number"),
        number("rows"),
        text("source"),
        number("arrived_at_us"),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        number("commit_number"),
        key("arrivals", "first_number"),
        points("arrivals", "commit_number", "commits.number"),
    )
    op.create_index("ix_arrivals_source_first_number", "arrivals", ["source", "first_number"])
    op.create_table(
        "counters",
        text("source"),
        text("partition"),
        text("kind"),
        number("n"),
        key("counters", "source", "partition", "kind"),
    )
    op.create_table(
        "loaded_files",
        number("timeline_version_id"),
        text("path"),
        text("sha256"),
        number("size"),
        number("rows"),
        number("commit_number"),
        key("loaded_files", "timeline_version_id", "path"),
        points("loaded_files", "timeline_version_id", "timeline_versions.id"),
        points("loaded_files", "commit_number", "commits.number"),
    )
    op.create_table(
        "backfill_progress",
        number("timeline_version_id"),
        text("part"),
        number("done"),
        number("total"),
        number("commit_number"),
        key("backfill_progress", "timeline_version_id", "part"),
        points("backfill_progress", "timeline_version_id", "timeline_versions.id"),
        points("backfill_progress", "commit_number", "commits.number"),
    )
