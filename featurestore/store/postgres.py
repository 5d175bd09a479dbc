"""PostgreSQL as the store: how it is connected to, how its transactions begin, what its errors mean.

A reader's transaction is ``REPEATABLE READ READ ONLY``: all of its statements see one state. A writer first
takes the store's advisory lock, whose queue is fair, then works in ``READ COMMITTED``: as nobody else writes,
it sees what the writer before it left, and numbers its commit one higher. The lock goes with the transaction,
once its effects can be seen, so commits become visible in the order of their numbers. No instant is read or
made here.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import psycopg
from sqlalchemy import URL, create_engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from featurestore.errors import StoreInterruptedError, StoreUnavailableError
from featurestore.store.database import BUSY_TIMEOUT_S, NOTHING_YET, Database, Latest, Session
from featurestore.store.postgres_wire import (
    BYTEA,
    BYTEA_ARRAY,
    INT8,
    INT8_ARRAY,
    Statement,
    Wire,
    bytea_array,
    int8,
    int8_array,
    number,
)
from featurestore.store.records import SegmentRow, StoredRow, Truncate
from featurestore.store.turn import BusyError, Turn

T = TypeVar("T")

OLDEST_SERVER = 13
CONNECT_TIMEOUT_S = 5
# A session whose connection was lost between two transactions looks for the server for so long.
RECONNECT_S = 5.0
RECONNECT_PAUSE_S = 0.05
# A commit takes 100 ms. A process that was stopped inside one must not lock out the others for ever.
IDLE_IN_COMMIT_S = 60

# The first number says that the lock is ours, the second tells the schemas of a database apart.
_LOCK = "pg_advisory_xact_lock(1178944339, coalesce(current_schema()::regnamespace::oid::int, 0))"
_BEGIN_WRITE = f"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SELECT {_LOCK}"
_LATEST = "SELECT number, last_arrival, registry_commit FROM commits ORDER BY number DESC LIMIT 1"
_BEGIN_READ = f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {_LATEST}".encode()
_COMMIT = (
    "INSERT INTO commits (number, committed_at_us, kind, detail, last_arrival, registry_commit) "
    "SELECT coalesce(before.number, 0) + 1, %s, %s, %s, "
    "coalesce(before.last_arrival, 0), coalesce(before.registry_commit, 0) "
    f"FROM (SELECT) AS one LEFT JOIN ({_LATEST}) AS before ON true "
    "RETURNING number, last_arrival, registry_commit, xmin::text"
)
_WAS_KEPT = (
    "SELECT 1 FROM commits WHERE number = %s AND xmin::text = %s AND committed_at_us = %s AND kind = %s"
)

# Key by key, not "= ANY": then each is looked up in its own partition alone. OFFSET 0 keeps the planner from
# turning that into a join that reads a whole timeline version.
_SEGMENTS = Statement(
    "segments",
    "SELECT s.entity_key, s.payload FROM unnest($1) AS asked (key) CROSS JOIN LATERAL "
    "(SELECT * FROM segments WHERE entity_key = asked.key AND timeline_version_id = $2 OFFSET 0) AS s "
    "ORDER BY s.entity_key, s.level, s.start, s.commit_number",
    (BYTEA_ARRAY, INT8),
)
_SEGMENTS_OF_ONE = Statement(
    "segments_of_one",
    "SELECT payload FROM segments WHERE entity_key = $1 AND timeline_version_id = $2 "
    "ORDER BY level, start, commit_number",
    (BYTEA, INT8),
)
_NEWER = Statement(
    "newer",
    "SELECT s.entity_key, s.level, s.start, s.commit_number, s.versions, s.payload "
    "FROM unnest($1, $3) AS asked (key, after) CROSS JOIN LATERAL (SELECT * FROM segments "
    "WHERE entity_key = asked.key AND timeline_version_id = $2 AND commit_number > asked.after OFFSET 0) "
    "AS s ORDER BY s.entity_key",
    (BYTEA_ARRAY, INT8, INT8_ARRAY),
)
_ROW_SIZES = Statement(
    "row_sizes",
    "SELECT s.entity_key, s.versions FROM unnest($1) AS asked (key) CROSS JOIN LATERAL "
    "(SELECT * FROM segments WHERE entity_key = asked.key AND timeline_version_id = $2 OFFSET 0) AS s",
    (BYTEA_ARRAY, INT8),
)
_ROWS_BELOW = Statement(
    "rows_below",
    "SELECT s.entity_key, s.level, s.start, s.commit_number, s.versions, s.payload "
    "FROM unnest($1) AS asked (key) CROSS JOIN LATERAL (SELECT * FROM segments "
    "WHERE entity_key = asked.key AND timeline_version_id = $2 AND versions < $3 OFFSET 0) AS s",
    (BYTEA_ARRAY, INT8, INT8),
)
# Row by row: each is looked up in its own partition alone.
_REMOVE_ROWS = Statement(
    "remove_rows",
    "DELETE FROM segments AS s USING unnest($2, $3, $4, $5, $6) AS gone (key, level, start, number, payload) "
    "WHERE s.timeline_version_id = $1 AND s.entity_key = gone.key AND s.level = gone.level "
    "AND s.start = gone.start AND s.commit_number = gone.number AND s.payload = gone.payload",
    (INT8, BYTEA_ARRAY, INT8_ARRAY, INT8_ARRAY, INT8_ARRAY, BYTEA_ARRAY),
)
_IDENTITIES = Statement(
    "identities",
    "SELECT i.row_key, i.entity_key FROM unnest($1) AS asked (key) CROSS JOIN LATERAL "
    "(SELECT * FROM identities WHERE row_key = asked.key AND timeline_version_id = $2 OFFSET 0) AS i "
    "ORDER BY i.row_key, i.entity_key",
    (BYTEA_ARRAY, INT8),
)
_ANY_IDENTITY = (
    "SELECT 1 FROM identities WHERE timeline_version_id = %s AND row_key >= %s AND row_key <= %s LIMIT 1"
)
_TRUNCATES = (
    "SELECT position, changed_at, available_at FROM truncates WHERE timeline_version_id = %s ORDER BY id"
)

_APPEND = (
    "COPY segments (timeline_version_id, entity_key, level, start, commit_number, versions, payload) "
    "FROM STDIN (FORMAT BINARY)"
)
_APPEND_TYPES = ("int8", "bytea", "int8", "int8", "int8", "int8", "bytea")
_ADD_IDENTITIES = "COPY identities (timeline_version_id, row_key, entity_key) FROM STDIN (FORMAT BINARY)"
_ADD_IDENTITIES_TYPES = ("int8", "bytea", "bytea")

_PARTITIONS = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'segments'::regclass"
# The tables of the store and its partitions, with their indexes and TOAST.
_SIZE = (
    "SELECT sum(pg_total_relation_size(oid)) FROM pg_class "
    "WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'"
)

# Each statement of a session is planned once, for any keys, and finds its rows by the primary key: statistics
# are not needed and can't mislead.
_SET = (
    "SET plan_cache_mode = force_generic_plan",
    "SET enable_seqscan = off",
    "SET enable_bitmapscan = off",
    "SET jit = off",
    # A commit is durable before it is answered, whatever the server's or the user's default is.
    "SELECT set_config('synchronous_commit', 'on', false) "
    "WHERE current_setting('synchronous_commit') = 'off'",
)
_SET_WRITER = (
    f"SET idle_in_transaction_session_timeout = '{IDLE_IN_COMMIT_S}s'",
    # So that the lock of a machine that is gone is free within a minute.
    "SET tcp_keepalives_idle = 30",
    "SET tcp_keepalives_interval = 10",
    "SET tcp_keepalives_count = 3",
)

# SQLSTATE, or the class that it begins with -> (the fact, the way out). What isn't here is a bug of ours.
_KEPT_NOTHING = "nothing was written; try again"
_INTERRUPTED = {
    "40": ("it ended the transaction in favour of another one", _KEPT_NOTHING),
    "57P01": ("it is being shut down", _KEPT_NOTHING),
    "57P02": ("it was restarted after a crash", _KEPT_NOTHING),
    "25P03": (f"it ended a transaction that stood still for {IDLE_IN_COMMIT_S} s", _KEPT_NOTHING),
    "08": ("the connection was lost", _KEPT_NOTHING),
}
_UNAVAILABLE = {
    "25006": ("it can't be written", "connect to the primary server, not to a standby"),
    "42501": ("this user may not do that", "make it the owner of the store's tables and of their schema"),
    "53100": ("the disk is full", "free some space; nothing of this commit was kept"),
    "53200": ("it is out of memory", "nothing of this commit was kept"),
    "53300": ("it has too many connections", "raise max_connections, or run fewer servers and workers"),
    "53": ("it lacks resources", "look at the server's log; nothing of this commit was kept"),
    "57014": ("a statement took longer than the server allows", "raise statement_timeout for this user"),
    "57P03": ("it is starting or stopping", "try again in a moment"),
    "58": ("the disk refused a read or write", "look at the server's log; nothing of this commit was kept"),
    "XX001": ("its files are damaged", "restore it from a copy, or backfill a new one"),
    "XX002": ("its files are damaged", "REINDEX, or restore it from a copy"),
}


class UnreachableError(psycopg.OperationalError):
    """No server answers, or it lets this user not in."""


class UnknownOutcomeError(psycopg.OperationalError):
    """The connection was lost while a commit ended, and no server could be asked about it."""


class PostgresSession(Session):
    """A connection to a server: SQLAlchemy's, and the driver's own for hot paths. Lost between transactions,
    it is opened again."""

    def __init__(self, database: Postgres, *, writer: bool) -> None:
        self._database = database
        self._writer = writer
        self._number: tuple[int, str, int, str] | None = None
        self._open()

    def begin_read(self) -> Latest:
        return self._connected(self._begin_read)

    def begin_write(self, *, first: bool = False) -> None:
        self._number = None
        self._connected(self._begin_write)

    def begin_commit(self, *, kind: str, now_us: int, detail: str) -> Latest:
        row = self.raw.execute(_COMMIT, (now_us, kind, detail), prepare=True).fetchone()
        assert row is not None
        number, last_arrival, registry_commit, transaction = row
        self._number = (number, transaction, now_us, kind)
        return Latest(number, last_arrival, registry_commit)

    def commit(self) -> None:
        try:
            done = self.raw.execute("COMMIT", prepare=False)
        except psycopg.OperationalError:
            # The answer is lost; whether the commit is, the server knows.
            if self.raw.closed and self._was_kept():
                return
            raise
        # A statement that failed unnoticed makes of COMMIT a ROLLBACK.
        assert done.statusmessage == "COMMIT", done.statusmessage

    def rollback(self) -> None:
        with contextlib.suppress(psycopg.Error):
            self._wire.end()
        if self.connection.in_transaction():
            with contextlib.suppress(psycopg.Error, SQLAlchemyError):
                self.connection.rollback()

    def close(self) -> None:
        with contextlib.suppress(psycopg.Error, SQLAlchemyError):
            self.connection.invalidate()
        self.connection.close()

    def segments(self, timeline_version_id: int, entity_keys: Sequence[bytes]) -> dict[bytes, list[bytes]]:
        timeline = int8(timeline_version_id)
        if len(entity_keys) == 1:
            (key,) = entity_keys
            rows = self._wire.run(_SEGMENTS_OF_ONE, (key, timeline))
            payloads = [rows.get_value(row, 0) for row in range(rows.ntuples)]
            return {key: payloads} if payloads else {}  # type: ignore[dict-item]
        return self._pairs(_SEGMENTS, list(dict.fromkeys(entity_keys)), timeline)

    def newer(
        self, timeline_version_id: int, entity_keys: Sequence[bytes], *, after: Sequence[int]
    ) -> list[StoredRow]:
        return self._stored(_NEWER, entity_keys, int8(timeline_version_id), int8_array(after))

    def identities(self, timeline_version_id: int, row_keys: Sequence[bytes]) -> dict[bytes, list[bytes]]:
        return self._pairs(_IDENTITIES, row_keys, int8(timeline_version_id))

    def _pairs(
        self, statement: Statement, keys: Sequence[bytes], timeline: bytes
    ) -> dict[bytes, list[bytes]]:
        found: dict[bytes, list[bytes]] = {}
        if keys:
            rows = self._wire.run(statement, (bytea_array(keys), timeline))
            value = rows.get_value
            for row in range(rows.ntuples):
                found.setdefault(value(row, 0), []).append(value(row, 1))  # type: ignore[arg-type]
        return found

    def has_identities(self, timeline_version_id: int, *, first: bytes, last: bytes) -> bool:
        asked = (timeline_version_id, first, last)
        return self._cursor.execute(_ANY_IDENTITY, asked, prepare=True).fetchone() is not None

    def truncates(self, timeline_version_id: int) -> list[Truncate]:
        rows = self._cursor.execute(_TRUNCATES, (timeline_version_id,), prepare=True).fetchall()
        return [
            Truncate(tuple(json.loads(position)), changed, available) for position, changed, available in rows
        ]

    def append(self, timeline_version_id: int, commit_number: int, rows: Iterable[SegmentRow]) -> None:
        with self.raw.cursor() as cursor, cursor.copy(_APPEND) as copy:
            copy.set_types(_APPEND_TYPES)
            for key, level, start, versions, payload in rows:
                copy.write_row((timeline_version_id, key, level, start, commit_number, versions, payload))

    def add_identities(self, timeline_version_id: int, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        with self.raw.cursor() as cursor, cursor.copy(_ADD_IDENTITIES) as copy:
            copy.set_types(_ADD_IDENTITIES_TYPES)
            for row, entity in pairs:
                copy.write_row((timeline_version_id, row, entity))

    def row_sizes(self, timeline_version_id: int, entity_keys: Sequence[bytes]) -> list[tuple[bytes, int]]:
        if not entity_keys:
            return []
        rows = self._wire.run(_ROW_SIZES, (bytea_array(entity_keys), int8(timeline_version_id)))
        value = rows.get_value
        return [(value(row, 0), number(value(row, 1))) for row in range(rows.ntuples)]  # type: ignore[misc]

    def rows_below(
        self, timeline_version_id: int, entity_keys: Sequence[bytes], versions: int
    ) -> list[StoredRow]:
        return self._stored(_ROWS_BELOW, entity_keys, int8(timeline_version_id), int8(versions))

    def _stored(self, statement: Statement, keys: Sequence[bytes], *others: bytes) -> list[StoredRow]:
        if not keys:
            return []
        rows = self._wire.run(statement, (bytea_array(keys), *others))
        return [
            StoredRow._make(
                value if column in (0, 5) else number(value)
                for column, value in enumerate(rows.get_value(row, column) or b"" for column in range(6))
            )
            for row in range(rows.ntuples)
        ]

    def remove_rows(self, timeline_version_id: int, rows: Sequence[StoredRow]) -> int:
        if not rows:
            return 0
        keys, levels, starts, numbers, _, payloads = zip(*rows, strict=True)
        done = self._wire.run(
            _REMOVE_ROWS,
            (
                int8(timeline_version_id),
                bytea_array(keys),
                *map(int8_array, (levels, starts, numbers)),
                bytea_array(payloads),
            ),
        )
        return done.command_tuples or 0

    # Its connection

    def _open(self) -> None:
        try:
            connection = self._database.engine.connect()
        except DBAPIError as error:
            raise UnreachableError(str(error.orig)) from error.orig
        raw = connection.connection.driver_connection
        assert isinstance(raw, psycopg.Connection)
        self.connection, self.raw = connection, raw
        self._cursor = raw.cursor(binary=True)
        self._wire = Wire(raw)
        busy_ms = max(1, round(1000 * self._database.busy_timeout_s))
        settings = (*_SET, *_SET_WRITER, f"SET lock_timeout = {busy_ms}") if self._writer else _SET
        raw.execute("; ".join(settings), prepare=False)

    def _connected(self, begin: Callable[[], T]) -> T:
        until_s = time.monotonic() + RECONNECT_S
        while True:
            try:
                if self.raw.closed:
                    self.close()
                    self._open()
                return begin()
            except psycopg.OperationalError:
                if not self.raw.closed or time.monotonic() > until_s:
                    raise
            time.sleep(RECONNECT_PAUSE_S)

    def _begin_read(self) -> Latest:
        found = self._wire.simple(_BEGIN_READ)
        if not found.ntuples:
            return NOTHING_YET
        return Latest(*(int(found.get_value(0, column) or b"") for column in range(3)))

    def _begin_write(self) -> None:
        try:
            self.raw.execute(_BEGIN_WRITE, prepare=False)
        except psycopg.errors.LockNotAvailable as error:
            self.raw.rollback()
            raise BusyError from error

    def _was_kept(self) -> bool:
        """Whether a commit whose end was not heard of is there. Its lock is free once it is over, so that
        there is nothing between yes and no."""
        if self._number is None:
            return False
        try:
            self._connected(self._begin_write)
            return self.raw.execute(_WAS_KEPT, self._number).fetchone() is not None
        except (psycopg.OperationalError, BusyError) as error:
            raise UnknownOutcomeError from error


class Postgres(Database):
    """A PostgreSQL database. One session at a time writes, of all servers and workers together."""

    elsewhere = "name another database in [store], or a schema of its own: ?options=-csearch_path%3DNAME"
    driver_error = psycopg.Error

    def __init__(self, url: URL, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        shown = URL.create("postgresql", url.username, None, url.host, url.port, url.database)
        self.name = f"store {shown.render_as_string()}"
        self.busy_timeout_s = busy_timeout_s
        # The server's lock has a fair queue of its own: no file.
        self.turn = Turn(None)
        self.engine = create_engine(
            url.set(drivername="postgresql+psycopg"),
            # A transaction begins exactly where a session says.
            isolation_level="AUTOCOMMIT",
            poolclass=NullPool,
            pool_reset_on_return=None,
            connect_args={} if "connect_timeout" in url.query else {"connect_timeout": CONNECT_TIMEOUT_S},
        )

    def prepare(self, *, make: bool) -> None:
        """Nothing: a database is made by who may."""

    def session(self, *, writer: bool = False) -> PostgresSession:
        with self.errors():
            session = PostgresSession(self, writer=writer)
        if writer:
            server = session.raw.info.server_version
            encoding = session.raw.info.parameter_status("server_encoding")
            if server < OLDEST_SERVER * 10_000 or encoding != "UTF8":
                session.close()
                raise StoreUnavailableError(
                    f"{self.name}: it is PostgreSQL {server // 10_000} with encoding {encoding}",
                    hint=f"a store needs PostgreSQL {OLDEST_SERVER} or newer and a database in UTF8",
                )
        return session

    def purge(self, session: Session, *, whole: bool) -> bool:
        """Write the tables anew without dead rows: VACUUM alone leaves their bytes where they lay. Requests
        wait meanwhile; the server's write-ahead log and its archive are the server's."""
        del whole
        assert isinstance(session, PostgresSession)
        try:
            for table in ("segments", "arrivals", "identities", "dead_letters"):
                session.raw.execute(f"VACUUM (FULL) {table}", prepare=False)
        except psycopg.errors.LockNotAvailable as error:
            raise BusyError from error
        return True

    def give_back(self, *, whole: bool) -> bool:
        """VACUUM: what was removed makes room for what comes, and others go on. ``whole``: one partition
        after another is written anew, and who needs it waits."""
        session = self.session(writer=True)
        try:
            if not whole:
                session.raw.execute("VACUUM (ANALYZE) segments", prepare=False)
                return False
            for (table,) in session.raw.execute(_PARTITIONS, prepare=False).fetchall():
                session.raw.execute(f"VACUUM (FULL, ANALYZE) {table}", prepare=False)
            return False
        except psycopg.errors.LockNotAvailable as error:
            raise BusyError from error
        finally:
            session.close()

    def size_bytes(self) -> int:
        session = self.session()
        try:
            found = session.raw.execute(_SIZE, prepare=False).fetchone()
            return int(found[0]) if found else 0
        finally:
            session.close()

    def unavailable(self, error: Exception) -> StoreUnavailableError | None:
        if isinstance(error, BusyError):
            return StoreUnavailableError(
                f"{self.name}: it has been locked by another writer for {self.busy_timeout_s:g} s",
                hint="end the other process or try again",
            )
        if isinstance(error, UnknownOutcomeError):
            return StoreUnavailableError(
                f"{self.name}: the connection was lost while a commit ended; nobody can say if it was kept",
                hint="look at what is there before doing it again; rows with an id may be pushed again",
            )
        if isinstance(error, UnreachableError):
            said = str(error).strip().partition("\n")[0]
            return StoreInterruptedError(
                f"{self.name}: it can't be reached ({said})",
                hint="is the server running, and does [store] url name it, a user and a password?",
            )
        state = error.sqlstate if isinstance(error, psycopg.Error) else None
        if state is None:
            lost = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
            state = "08" if lost else ""
        for table, kind in ((_INTERRUPTED, StoreInterruptedError), (_UNAVAILABLE, StoreUnavailableError)):
            if found := table.get(state) or table.get(state[:2]):
                return kind(f"{self.name}: {found[0]}", hint=found[1])
        return None
