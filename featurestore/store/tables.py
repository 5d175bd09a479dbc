"""The store's tables, as SQLAlchemy sees them; a migration makes them, never ``create_all``.

Every instant is an int64 of microseconds UTC. ``event_time`` lies inside the payloads; a row of ``segments``
only says the least one (``start``). A commit's number, not its time, tells what came before what.

``segments`` is an ordinary table with a key of its own beside it, not one clustered by its key: measured at 5
KB a row, clustering writes and reads at half the speed and rewrites a whole leaf for every small delta
(docs/design/0001-store-layout.md). In PostgreSQL it and ``identities`` are hashed by their key into eight
partitions (docs/design/0007-postgresql.md).
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

# SQLite numbers rows by itself only in a column of exactly this type.
AutoNumber = BigInteger().with_variant(Integer(), "sqlite")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _number(name: str, *, null: bool = False) -> Column[int]:
    return Column(name, BigInteger, nullable=null)


def _text(name: str, *, null: bool = False) -> Column[str]:
    return Column(name, Text, nullable=null)


def _commit(name: str = "commit_number", *, null: bool = False) -> Column[int]:
    return Column(name, BigInteger, ForeignKey("commits.number"), nullable=null)


def _timeline() -> Column[int]:
    return Column("timeline_version_id", BigInteger, ForeignKey("timeline_versions.id"), nullable=False)


store_meta = Table("store_meta", metadata, Column("key", Text, primary_key=True), _text("value"))

commits = Table(
    "commits",
    metadata,
    Column("number", AutoNumber, primary_key=True, autoincrement=True),
    _number("committed_at_us"),
    _text("kind"),
    _text("detail"),
    # Carried from commit to commit, so that a snapshot learns all three from the last row.
    _number("last_arrival"),
    _number("registry_commit"),
    sqlite_autoincrement=True,
)

definitions = Table(
    "definitions",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    _text("payload"),
    _text("fingerprint"),
    _commit(),
)

timeline_versions = Table(
    "timeline_versions",
    metadata,
    Column("id", AutoNumber, primary_key=True, autoincrement=True),
    _text("source"),
    _text("entity"),
    _text("fingerprint"),
    _text("columns"),
    _text("roles"),
    _text("state"),
    _number("horizon_us", null=True),
    _commit("created_commit"),
    # The commit at which all that its source's log held was there.
    _number("filled_commit", null=True),
    # Questions from ``horizon_us`` on are answered; events before ``floor_us`` may have been dropped.
    _number("floor_us", null=True),
    sqlite_autoincrement=True,
)

view_versions = Table(
    "view_versions",
    metadata,
    Column("id", AutoNumber, primary_key=True, autoincrement=True),
    _text("view"),
    _number("version"),
    _text("fingerprint"),
    _text("spec"),
    _timeline(),
    _text("state"),
    _commit("created_commit"),
    _commit("switched_commit", null=True),
    UniqueConstraint("view", "version"),
    sqlite_autoincrement=True,
)

# No foreign keys here: a look-up for each of millions of rows, whose writer has just made both parents.
segments = Table(
    "segments",
    metadata,
    Column("timeline_version_id", BigInteger, primary_key=True, autoincrement=False),
    Column("entity_key", LargeBinary, primary_key=True),
    Column("level", BigInteger, primary_key=True, autoincrement=False),
    Column("start", BigInteger, primary_key=True, autoincrement=False),
    Column("commit_number", BigInteger, primary_key=True, autoincrement=False),
    _number("versions"),
    Column("payload", LargeBinary, nullable=False),
    postgresql_partition_by="HASH (entity_key)",
)

arrivals = Table(
    "arrivals",
    metadata,
    Column("first_number", BigInteger, primary_key=True, autoincrement=False),
    _number("rows"),
    _text("source"),
    _number("arrived_at_us"),
    Column("payload", LargeBinary, nullable=False),
    _commit(),
    Index(None, "source", "first_number"),
)

# Which timelines a table's row has been in. Small rows, found by their key: clustered by it, half the size.
identities = Table(
    "identities",
    metadata,
    Column("timeline_version_id", BigInteger, primary_key=True, autoincrement=False),
    Column("row_key", LargeBinary, primary_key=True),
    Column("entity_key", LargeBinary, primary_key=True),
    sqlite_with_rowid=False,
    postgresql_partition_by="HASH (row_key)",
)

truncates = Table(
    "truncates",
    metadata,
    Column("id", AutoNumber, primary_key=True, autoincrement=True),
    Column("timeline_version_id", BigInteger, ForeignKey("timeline_versions.id"), nullable=False),
    _text("position"),
    _number("changed_at"),
    _number("available_at", null=True),
    _commit(),
    Index(None, "timeline_version_id"),
)

counters = Table(
    "counters",
    metadata,
    Column("source", Text, primary_key=True),
    Column("partition", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    _number("n"),
)

loaded_files = Table(
    "loaded_files",
    metadata,
    Column("timeline_version_id", BigInteger, ForeignKey("timeline_versions.id"), primary_key=True),
    Column("path", Text, primary_key=True),
    _text("sha256"),
    _number("size"),
    _number("rows"),
    _commit(),
)

# No key stands here, only its digest under ``store_meta``'s digest_key (featurestore/store/forgotten.py).
forgotten = Table(
    "forgotten",
    metadata,
    Column("id", AutoNumber, primary_key=True, autoincrement=True),
    _text("columns"),
    _text("digest"),
    _text("state"),
    _text("counts"),
    _commit(),
    UniqueConstraint("columns", "digest"),
    sqlite_autoincrement=True,
)

backfill_progress = Table(
    "backfill_progress",
    metadata,
    Column("timeline_version_id", BigInteger, ForeignKey("timeline_versions.id"), primary_key=True),
    Column("part", Text, primary_key=True),
    _number("done"),
    _number("total"),
    _commit(),
)

# Where a timeline version stands in its source's topic: all messages below ``next_offset``, from
# ``first_offset`` on, are in it. ``target_offset`` was the topic's end when it began, ``end_offset`` when it
# was last seen.
positions = Table(
    "positions",
    metadata,
    Column("timeline_version_id", BigInteger, ForeignKey("timeline_versions.id"), primary_key=True),
    Column("topic", Text, primary_key=True),
    Column("partition", BigInteger, primary_key=True, autoincrement=False),
    _number("first_offset"),
    _number("next_offset"),
    _number("target_offset"),
    _number("end_offset"),
    _commit(),
)

# Who may move a source's positions in a partition: the worker that was given the last epoch.
stream_writers = Table(
    "stream_writers",
    metadata,
    Column("source", Text, primary_key=True),
    Column("topic", Text, primary_key=True),
    Column("partition", BigInteger, primary_key=True, autoincrement=False),
    _number("epoch"),
    _text("worker"),
    _commit(),
    # Of the topic that the worker found; null where the brokers don't say.
    Column("topic_id", Text),
)

# Messages that could not be read, as they were. ``published``: 1 where the dead-letter topic has a copy.
dead_letters = Table(
    "dead_letters",
    metadata,
    Column("source", Text, primary_key=True),
    Column("topic", Text, primary_key=True),
    Column("partition", BigInteger, primary_key=True, autoincrement=False),
    Column("message_offset", BigInteger, primary_key=True, autoincrement=False),
    _text("reason"),
    _number("timestamp_us", null=True),
    Column("key", LargeBinary, nullable=True),
    Column("value", LargeBinary, nullable=True),
    _number("published"),
    _commit(),
)
