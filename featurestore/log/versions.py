"""Versions of events: a log's rows after the first step of the order of work, the rejection of bad input.

Time: ``event_time`` and, where declared, ``available_at`` are canonical instants here; a null
``available_at`` is no fault. Nothing else is filtered, and nothing is sorted: what a log's order would decide
is decided by content.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.dsl.entity import Entity
from featurestore.dsl.source import EventSource
from featurestore.dtypes import DType
from featurestore.log.cast import Cast, cast_table
from featurestore.log.files import LogFile
from featurestore.log.scan import scan
from featurestore.log.schema import source_columns

_SHOWN_REJECTED = 1000

Bools = NDArray[np.bool_]


class EventParts(Protocol):
    """What is asked of an event source here; a declaration and its plan both are one."""

    @property
    def event_time(self) -> str: ...

    @property
    def ids(self) -> tuple[str, ...]: ...

    @property
    def deleted(self) -> str | None: ...


@dataclass(frozen=True)
class Versions:
    """The good rows as a versions table. ``rejected`` lists (row, why) of the first rows left out,
    ``reasons`` counts all of them by their first reason; ``keyless`` is the number of rows of no timeline (a
    null entity key). Row i of the table is row ``rows[i]`` of ``file``, or ``first_row + i``."""

    table: pa.Table
    rejected: tuple[tuple[int, str], ...] = ()
    reasons: Mapping[str, int] = field(default_factory=dict)
    keyless: int = 0
    file: LogFile | None = None
    first_row: int = 0
    rows: NDArray[np.int64] | None = None

    @property
    def rejected_count(self) -> int:
        return sum(self.reasons.values())


def read_versions(
    source: EventSource,
    entity: Entity,
    columns: Mapping[str, DType] | None,
    root: Path,
    files: Sequence[LogFile] | None = None,
) -> Iterator[Versions]:
    """The versions that the source's log holds, some at a time, each row once. ``columns`` are those of
    ``source_columns`` (None: read them first)."""
    assert source.log is not None
    columns = source_columns(source, entity.keys, root, files) if columns is None else columns
    for batch in scan(source.log, root, list(columns), files):
        cast = cast_table(batch.table, columns, timezone=source.timezone, time_unit=source.time_unit)
        yield event_versions(cast, source, entity.keys, file=batch.file, first_row=batch.first_row)


def event_versions(
    cast: Cast,
    source: EventParts,
    entity_keys: Sequence[str],
    *,
    file: LogFile | None = None,
    first_row: int = 0,
) -> Versions:
    """What is left of cast rows when bad input is rejected.

    A row is rejected with a value that its type can't hold, without id (any of its columns null) or without
    event time. One that retracts (``deleted`` is true) needs its id only: faults elsewhere leave nulls. A row
    with a null in an entity key is counted as keyless and left out.
    """
    table = cast.table
    rows = table.num_rows
    needed = {*source.ids, *entity_keys} | ({source.deleted} if source.deleted else set())
    retracts = _true(table.column(source.deleted)) if source.deleted else np.zeros(rows, np.bool_)
    left = np.ones(rows, np.bool_)  # not yet rejected: a row counts under its first reason
    reasons: Counter[str] = Counter()
    details: list[tuple[int, str]] = []

    for fault in cast.faults:
        out = np.zeros(rows, np.bool_)
        out[fault.rows] = True
        if fault.column not in needed and fault.column in table.column_names:
            out &= ~retracts
        shown = dict(fault.details())
        _reject(fault.reason, out & left, reasons, details, shown, first_row)
        left &= ~out
    for name in source.ids:
        out = _null(table.column(name)) & left
        _reject(f'no id: column "{name}" is null', out, reasons, details, {}, first_row)
        left &= ~out
    out = _null(table.column(source.event_time)) & ~retracts & left
    _reject(f'no event time: column "{source.event_time}" is null', out, reasons, details, {}, first_row)
    left &= ~out

    keyless = np.zeros(rows, np.bool_)
    for name in entity_keys:
        keyless |= _null(table.column(name))
    keyless &= left
    good = left & ~keyless
    kept = table if good.all() else table.filter(pa.array(good))
    details.sort()
    return Versions(
        kept,
        tuple(details[:_SHOWN_REJECTED]),
        dict(reasons),
        int(keyless.sum()),
        file=file,
        first_row=first_row,
        rows=None if good.all() else first_row + np.flatnonzero(good),
    )


def _reject(
    reason: str,
    out: Bools,
    reasons: Counter[str],
    details: list[tuple[int, str]],
    shown: Mapping[int, str],
    first_row: int,
) -> None:
    count = int(out.sum())
    if count:
        reasons[reason] += count
        first = np.flatnonzero(out)[:_SHOWN_REJECTED].tolist()
        details += [(first_row + row, shown.get(row, reason)) for row in first]


def _null(column: pa.ChunkedArray) -> Bools:
    if column.null_count == 0:
        return np.zeros(len(column), np.bool_)
    return np.asarray(pc.is_null(column).combine_chunks())


def _true(column: pa.ChunkedArray) -> Bools:
    return np.asarray(pc.fill_null(column, False).combine_chunks())
