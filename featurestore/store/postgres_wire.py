"""The statements that every request sends to PostgreSQL, by libpq itself: in half the time of cursors.

A statement is prepared once a connection; its parameters and rows are binary. No instant is read here.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import psycopg
from psycopg import pq

INT8, BYTEA, BYTEA_ARRAY, INT8_ARRAY = 20, 17, 1001, 1016
"""What PostgreSQL calls the types of parameters."""

_OPEN = (pq.TransactionStatus.INTRANS, pq.TransactionStatus.INERROR)
_BINARY = pq.Format.BINARY


class Statement:
    """A statement to prepare: parameters are $1, $2, ... of ``types``."""

    def __init__(self, name: str, query: str, types: Sequence[int]) -> None:
        self.name = name.encode()
        self.query = query.encode()
        self.types = types
        self.formats = [_BINARY] * len(types)


class Wire:
    """A connection's libpq. Errors are the driver's."""

    def __init__(self, raw: psycopg.Connection) -> None:
        self._raw = raw
        self._wire = raw.pgconn
        self._prepared: set[bytes] = set()

    def simple(self, queries: bytes) -> pq.abc.PGresult:
        """Statements in one message; the result is the last one's, in text."""
        with self._raw.lock:
            return self._done(self._wire.exec_(queries))

    def run(self, statement: Statement, parameters: Sequence[bytes]) -> pq.abc.PGresult:
        with self._raw.lock:
            if statement.name not in self._prepared:
                self._done(self._wire.prepare(statement.name, statement.query, statement.types))
                self._prepared.add(statement.name)
            result = self._wire.exec_prepared(statement.name, parameters, statement.formats, _BINARY)
            return self._done(result)

    def end(self) -> None:
        """Roll back what is open. The driver's own way would drop its prepared statements each time."""
        with self._raw.lock:
            status = self._wire.transaction_status
            if status in _OPEN:
                self._wire.exec_(b"ROLLBACK")
            elif status != pq.TransactionStatus.IDLE:
                # A statement was broken off in its middle: nothing can be said on this connection any more.
                self._wire.finish()

    def _done(self, result: pq.abc.PGresult) -> pq.abc.PGresult:
        if result.status in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
            return result
        error = psycopg.errors.error_from_result(result)
        if error.sqlstate is None:
            raise psycopg.OperationalError(str(error) or "the connection is lost")
        raise error


def int8(value: int) -> bytes:
    return value.to_bytes(8, "big", signed=True)


def bytea_array(values: Sequence[bytes]) -> bytes:
    """One dimension, no nulls, counted from 1."""
    return _array(BYTEA, values)


def int8_array(values: Sequence[int]) -> bytes:
    return _array(INT8, [one.to_bytes(8, "big", signed=True) for one in values])


def _array(kind: int, values: Sequence[bytes]) -> bytes:
    sizes = {size: size.to_bytes(4, "big") for size in set(map(len, values))}
    parts = [struct.pack(">iiiii", 1, 0, kind, len(values), 1)]
    for value in values:
        parts += (sizes[len(value)], value)
    return b"".join(parts)


def number(value: bytes | None) -> int:
    """The other way: an int8 of a row."""
    return int.from_bytes(value or b"", "big", signed=True)
