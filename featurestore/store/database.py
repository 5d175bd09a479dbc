"""What the store asks of a database. Each does it its own way: ``sqlite`` and ``postgres``.

Statements that read alike everywhere go through SQLAlchemy, on a session's ``connection``; the ones that run
for each request and for each row are a session's own. On every database one session at a time writes: that is
why commits are numbered in the order in which readers see them.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from featurestore.errors import StoreUnavailableError
from featurestore.store.records import SegmentRow, StoredRow, Truncate
from featurestore.store.turn import BusyError, Turn, TurnstileError

BUSY_TIMEOUT_S = 30.0


class Latest(NamedTuple):
    """The last row of ``commits``: what a snapshot stands at, and what the next commit goes on from."""

    number: int
    last_arrival: int
    registry_commit: int


NOTHING_YET = Latest(0, 0, 0)


class Session(ABC):
    """One held connection, in one transaction at most."""

    connection: Connection

    @abstractmethod
    def begin_read(self) -> Latest:
        """Begin one consistent state to read from."""

    @abstractmethod
    def begin_write(self, *, first: bool = False) -> None:
        """One attempt at the write lock: BusyError where another has it. ``first``: the store may not be
        there yet."""

    @abstractmethod
    def begin_commit(self, *, kind: str, now_us: int, detail: str) -> Latest:
        """Number this write transaction, with its row in ``commits``; it goes on from the one before."""

    @abstractmethod
    def commit(self) -> None:
        """Keep what was written: when it returns, that is durable and what later snapshots see."""

    @abstractmethod
    def rollback(self) -> None:
        """End the transaction if one is open, SQLAlchemy's as well."""

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def segments(self, timeline_version_id: int, entity_keys: Sequence[bytes]) -> dict[bytes, list[bytes]]:
        """Entity key -> its payloads in the order (level, start, commit); an entity without any is absent.

        Keys may repeat. The order means nothing for a value: a timeline's is that of the versions inside.
        """

    @abstractmethod
    def newer(
        self, timeline_version_id: int, entity_keys: Sequence[bytes], *, after: Sequence[int]
    ) -> list[StoredRow]:
        """The rows of some entities that were written after a commit, each one's own. Keys don't repeat."""

    @abstractmethod
    def identities(self, timeline_version_id: int, row_keys: Sequence[bytes]) -> dict[bytes, list[bytes]]:
        """Row key -> the entities whose timelines the row has been in, in key order; one of none is absent.

        A row never leaves the index: it has been in a timeline, whether it is there at some instant or not.
        """

    @abstractmethod
    def has_identities(self, timeline_version_id: int, *, first: bytes, last: bytes) -> bool:
        """Whether any row with a key in ``[first, last]`` is in the index."""

    @abstractmethod
    def truncates(self, timeline_version_id: int) -> list[Truncate]:
        """The truncates of a timeline version's table, as they came."""

    @abstractmethod
    def append(self, timeline_version_id: int, commit_number: int, rows: Iterable[SegmentRow]) -> None:
        """Write segments or deltas."""

    @abstractmethod
    def row_sizes(self, timeline_version_id: int, entity_keys: Sequence[bytes]) -> list[tuple[bytes, int]]:
        """(entity key, versions) of each row of some entities. Keys don't repeat."""

    @abstractmethod
    def rows_below(
        self, timeline_version_id: int, entity_keys: Sequence[bytes], versions: int
    ) -> list[StoredRow]:
        """The rows of some entities that have fewer ``versions`` than that. Keys don't repeat."""

    @abstractmethod
    def remove_rows(self, timeline_version_id: int, rows: Sequence[StoredRow]) -> int:
        """Remove those of ``rows`` that are there as they are given; returns how many were."""

    @abstractmethod
    def add_identities(self, timeline_version_id: int, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        """Write pairs of row key and entity key that are not there."""


class Database(ABC):
    """A database that holds a store, or is to. ``name`` is what errors call it, never with a password."""

    name: str
    elsewhere: str
    """The way out where the database turns out to be something else's."""
    busy_timeout_s: float
    turn: Turn
    driver_error: type[Exception]

    @abstractmethod
    def prepare(self, *, make: bool) -> None:
        """Before the first session: make what can be made (``make``), or say what isn't there."""

    @abstractmethod
    def session(self, *, writer: bool = False) -> Session: ...

    @abstractmethod
    def unavailable(self, error: Exception) -> StoreUnavailableError | None:
        """What an error of the driver says about the database, or None: then it is a bug of ours."""

    def checkpoint(self, session: Session) -> None:
        """Tidy up after a bulk load; correct without it, too. Nothing, unless the database has something."""
        del session

    @abstractmethod
    def purge(self, session: Session, *, whole: bool) -> bool:
        """Leave nothing behind of what was removed; BusyError where somebody writes, False while a reader
        needs it. ``whole``: what was removed before may lie anywhere, so write everything anew."""

    @abstractmethod
    def give_back(self, *, whole: bool) -> bool:
        """Take one short step towards giving back what nothing uses any more; whether there is more to give.
        ``whole``: at once, and as small as it can be, while others wait."""

    @abstractmethod
    def size_bytes(self) -> int:
        """What the store takes on the disk."""

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Every write and every cold read passes here, so that one table says what a driver's error means."""
        try:
            yield
        except (BusyError, TurnstileError, self.driver_error) as error:
            raise (self.unavailable(error) or error) from error
        except DBAPIError as error:
            if not isinstance(error.orig, self.driver_error):
                raise
            raise (self.unavailable(error.orig) or error) from error
