"""The store: opened and migrated, then written in commits and read in snapshots.

There is one writer at a time, across threads and processes; readers never wait for it. A commit is on the
disk before its block is left. ``now()`` is never called here: a commit is told its time.
"""

from __future__ import annotations

import contextlib
import sqlite3
import uuid
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Connection, insert, make_url, select
from sqlalchemy.exc import ArgumentError

from featurestore.errors import StoreError, StoreUnavailableError
from featurestore.store import schema
from featurestore.store.commit import Commit
from featurestore.store.snapshot import Snapshot
from featurestore.store.sqlite import BUSY_TIMEOUT_S, Sqlite
from featurestore.store.tables import store_meta

Held = tuple[Connection, sqlite3.Connection]

# Connections kept open for readers; a burst beyond it opens and closes its own.
IDLE_READERS = 32


class Store:
    """Timelines, arrivals, the registry and the progress of backfills, in one database."""

    def __init__(self, database: Sqlite, writer: Held) -> None:
        self._database = database
        self._writer = writer
        self._readers: deque[Held] = deque()
        self._closed = False

    @classmethod
    def open(cls, url: str | Path, *, migrate: bool, busy_timeout_s: float = BUSY_TIMEOUT_S) -> Store:
        """Open a store at a path or ``sqlite:///path``; ``migrate`` makes it or brings it forward first.

        Raises StoreVersionError for a schema that isn't this code's and StoreUnavailableError for a file that
        can't be used.
        """
        database = Sqlite(_path(url), busy_timeout_s=busy_timeout_s)
        if migrate:
            database.make_directory()
        elif not database.path.exists():
            raise StoreUnavailableError(
                f"{database.name}: there is no such file", hint="run `featurestore apply`"
            )
        with database.errors():
            store = cls(database, database.connect(writer=True))
            try:
                store._stand(migrate)
            except BaseException:
                store.close()
                raise
        return store

    @classmethod
    def migrate(cls, url: str | Path) -> None:
        """Make a store, or bring an old one forward; a store that is current is left alone."""
        cls.open(url, migrate=True).close()

    @property
    def name(self) -> str:
        return self._database.name

    @property
    def path(self) -> Path:
        return self._database.path

    @contextlib.contextmanager
    def commit(self, kind: str, *, now_us: int, detail: str = "") -> Iterator[Commit]:
        """One write transaction: kept as a whole when the block ends, as nothing when it raises.

        Prepare the work before: other writers wait. Raises StoreUnavailableError when the turn does not come
        in time, the disk is full or the file can't be written.
        """
        connection, raw = self._writer
        with self._writing():
            yield Commit(connection, raw, kind=kind, now_us=now_us, detail=detail)

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """One consistent state to read from; may be open in many threads and inside one another."""
        held = self._reader()
        connection, raw = held
        try:
            try:
                self._database.begin_read(raw)
                snapshot = Snapshot(self._database, connection, raw)
            except sqlite3.Error as error:
                raise (self._database.unavailable(str(error)) or error) from error
            yield snapshot
        finally:
            raw.rollback()
            if connection.in_transaction():
                connection.rollback()
            if self._closed or len(self._readers) >= IDLE_READERS:
                connection.close()
            else:
                self._readers.append(held)

    def checkpoint(self) -> None:
        """Fold the write-ahead log into the database file, after a bulk load; correct without it, too."""
        with self._database.errors():
            self._database.checkpoint(self._writer[1])

    def store_id(self) -> str:
        """The store's own name for itself, made with it; manifests carry it."""
        with self.snapshot() as snapshot:
            return snapshot.meta()["store_id"]

    def close(self) -> None:
        """Close every idle connection. A store that is closed can't be used again."""
        self._closed = True
        while self._readers:
            self._readers.pop()[0].close()
        self._writer[0].close()
        self._database.turn.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _stand(self, migrate: bool) -> None:
        connection, raw = self._writer
        raw.execute("BEGIN")
        try:
            standing = schema.standing(connection, self.name)
        finally:
            connection.rollback()
            raw.rollback()
        if standing == "current":
            return
        if not migrate:
            raise schema.needs_migration(self.name, standing)
        with self._writing(first=True):
            # Another process may have come first; the transaction decides.
            if schema.standing(connection, self.name) != "current":
                schema.upgrade(connection)
            if connection.execute(select(store_meta.c.key)).first() is None:
                connection.execute(insert(store_meta).values(key="store_id", value=uuid.uuid4().hex))

    @contextlib.contextmanager
    def _writing(self, *, first: bool = False) -> Iterator[None]:
        """The one place where something is written: a turn, a transaction, and what its errors mean."""
        if self._closed:
            raise StoreError(f"{self.name}: it is closed")
        connection, raw = self._writer
        database = self._database
        with (
            database.errors(),
            database.turn.taken(
                lambda: database.begin_write(raw, first=first), timeout_s=database.busy_timeout_s
            ),
        ):
            try:
                yield
                raw.commit()
            finally:
                # After a commit there is nothing to roll back; SQLAlchemy learns that its own is over.
                raw.rollback()
                if connection.in_transaction():
                    connection.rollback()

    def _reader(self) -> Held:
        if self._closed:
            raise StoreError(f"{self.name}: it is closed")
        try:
            return self._readers.pop()
        except IndexError:
            return self._database.connect()


def _path(url: str | Path) -> Path:
    if isinstance(url, str) and "://" in url:
        try:
            parsed = make_url(url)
        except ArgumentError as error:
            raise StoreUnavailableError(f'"{url}" is not a database URL', hint="sqlite:///path") from error
        if parsed.get_backend_name() != "sqlite" or not parsed.database:
            raise StoreUnavailableError(
                f'"{parsed.render_as_string(hide_password=True)}" is not a store that this version speaks',
                hint="sqlite:///path, or a path",
            )
        return Path(parsed.database)
    return Path(url)
