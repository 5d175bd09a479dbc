"""Debezium's envelopes as changes.

Time: ``changed_at`` is the commit's at the origin, ``source.ts_ms`` or finer. The envelope's own ``ts_ms`` is
the connector's clock: when it saw the change, which is what ``available_at="envelope.ts_ms"`` takes.

An update that changes the primary key, which Debezium itself writes as a delete and a create, is both here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa

from featurestore.dsl.table_source import TableSource
from featurestore.dtypes import DType
from featurestore.errors import LogError
from featurestore.kernel.changes import DELETE, UPSERT
from featurestore.log.cells import NULL, cells_of_json
from featurestore.log.change_columns import (
    CHANGED_AT,
    DEBEZIUM_POSITION,
    OF_ENVELOPE,
    OF_SOURCE,
    effective,
    own_columns,
)
from featurestore.log.change_rows import RawChanges
from featurestore.log.connect_types import RowSchema, row_schema
from featurestore.log.envelope_positions import Sources, committed_at, integers, own_positions, source_cells
from featurestore.log.envelopes import Delivered, Envelope, Row, envelopes
from featurestore.log.files import LogFile
from featurestore.log.infer import CellColumn
from featurestore.log.operations import meanings, operation_codes

_UNIT_US = {"_s": (1_000_000, 1), "_ms": (1_000, 1), "_us": (1, 1), "_ns": (1, 1_000)}


def row_columns(
    source: TableSource,
    root: Path,
    files: Sequence[LogFile] | None,
    needed: Collection[str] | None,
) -> dict[str, pa.DataType]:
    """The columns of the table's rows and their types: as the envelopes' schemas say, else inferred over all
    contents, of the ``needed`` columns only (None: all; the others are given as string). A type that changes
    in the log is a LogError."""
    assert source.log is not None
    known: dict[str, tuple[pa.DataType, LogFile]] = {}
    seen: dict[str, CellColumn] = {}
    schemas: dict[bytes, RowSchema] = {}
    times = (source.changed_at, source.event_time, source.available_at)
    for file, first_row, messages in envelopes(source.log, root, files):
        for schema, run in _runs(messages, first_row):
            if not schema:
                _see(seen, run, needed, times, file)
            elif schema not in schemas:
                schemas[schema] = row_schema(schema)
                for name, column in schemas[schema].items():
                    was, origin = known.setdefault(name, (column.arrow, file))
                    if was != column.arrow:
                        raise LogError(
                            f'column "{name}" is {was} in log file "{origin.shown}" and {column.arrow} in '
                            f'"{file.shown}", row {run[0][0] + 1:,}',
                            hint="declare another source for the rows after the change, or repair the files",
                        )
    inferred = {
        name: pa.string() if needed is not None and name not in needed else column.arrow
        for name, column in seen.items()
    }
    return {name: arrow for name, (arrow, _) in known.items()} | {
        name: arrow for name, arrow in inferred.items() if name not in known
    }


def raw_changes(
    source: TableSource, columns: Mapping[str, DType], root: Path, files: Sequence[LogFile] | None
) -> Iterator[RawChanges]:
    """The log's envelopes as changes, their rows' columns by name."""
    assert source.log is not None
    schemas: dict[bytes, RowSchema] = {b"": {}}
    for file, first_row, messages in envelopes(source.log, root, files):
        ignored = sum(message.envelope is None for message in messages)
        for schema, run in _runs(messages, first_row) or [(b"", [])]:
            if schema not in schemas:
                schemas[schema] = row_schema(schema)
            yield _changes(run, schemas[schema], source, columns, file, first_row, ignored)
            ignored = 0


def _runs(messages: list[Delivered], first_row: int) -> list[tuple[bytes, list[tuple[int, Envelope]]]]:
    """The envelopes with their rows, tombstones left out, as runs of one schema (b"" for none)."""
    kept = [
        (message.schema or b"", (row, message.envelope))
        for row, message in enumerate(messages, first_row)
        if message.envelope is not None
    ]
    return [
        (schema, [found for _, found in group]) for schema, group in groupby(kept, key=lambda one: one[0])
    ]


def _changes(
    run: list[tuple[int, Envelope]],
    schema: RowSchema,
    source: TableSource,
    columns: Mapping[str, DType],
    file: LogFile,
    first_row: int,
    ignored: int,
) -> RawChanges:
    rows = [row for row, _ in run]
    found = [envelope for _, envelope in run]
    words = pa.array([envelope.op for envelope in found], pa.string())
    operation = operation_codes(words, meanings(source))
    upsert = (operation == UPSERT).tolist()
    contents = [one.after if up else _content(one) for one, up in zip(found, upsert, strict=True)]

    moved = []
    entering = None
    for i in np.flatnonzero(operation == UPSERT).tolist():
        left = _left_behind(found[i], source)
        if left is not None:
            moved.append(i)
            contents.append(left)
            found.append(found[i])
            rows.append(rows[i])
    if moved:
        entering = np.zeros(len(found), np.bool_)
        entering[moved] = True
        operation = np.concatenate([operation, np.full(len(moved), DELETE)])
        words = pa.concat_arrays([words, words.take(pa.array(moved))])

    arrays: dict[str, pa.Array] = {}
    own = own_columns(source)
    for name in columns:
        if name not in own:
            values = cells_of_json([None if content is None else content.get(name) for content in contents])
            read = schema[name].read if name in schema else None
            arrays[name] = values if read is None else read(values)
    arrays |= _own_columns(found, source)
    of_before = None
    if source.available_at is not None and source.available_at not in own:
        of_before = operation != UPSERT
        of_before[len(upsert) :] = False  # of an update's two halves, both are known with what it wrote
    return RawChanges(
        pa.Table.from_arrays(list(arrays.values()), names=list(arrays)),
        operation,
        words,
        file,
        first_row,
        np.array(rows, np.int64),
        ignored,
        entering,
        of_before,
    )


def _own_columns(found: Sequence[Envelope], source: TableSource) -> dict[str, pa.Array]:
    """``changed_at``, position and ``available_at`` where they are no columns of the row."""
    changed_at, position = effective(source)
    sources = [envelope.source for envelope in found]
    own: dict[str, pa.Array] = {}
    if changed_at == CHANGED_AT:
        own[changed_at] = committed_at(sources)
    elif changed_at.startswith(OF_SOURCE):
        own[changed_at] = _time_of_source(sources, changed_at.removeprefix(OF_SOURCE))
    known = source.available_at or changed_at
    if known.startswith(OF_ENVELOPE):
        own[known] = _time_of_source([envelope.clock for envelope in found], known.removeprefix(OF_ENVELOPE))
    elif known.startswith(OF_SOURCE):
        own[known] = _time_of_source(sources, known.removeprefix(OF_SOURCE))
    if position == DEBEZIUM_POSITION:
        own |= zip(position, own_positions(sources, f'source "{source.name}"'), strict=True)
    else:
        for name in position:
            if name.startswith(OF_SOURCE):
                own[name] = source_cells(sources, name.removeprefix(OF_SOURCE))
    return own


def _time_of_source(sources: Sources, name: str) -> pa.Array:
    unit = _UNIT_US.get(name[name.rfind("_") :]) if "_" in name else None
    if unit is None:
        return source_cells(sources, name)
    numbers = integers(sources, name)
    held = np.asarray(numbers.fill_null(0))
    fits = np.abs(held) <= (2**63 - 1) // unit[0]
    us = pa.array(np.floor_divide(np.where(fits, held, 0) * unit[0], unit[1]), mask=~fits | _nulls(numbers))
    return us.view(pa.timestamp("us", "UTC"))


def _content(envelope: Envelope) -> Row | None:
    """The row after a change, or what is known of it before it was deleted."""
    return envelope.after if envelope.after is not None else envelope.before


def _left_behind(envelope: Envelope, source: TableSource) -> Row | None:
    """The primary key that an update has left, with what says when; None where it has not."""
    before, after = envelope.before, envelope.after
    if before is None or after is None:
        return None
    was = {name: before[name] for name in source.primary_keys if name in before}
    if len(was) < len(source.primary_keys) or any(bytes(value) == b"null" for value in was.values()):
        return None
    if all(name in after and bytes(after[name]) == bytes(value) for name, value in was.items()):
        return None
    changed_at, position = effective(source)
    when = {
        name for name in (changed_at, *position, source.available_at) if name is not None and name in after
    }
    return {name: after[name] for name in when} | was


def _see(
    seen: dict[str, CellColumn],
    run: list[tuple[int, Envelope]],
    needed: Collection[str] | None,
    times: Collection[str | None],
    file: LogFile,
) -> None:
    """Let the columns see their values; two kinds in one column are a LogError."""
    contents = [_content(envelope) for _, envelope in run]
    for name in dict.fromkeys(name for content in contents if content is not None for name in content):
        column = seen.setdefault(name, CellColumn())
        if needed is not None and name not in needed:
            continue
        values = cells_of_json([None if content is None else content.get(name) for content in contents])
        before = set(column.kinds)
        column.see(values)
        if column.clash is None:
            continue
        kinds = np.asarray(values.storage.field(0))
        kinds = np.where(np.asarray(values.storage.is_null()), NULL, kinds)
        if not before:
            before = {int(kinds[kinds != NULL][0])}
        odd = np.flatnonzero((kinds != NULL) & ~np.isin(kinds, list(before)))
        row = run[int(odd[0]) if len(odd) else 0][0] + 1
        both = " and ".join(column.clash)
        way_out = f'declare its type: columns={{"{name}": "string", ...}}; or repair the files'
        if name in times:
            way_out = "a time is written in one way throughout: repair the files"
        raise LogError(
            f'column "{name}" holds both {both} in log file "{file.shown}", row {row:,}', hint=way_out
        )


def _nulls(values: pa.Array) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.asarray(values.is_null())
