"""SQLite as the store: how it is opened, how its transactions begin, what its errors mean.

No instant is read or made here. Connections are in autocommit mode, so that a transaction begins exactly
where ``begin_write`` or ``begin_read`` says.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.pool import NullPool

from featurestore.errors import StoreUnavailableError
from featurestore.store.database import BUSY_TIMEOUT_S, NOTHING_YET, Database, Latest, Session
from featurestore.store.records import SegmentRow, StoredRow, Truncate
from featurestore.store.turn import BusyError, Turn, TurnstileError

# 16 KiB: payloads of a few KB then take no overflow chain (measured: docs/design/0001-store-layout.md).
PAGE_BYTES = 16384
# SQLite's own ceiling for memory-mapped reads, 2 GiB; beyond it pages are read as usual.
MMAP_BYTES = 0x7FFF0000
WRITE_CACHE_KIB = 65536
# 8 MB that move from the file's end to its gaps.
PAGES_A_STEP = 500
INCREMENTAL = 2
CHECKPOINT_WAIT_MS = 100

_LATEST = "SELECT number, last_arrival, registry_commit FROM commits ORDER BY number DESC LIMIT 1"
_COMMIT = (
    "INSERT INTO commits (number, committed_at_us, kind, detail, last_arrival, registry_commit) "
    "VALUES (?, ?, ?, ?, ?, ?)"
)
_APPEND = (
    "INSERT INTO segments (timeline_version_id, entity_key, level, start, commit_number, versions, payload) "
    "VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_ADD_IDENTITIES = "INSERT INTO identities (timeline_version_id, row_key, entity_key) VALUES (?, ?, ?)"
_ANY_IDENTITY = (
    "SELECT 1 FROM identities WHERE timeline_version_id = ? AND row_key >= ? AND row_key <= ? LIMIT 1"
)
_TRUNCATES = (
    "SELECT position, changed_at, available_at FROM truncates WHERE timeline_version_id = ? ORDER BY id"
)

# Powers of two, so that the driver's statement cache holds them all; a shorter list repeats its last key.
MOST_KEYS = 512


def _by_keys(query: str) -> dict[int, str]:
    counts = [1 << power for power in range(MOST_KEYS.bit_length())]
    return {count: query.format(",".join("?" * count)) for count in counts}


_SEGMENTS = _by_keys(
    "SELECT entity_key, payload FROM segments WHERE timeline_version_id = ? AND entity_key IN ({}) "
    "ORDER BY entity_key, level, start, commit_number"
)
# The commit's number is in the key: older rows are passed over without a look at them.
_NEWER = _by_keys(
    "SELECT entity_key, level, start, commit_number, versions, payload FROM segments "
    "WHERE timeline_version_id = ? AND commit_number > ? AND entity_key IN ({}) ORDER BY entity_key"
)
_ROW_SIZES = _by_keys(
    "SELECT entity_key, versions FROM segments WHERE timeline_version_id = ? AND entity_key IN ({})"
)
_ROWS_BELOW = _by_keys(
    "SELECT entity_key, level, start, commit_number, versions, payload FROM segments "
    "WHERE timeline_version_id = ? AND versions < ? AND entity_key IN ({})"
)
_REMOVE_ROW = (
    "DELETE FROM segments WHERE timeline_version_id = ? AND entity_key = ? AND level = ? AND start = ? "
    "AND commit_number = ? AND versions = ? AND payload = ?"
)
_IDENTITIES = _by_keys(
    "SELECT row_key, entity_key FROM identities WHERE timeline_version_id = ? AND row_key IN ({}) "
    "ORDER BY row_key, entity_key"
)

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


class SqliteSession(Session):
    """A connection to a SQLite file: SQLAlchemy's, and the driver's own for hot paths."""

    def __init__(self, connection: Connection) -> None:
        raw = connection.connection.driver_connection
        assert isinstance(raw, sqlite3.Connection)
        self.connection = connection
        self.raw = raw

    def begin_read(self) -> Latest:
        self.raw.execute("BEGIN")
        return self._latest()

    def begin_write(self, *, first: bool = False) -> None:
        raw = self.raw
        try:
            # Waiting for the write lock is done by Turn, fairly; SQLite's own waiting is not.
            raw.execute("PRAGMA busy_timeout=0")
            if first:
                # They last as long as the file: its page size and how it gives pages back (if it is empty
                # yet), and its write-ahead log.
                raw.execute(f"PRAGMA page_size={PAGE_BYTES}")
                raw.execute("PRAGMA auto_vacuum=INCREMENTAL")
                raw.execute("PRAGMA journal_mode=WAL")
            raw.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise BusyError from error
            raise

    def begin_commit(self, *, kind: str, now_us: int, detail: str) -> Latest:
        before = self._latest()
        number = before.number + 1
        self.raw.execute(_COMMIT, (number, now_us, kind, detail, before.last_arrival, before.registry_commit))
        return before._replace(number=number)

    def commit(self) -> None:
        self.raw.commit()

    def rollback(self) -> None:
        self.raw.rollback()
        if self.connection.in_transaction():
            self.connection.rollback()

    def close(self) -> None:
        self.connection.close()

    def segments(self, timeline_version_id: int, entity_keys: Sequence[bytes]) -> dict[bytes, list[bytes]]:
        if len(entity_keys) == 1:
            rows = self.raw.execute(_SEGMENTS[1], (timeline_version_id, entity_keys[0])).fetchall()
            return {entity_keys[0]: [payload for _, payload in rows]} if rows else {}
        found: dict[bytes, list[bytes]] = {}
        for some in _portions(list(dict.fromkeys(entity_keys))):
            for key, payload in self.raw.execute(_SEGMENTS[len(some)], (timeline_version_id, *some)):
                if (payloads := found.get(key)) is None:
                    found[key] = [payload]
                else:
                    payloads.append(payload)
        return found

    def newer(
        self, timeline_version_id: int, entity_keys: Sequence[bytes], *, after: Sequence[int]
    ) -> list[StoredRow]:
        asked = dict(zip(entity_keys, after, strict=True))
        found: list[StoredRow] = []
        # Those with commits near one another are asked together, so that few rows are read in vain.
        for some in _portions(sorted(asked, key=asked.__getitem__)):
            rows = self.raw.execute(_NEWER[len(some)], (timeline_version_id, asked[some[0]], *some))
            found.extend(StoredRow._make(row) for row in rows if row[3] > asked[row[0]])
        return found

    def identities(self, timeline_version_id: int, row_keys: Sequence[bytes]) -> dict[bytes, list[bytes]]:
        found: dict[bytes, list[bytes]] = {}
        for some in _portions(row_keys):
            for row, entity in self.raw.execute(_IDENTITIES[len(some)], (timeline_version_id, *some)):
                found.setdefault(row, []).append(entity)
        return found

    def has_identities(self, timeline_version_id: int, *, first: bytes, last: bytes) -> bool:
        return self.raw.execute(_ANY_IDENTITY, (timeline_version_id, first, last)).fetchone() is not None

    def truncates(self, timeline_version_id: int) -> list[Truncate]:
        rows = self.raw.execute(_TRUNCATES, (timeline_version_id,))
        return [
            Truncate(tuple(json.loads(position)), changed, available) for position, changed, available in rows
        ]

    def append(self, timeline_version_id: int, commit_number: int, rows: Iterable[SegmentRow]) -> None:
        self.raw.executemany(
            _APPEND,
            (
                (timeline_version_id, key, level, start, commit_number, versions, payload)
                for key, level, start, versions, payload in rows
            ),
        )

    def row_sizes(self, timeline_version_id: int, entity_keys: Sequence[bytes]) -> list[tuple[bytes, int]]:
        found: list[tuple[bytes, int]] = []
        for some in _portions(entity_keys):
            found += self.raw.execute(_ROW_SIZES[len(some)], (timeline_version_id, *some))
        return found

    def rows_below(
        self, timeline_version_id: int, entity_keys: Sequence[bytes], versions: int
    ) -> list[StoredRow]:
        found: list[StoredRow] = []
        for some in _portions(entity_keys):
            rows = self.raw.execute(_ROWS_BELOW[len(some)], (timeline_version_id, versions, *some))
            found.extend(map(StoredRow._make, rows))
        return found

    def remove_rows(self, timeline_version_id: int, rows: Sequence[StoredRow]) -> int:
        named = ((timeline_version_id, *row) for row in rows)
        return self.raw.executemany(_REMOVE_ROW, named).rowcount if rows else 0

    def add_identities(self, timeline_version_id: int, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        self.raw.executemany(_ADD_IDENTITIES, ((timeline_version_id, row, entity) for row, entity in pairs))

    def _latest(self) -> Latest:
        return Latest(*(self.raw.execute(_LATEST).fetchone() or NOTHING_YET))


def _portions(keys: Sequence[bytes]) -> Iterator[list[bytes]]:
    """At most MOST_KEYS at a time, filled up to a power of two with the last one."""
    for first in range(0, len(keys), MOST_KEYS):
        some = list(keys[first : first + MOST_KEYS])
        places = 1 << (len(some) - 1).bit_length()
        yield some + [some[-1]] * (places - len(some))


class Sqlite(Database):
    """A SQLite file. One session at a time may write."""

    elsewhere = "name another path in [store], or move the file away"
    driver_error = sqlite3.Error

    def __init__(self, path: Path, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        self.path = path
        self.name = f"store {path}"
        self.busy_timeout_s = busy_timeout_s
        self.turn = Turn(Path(f"{path}-turn"))
        self.engine = self._engine()

    def prepare(self, *, make: bool) -> None:
        if not make:
            if not self.path.exists():
                raise StoreUnavailableError(
                    f"{self.name}: there is no such file", hint="run `featurestore apply`"
                )
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            fact, hint = _UNAVAILABLE["unable to open"]
            raise StoreUnavailableError(f"{self.name}: {fact} ({error.strerror})", hint=hint) from error

    def session(self, *, writer: bool = False) -> SqliteSession:
        with self.errors():
            session = SqliteSession(self.engine.connect())
            if writer:
                session.raw.execute(f"PRAGMA cache_size=-{WRITE_CACHE_KIB}")
                # What is removed is overwritten with zeros, from the store's first commit on: a page that was
                # split keeps copies otherwise, which nothing finds later (docs/design/0006-forget.md).
                session.raw.execute("PRAGMA secure_delete=ON")
            return session

    def checkpoint(self, session: Session) -> None:
        """Move what the write-ahead log holds into the file, as far as readers allow."""
        assert isinstance(session, SqliteSession)
        # A request that still reads an older state ends in milliseconds.
        session.raw.execute(f"PRAGMA busy_timeout={CHECKPOINT_WAIT_MS}")
        session.raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def purge(self, session: Session, *, whole: bool) -> bool:
        assert isinstance(session, SqliteSession)
        try:
            if whole:
                session.raw.execute("VACUUM")
            (busy, _, _) = session.raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise BusyError from error
            raise
        return not busy

    def give_back(self, *, whole: bool) -> bool:
        """Pages at the file's end move into its gaps, and the file ends earlier."""
        session = self.session(writer=True)
        try:
            with self.turn.taken(lambda: self._shrink(session.raw, whole), timeout_s=self.busy_timeout_s):
                (free,) = session.raw.execute("PRAGMA freelist_count").fetchone()
                return bool(free) and self._gives_back_in_steps(session.raw)
        finally:
            session.close()

    def _shrink(self, raw: sqlite3.Connection, whole: bool) -> None:
        try:
            raw.execute("PRAGMA busy_timeout=0")
            if whole:
                # A file of an older release learns by this how to give back in steps.
                raw.execute("PRAGMA auto_vacuum=INCREMENTAL")
                raw.execute("VACUUM")
            elif self._gives_back_in_steps(raw):
                # Not ``execute``, which would stop after one page: a row without columns is its last.
                raw.executescript(f"PRAGMA incremental_vacuum({PAGES_A_STEP})")
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise BusyError from error
            raise

    @staticmethod
    def _gives_back_in_steps(raw: sqlite3.Connection) -> bool:
        return bool(raw.execute("PRAGMA auto_vacuum").fetchone()[0] == INCREMENTAL)

    def size_bytes(self) -> int:
        files = (self.path, self.path.with_name(f"{self.path.name}-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    def unavailable(self, error: Exception) -> StoreUnavailableError | None:
        if isinstance(error, BusyError):
            message = "locked"
        elif isinstance(error, TurnstileError):
            message = "readonly"
        else:
            message = str(error).lower()
        for words, (fact, hint) in _UNAVAILABLE.items():
            if words in message:
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
