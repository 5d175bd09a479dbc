"""SQLite as the store: how it is opened, how its transactions begin, what its errors mean.

Everything that differs between databases is in this module; the SQL elsewhere is portable. No instant is read
or made here. Connections are in autocommit mode, so that a transaction begins exactly where ``begin_write``
or ``begin_read`` says.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from featurestore.errors import StoreUnavailableError
from featurestore.store.turn import BusyError, Turn, TurnstileError

# 16 KiB: payloads of a few KB then take no overflow chain (measured: docs/design/0001-store-layout.md).
PAGE_BYTES = 16384
# SQLite's own ceiling for memory-mapped reads, 2 GiB; beyond it pages are read as usual.
MMAP_BYTES = 0x7FFF0000
WRITE_CACHE_KIB = 65536
BUSY_TIMEOUT_S = 30.0

READ_LATEST_COMMIT = "SELECT number, last_arrival, registry_commit FROM commits ORDER BY number DESC LIMIT 1"
INSERT_SEGMENTS = (
    "INSERT INTO segments (timeline_version_id, entity_key, level, start, commit_number, versions, payload) "
    "VALUES (?, ?, ?, ?, ?, ?, ?)"
)


def _read_segments(keys: int) -> str:
    places = ",".join("?" * keys)
    return (
        "SELECT entity_key, payload FROM segments WHERE timeline_version_id = ? "
        f"AND entity_key IN ({places}) ORDER BY entity_key, level, start, commit_number"
    )


def _read_identities(keys: int) -> str:
    places = ",".join("?" * keys)
    return (
        "SELECT row_key, entity_key FROM identities WHERE timeline_version_id = ? "
        f"AND row_key IN ({places}) ORDER BY row_key, entity_key"
    )


ANY_IDENTITY = (
    "SELECT 1 FROM identities WHERE timeline_version_id = ? AND row_key >= ? AND row_key <= ? LIMIT 1"
)
INSERT_IDENTITIES = "INSERT INTO identities (timeline_version_id, row_key, entity_key) VALUES (?, ?, ?)"
READ_TRUNCATES = (
    "SELECT position, changed_at, available_at FROM truncates WHERE timeline_version_id = ? ORDER BY id"
)

# Powers of two, so that the driver's statement cache holds them all; a shorter list repeats its last key.
MOST_KEYS = 512
_KEYS = (1, 2, 4, 8, 16, 32, 64, 128, 256, MOST_KEYS)
READ_SEGMENTS = {n: _read_segments(n) for n in _KEYS}
READ_IDENTITIES = {n: _read_identities(n) for n in _KEYS}

# What SQLite says -> (the fact, the way out). Whatever else it raises is a bug of ours and passes as it is.
_UNAVAILABLE = {
    "readonly": ("it can't be written", "the store's directory and file must be writable"),
    "disk is full": ("the disk is full", "free some space; nothing of this commit was kept"),
    "unable to open": ("it can't be opened", "its directory must exist and be writable"),
    "disk i/o error": (
        "the disk refused a read or write",
        "look at the disk; nothing of this commit was kept",
    ),
    "locked": (
        f"it has been locked by another writer for {BUSY_TIMEOUT_S:.0f} s",
        "end the other process or try again",
    ),
    "not a database": ("it is not a SQLite database", "name another path in [store] or move the file away"),
    "malformed": ("its file is damaged", "restore it from a copy, or move it away and backfill a new one"),
}


class Sqlite:
    """A SQLite file. ``connect`` gives held connections; one of them at a time may write."""

    def __init__(self, path: Path, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        self.path = path
        self.busy_timeout_s = busy_timeout_s
        self.turn = Turn(Path(f"{path}-turn"))
        self.engine = self._engine()

    @property
    def name(self) -> str:
        return f"store {self.path}"

    def make_directory(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            fact, hint = _UNAVAILABLE["unable to open"]
            raise StoreUnavailableError(f"{self.name}: {fact} ({error.strerror})", hint=hint) from error

    def connect(self, *, writer: bool = False) -> tuple[Connection, sqlite3.Connection]:
        """A held connection, as SQLAlchemy's and as the driver's own for hot paths."""
        with self.errors():
            connection = self.engine.connect()
            raw = connection.connection.driver_connection
            assert isinstance(raw, sqlite3.Connection)
            if writer:
                # Waiting for the write lock is done by Turn, fairly; SQLite's own waiting is not.
                raw.execute("PRAGMA busy_timeout=0")
                raw.execute(f"PRAGMA cache_size=-{WRITE_CACHE_KIB}")
            return connection, raw

    def begin_write(self, raw: sqlite3.Connection, *, first: bool = False) -> None:
        """One attempt at the write lock; ``first`` makes the file a store's before that."""
        try:
            if first:
                # Both last as long as the file: its page size (if it is empty yet) and its write-ahead log.
                raw.execute(f"PRAGMA page_size={PAGE_BYTES}")
                raw.execute("PRAGMA journal_mode=WAL")
            raw.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise BusyError from error
            raise

    @staticmethod
    def begin_read(raw: sqlite3.Connection) -> None:
        raw.execute("BEGIN")

    @staticmethod
    def checkpoint(raw: sqlite3.Connection) -> None:
        """Move what the write-ahead log holds into the file, as far as readers allow."""
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Every write and every cold read passes here, so that one table says what a database error means."""
        try:
            yield
        except BusyError as error:
            raise self.unavailable("locked") or error from error
        except TurnstileError as error:
            raise self.unavailable("readonly") or error from error
        except DBAPIError as error:
            raise (self.unavailable(str(error.orig)) or error) from error
        except sqlite3.Error as error:
            raise (self.unavailable(str(error)) or error) from error

    def unavailable(self, message: str) -> StoreUnavailableError | None:
        """The error for what SQLite said; None when it says nothing about the file or the disk."""
        for words, (fact, hint) in _UNAVAILABLE.items():
            if words in message.lower():
                return StoreUnavailableError(f"{self.name}: {fact}", hint=hint)
        return None

    def _engine(self) -> Engine:
        engine = create_engine(
            URL.create("sqlite", database=str(self.path)),
            poolclass=NullPool,
            connect_args={
                "isolation_level": None,
                "check_same_thread": False,
                "cached_statements": 256,
                "timeout": self.busy_timeout_s,
            },
        )

        @event.listens_for(engine, "connect")
        def prepare(raw: sqlite3.Connection, _record: object) -> None:
            # FULL: a commit is on the disk before it is answered.
            raw.execute("PRAGMA synchronous=FULL")
            raw.execute("PRAGMA foreign_keys=ON")
            raw.execute(f"PRAGMA mmap_size={MMAP_BYTES}")
            raw.execute("PRAGMA journal_size_limit=67108864")

        return engine
