"""The store: opened and migrated, then written in commits and read in snapshots.

There is one writer at a time, across threads, processes and machines; readers never wait for it. A commit is
durable before its block is left. ``now()`` is never called here: a commit is told its time.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from sqlalchemy import URL, insert, make_url, select
from sqlalchemy.exc import ArgumentError

from featurestore.errors import StoreError, StoreInterruptedError, StoreUnavailableError
from featurestore.store import schema
from featurestore.store.commit import Commit
from featurestore.store.database import BUSY_TIMEOUT_S, Database, Session
from featurestore.store.snapshot import Snapshot
from featurestore.store.sqlite import Sqlite
from featurestore.store.tables import store_meta

T = TypeVar("T")

# Connections kept open for readers; a burst beyond it opens and closes its own.
IDLE_READERS = 32
# Between attempts at a commit that the database has ended: longer each time, up to the longest.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.01, 0.5

WRITER_MEMORY_BYTES = 256 << 20

# In store_meta: since when every writer has overwritten what it removed.
OVERWRITES = "overwrites_removed"


class Store:
    """Timelines, arrivals, the registry and the progress of backfills, in one database. A process that writes
    keeps up to ``writer_memory`` bytes of what it has seen (``store.seen``)."""

    def __init__(
        self, database: Database, writer: Session, *, writer_memory: int = WRITER_MEMORY_BYTES
    ) -> None:
        self._database = database
        self.writer_memory = writer_memory
        self._writer = writer
        self._readers: deque[Session] = deque()
        self._closed = False

    @classmethod
    def open(
        cls,
        url: str | Path,
        *,
        migrate: bool,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        writer_memory: int = WRITER_MEMORY_BYTES,
    ) -> Store:
        """Open a store at a path, ``sqlite:///path`` or ``postgresql://...``; ``migrate`` makes it or brings
        it forward first.

        Raises StoreVersionError for a schema that isn't this code's and StoreUnavailableError for a database
        that can't be used.
        """
        database = _database(url, busy_timeout_s)
        database.prepare(make=migrate)
        with database.errors():
            store = cls(database, database.session(writer=True), writer_memory=writer_memory)
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
        """Where it is, without a password."""
        return self._database.name

    @contextlib.contextmanager
    def commit(self, kind: str, *, now_us: int, detail: str = "") -> Iterator[Commit]:
        """One write transaction: kept as a whole when the block ends, as nothing when it raises.

        Prepare the work before: other writers wait. Raises StoreUnavailableError when the turn does not come
        in time, the disk is full or the database can't be written, and StoreInterruptedError when the
        database ended the transaction: nothing was kept then, and it may be tried again (``attempts``).
        """
        with self._writing():
            yield Commit(self._writer, kind=kind, now_us=now_us, detail=detail)

    def attempts(
        self, kind: str, *, now_us: int, detail: str = ""
    ) -> Iterator[contextlib.AbstractContextManager[Commit]]:
        """``commit`` for work that can be done again: as often as the database ends it (a deadlock, a lost
        connection, a restart), for as long as a writer would wait for its turn.

        ``for attempt in store.attempts(...): with attempt as commit: ...`` runs the block once more after
        each StoreInterruptedError; the last one passes.
        """
        paused = self.patience()
        kept = False

        @contextlib.contextmanager
        def attempt() -> Iterator[Commit]:
            nonlocal kept
            opened = contextlib.ExitStack()
            while True:
                try:
                    commit = opened.enter_context(self.commit(kind, now_us=now_us, detail=detail))
                    break
                except StoreInterruptedError:
                    if not paused():
                        raise
            try:
                with opened:
                    yield commit
                kept = True
            except StoreInterruptedError:
                if not paused():
                    raise

        while not kept:
            yield attempt()

    def read(self, work: Callable[[Snapshot], T]) -> T:
        """What ``work`` makes of a snapshot; of a new one, as often as the database ends it, for as long as a
        writer would wait for its turn."""
        paused = self.patience()
        while True:
            try:
                with self.snapshot() as snapshot:
                    return work(snapshot)
            except StoreInterruptedError:
                if not paused():
                    raise

    def patience(self) -> Callable[[], bool]:
        """For work that is done again where the database ended it: waits a moment, longer each time; False
        once a writer would have given up waiting for its turn, counted from now."""
        until_s = time.monotonic() + self._database.busy_timeout_s
        pauses_s = iter([FIRST_PAUSE_S * 2**n for n in range(6)])

        def paused() -> bool:
            pause_s = next(pauses_s, LONGEST_PAUSE_S)
            if time.monotonic() + pause_s > until_s:
                return False
            time.sleep(pause_s)
            return True

        return paused

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """One consistent state to read from; may be open in many threads and inside one another."""
        session = self._reader()
        database = self._database
        try:
            try:
                snapshot = Snapshot(database, session, session.begin_read())
            except database.driver_error as error:
                raise (database.unavailable(error) or error) from error
            yield snapshot
        finally:
            session.rollback()
            if self._closed or len(self._readers) >= IDLE_READERS:
                session.close()
            else:
                self._readers.append(session)

    def checkpoint(self) -> None:
        """Tidy up after a bulk load (SQLite: fold the write-ahead log into the file); correct without it."""
        with self._database.errors():
            self._database.checkpoint(self._writer)

    def purge(self, *, now_us: int) -> bool:
        """Leave nothing behind, in the store's files, of what was removed from it; False while a reader in
        this or another process still needs some of it: try again later.

        In SQLite, a store that an older release wrote is written anew once: that release did not overwrite.
        """
        with self.snapshot() as snapshot:
            whole = OVERWRITES not in snapshot.meta()
        session, database = self._writer, self._database
        done = False

        def attempt() -> None:
            nonlocal done
            done = database.purge(session, whole=whole)

        with database.errors(), database.turn.taken(attempt, timeout_s=database.busy_timeout_s):
            pass
        if whole:
            with self.commit("purge", now_us=now_us) as commit:
                commit.add_meta(OVERWRITES, "since it was written anew")
        return done

    def give_back(self, *, whole: bool = False) -> bool:
        """Give back some of the space that nothing uses any more, in a short step; whether there is more to
        give. ``whole``: all of it at once, while others wait."""
        with self._database.errors():
            return self._database.give_back(whole=whole)

    def size_bytes(self) -> int:
        """What the store takes on the disk."""
        with self._database.errors():
            return self._database.size_bytes()

    def store_id(self) -> str:
        """The store's own name for itself, made with it; manifests carry it."""
        with self.snapshot() as snapshot:
            return snapshot.meta()["store_id"]

    def close(self) -> None:
        """Close every idle connection. A store that is closed can't be used again."""
        self._closed = True
        while self._readers:
            self._readers.pop().close()
        self._writer.close()
        self._database.turn.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _stand(self, migrate: bool) -> None:
        session = self._writer
        try:
            standing = self._standing()
        finally:
            session.rollback()
        if standing == "current":
            return
        if not migrate:
            raise schema.needs_migration(self.name, standing)
        with self._writing(first=True):
            # Another process may have come first; the transaction decides.
            if self._standing() != "current":
                schema.upgrade(session.connection)
            known = set(session.connection.execute(select(store_meta.c.key)).scalars())
            if "store_id" not in known:
                made = {"store_id": uuid.uuid4().hex, OVERWRITES: "since it was made"}
                rows = [{"key": key, "value": value} for key, value in made.items()]
                session.connection.execute(insert(store_meta), rows)

    def _standing(self) -> schema.Standing:
        database = self._database
        return schema.standing(self._writer.connection, database.name, elsewhere=database.elsewhere)

    @contextlib.contextmanager
    def _writing(self, *, first: bool = False) -> Iterator[None]:
        """The one place where something is written: a turn, a transaction, and what its errors mean."""
        if self._closed:
            raise StoreError(f"{self.name}: it is closed")
        session, database = self._writer, self._database
        with (
            database.errors(),
            database.turn.taken(lambda: session.begin_write(first=first), timeout_s=database.busy_timeout_s),
        ):
            try:
                yield
                session.commit()
            finally:
                # After a commit there is nothing to roll back; SQLAlchemy learns that its own is over.
                session.rollback()

    def _reader(self) -> Session:
        if self._closed:
            raise StoreError(f"{self.name}: it is closed")
        try:
            return self._readers.pop()
        except IndexError:
            return self._database.session()


def _database(url: str | Path, busy_timeout_s: float) -> Database:
    if not isinstance(url, str) or "://" not in url:
        return Sqlite(Path(url), busy_timeout_s=busy_timeout_s)
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        # What can't be parsed can't be shown: a password may be in it.
        raise StoreUnavailableError("[store] url is not a database URL", hint=_HINT) from error
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        return Sqlite(Path(parsed.database), busy_timeout_s=busy_timeout_s)
    if parsed.drivername in ("postgresql", "postgresql+psycopg", "postgres"):
        return _postgres(parsed, busy_timeout_s)
    raise StoreUnavailableError(
        f'"{parsed.render_as_string(hide_password=True)}" is not a store that this version speaks', hint=_HINT
    )


_HINT = "sqlite:///path, a path, or postgresql://user:password@host/database"


def _postgres(url: URL, busy_timeout_s: float) -> Database:
    try:
        from featurestore.store.postgres import Postgres
    except ImportError as error:
        raise StoreUnavailableError(
            "a store in PostgreSQL needs psycopg", hint="pip install 'featurestore[postgres]'"
        ) from error
    return Postgres(url, busy_timeout_s=busy_timeout_s)
