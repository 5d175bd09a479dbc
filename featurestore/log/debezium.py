"""Debezium's envelopes as changes.

Time: ``changed_at`` is the commit's at the origin, ``source.ts_ms`` or finer. The envelope's own ``ts_ms`` is
the connector's clock: when it saw the change, which is what ``available_at="envelope.ts_ms"`` takes.

An update that changes the primary key, which Debezium itself writes as a delete and a create, is both here.
A primary key that an envelope lacks, as a delete without ``before`` does, is that of the message's key.

PostgreSQL does not log a value that is stored out of line and did not change; the connector writes a
placeholder. Where ``before`` has the value it is that, else the change is rejected: a placeholder is no
value.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore import dtypes
from featurestore.dsl.table_source import TableSource
from featurestore.dtypes import DType
from featurestore.errors import DefinitionError, LogError, suggestion
from featurestore.kernel.changes import DELETE, TRUNCATE, UPSERT
from featurestore.log.cast import Fault, cast_table
from featurestore.log.cells import cells_of_json
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
from featurestore.log.envelope_positions import (
    Sources,
    claimed_commits,
    committed_at,
    integers,
    own_positions,
    source_cells,
)
from featurestore.log.envelopes import Delivered, Envelope, Row, envelopes, key_of
from featurestore.log.files import LogFile
from featurestore.log.infer import CellColumn, odd_row
from featurestore.log.key_hashes import Hashes, equal, hashes
from featurestore.log.operations import meanings, operation_codes
from featurestore.log.schema import unified

PLACEHOLDER = "__debezium_unavailable_value"
"""What the PostgreSQL connector writes for a value that it was not told."""

_PLACEHOLDERS = pa.array(
    [PLACEHOLDER, f'["{PLACEHOLDER}"]', base64.b64encode(PLACEHOLDER.encode()).decode()], pa.string()
)
_UNAVAILABLE = (
    "was not logged, as it did not change: set REPLICA IDENTITY FULL on the table, or leave the column out "
    "with columns="
)
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
    tables = _Tables(source)
    seen: dict[str, CellColumn] = {}
    schemas: dict[bytes, RowSchema] = {}
    times = (source.changed_at, source.event_time, source.available_at)
    try:
        for file, first_row, messages in envelopes(source.log, root, files):
            for schema, run in _runs(tables.own(messages), first_row):
                if not schema:
                    _see(seen, run, needed, times, file)
                elif schema not in schemas:
                    schemas[schema] = row_schema(schema)
                    _join(known, schemas[schema], needed, file, run[0][0] + 1)
    except LogError:
        tables.check()  # two tables are the better reason for two types
        raise
    tables.check()
    inferred = {
        name: pa.string() if needed is not None and name not in needed else column.arrow
        for name, column in seen.items()
    }
    return {name: arrow for name, (arrow, _) in known.items()} | {
        name: arrow for name, arrow in inferred.items() if name not in known
    }


def _join(
    known: dict[str, tuple[pa.DataType, LogFile]],
    schema: RowSchema,
    needed: Collection[str] | None,
    file: LogFile,
    row: int,
) -> None:
    """Let the types of a schema that begins at a row of a file meet those that are known."""
    for name, column in schema.items():
        was, origin = known.setdefault(name, (column.arrow, file))
        both = unified(was, column.arrow)
        if both is None and needed is not None and name not in needed:
            both = pa.string()  # its type is declared: each value is cast by its own schema
        if both is None:
            declare = f'columns={{"{name}": "{dtypes.from_arrow(was) or "string"}", ...}}'
            raise LogError(
                f'column "{name}" is {was} in log file "{origin.shown}" and {column.arrow} in '
                f'"{file.shown}", row {row:,}',
                hint=f"declare its type, {declare}: values that it can't hold are rejected",
            )
        known[name] = both, origin


def raw_changes(
    source: TableSource, columns: Mapping[str, DType], root: Path, files: Sequence[LogFile] | None
) -> Iterator[RawChanges]:
    """The log's envelopes as changes, their rows' columns by name."""
    assert source.log is not None
    schemas: dict[bytes, RowSchema] = {b"": {}}
    tables = _Tables(source)
    for file, first_row, delivered in envelopes(source.log, root, files):
        messages = tables.own(delivered)
        ignored = sum(message.envelope is None for message in messages)
        for schema, run in _runs(messages, first_row) or [(b"", [])]:
            if schema not in schemas:
                schemas[schema] = row_schema(schema)
            yield _changes(run, schemas[schema], source, columns, file, first_row, ignored)
            ignored = 0


class _Tables:
    """The tables that a log is about. Where the declaration names one, the others' messages are ignored;
    where it names none, there must be one."""

    def __init__(self, source: TableSource) -> None:
        self._source = source
        self._known: dict[tuple[bytes, ...], bool] = {}

    def own(self, messages: Sequence[Delivered]) -> list[Delivered]:
        """The messages, with nothing in place of those about other tables."""
        return [
            message if message.envelope is None or self._is_own(message.envelope) else Delivered(None)
            for message in messages
        ]

    def _is_own(self, envelope: Envelope) -> bool:
        origin = envelope.source
        if origin is None or "table" not in origin:
            return True
        name = tuple(bytes(origin[part]) for part in ("db", "schema", "table") if part in origin)
        if name not in self._known:
            db, schema, table = (
                None if part not in origin else json.loads(bytes(origin[part]))
                for part in ("db", "schema", "table")
            )
            names = {f"{table}", f"{schema}.{table}", f"{db}.{table}", f"{db}.{schema}.{table}"}
            self._known[name] = table is None or self._source.table is None or self._source.table in names
        return self._known[name]

    def check(self) -> None:
        """Refuse a log of several tables, where none is named, and one without the table that is."""
        names = sorted(
            ".".join(str(part) for part in map(json.loads, name) if part is not None) for name in self._known
        )
        if self._source.table is None and len(names) > 1:
            raise DefinitionError(
                f'source "{self._source.name}": its log is about {len(names)} tables',
                hint=f'name one, table="{names[0]}"; they are {", ".join(names[:10])}',
            )
        if self._source.table is not None and names and not any(self._known.values()):
            raise DefinitionError(
                f'source "{self._source.name}": no table "{self._source.table}" in its log',
                hint=suggestion(self._source.table, names, what="tables"),
            )


def changes_of(
    messages: Sequence[Delivered], source: TableSource, columns: Mapping[str, DType]
) -> Iterator[RawChanges]:
    """Messages that are in no file as changes; their rows are the messages' numbers. Tombstones and what is
    about other tables are left out."""
    for schema, run in _runs(_Tables(source).own(messages), 0):
        columns_of = row_schema(schema) if schema else {}
        yield _changes(run, columns_of, source, columns, None, 0, 0)


def _runs(messages: Sequence[Delivered], first_row: int) -> list[tuple[bytes, list[tuple[int, Envelope]]]]:
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
    file: LogFile | None,
    first_row: int,
    ignored: int,
) -> RawChanges:
    rows = [row for row, _ in run]
    found = [envelope for _, envelope in run]
    words = pa.array([envelope.op for envelope in found], pa.string())
    operation = operation_codes(words, meanings(source))
    upsert = (operation == UPSERT).tolist()
    contents = [one.after if up else _content(one) for one, up in zip(found, upsert, strict=True)]
    for i in np.flatnonzero(operation != TRUNCATE).tolist():
        if contents[i] is not None or not upsert[i]:
            contents[i] = _with_key(contents[i], found[i], source.primary_keys)

    moved = []
    entering = None
    upserts = np.flatnonzero(operation == UPSERT).tolist()
    for i, left in _left_behind(upserts, found, contents, schema, source, columns):
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
    faults: list[Fault] = []
    own = own_columns(source)
    for name in columns:
        if name not in own:
            values = cells_of_json([None if content is None else content.get(name) for content in contents])
            gone = unavailable(values)
            if gone.any():
                values, gone = _still(name, gone, contents, found)
                if gone.any():
                    faults.append(Fault(name, f'column "{name}" {_UNAVAILABLE}', np.flatnonzero(gone), ()))
            read = schema[name].read if name in schema else None
            arrays[name] = values if read is None else read(values)
    arrays |= _own_columns(found, source)
    changed_at = effective(source)[0]
    if changed_at in own and arrays[changed_at].null_count:
        faults += _no_commit_time(changed_at, arrays[changed_at], [envelope.source for envelope in found])
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
        tuple(faults),
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


def _no_commit_time(changed_at: str, times: pa.Array, sources: Sources) -> list[Fault]:
    """The rows that say when they were committed, but what they say is no such time."""
    part = changed_at.removeprefix(OF_SOURCE)
    if changed_at == CHANGED_AT:
        claimed = claimed_commits(sources)
    else:
        raws = [None if source is None else source.get(part) for source in sources]
        claimed = [None if raw is None or bytes(raw) == b"null" else bytes(raw).decode()[:80] for raw in raws]
    rows = [i for i in np.flatnonzero(_nulls(times)).tolist() if claimed[i] is not None]
    reason = "no changed_at: what its source has is no time of a commit"
    return [Fault(changed_at, reason, np.array(rows, np.int64), tuple(str(claimed[i]) for i in rows))]


def unavailable(values: pa.Array) -> NDArray[np.bool_]:
    """Which cells are the connector's placeholder."""
    return np.asarray(pc.fill_null(pc.is_in(values.storage.field(1), _PLACEHOLDERS), False))


def _still(
    name: str, gone: NDArray[np.bool_], contents: list[Row | None], found: list[Envelope]
) -> tuple[pa.Array, NDArray[np.bool_]]:
    """The cells of a column with what stood before the update in place of placeholders; and which stay
    without."""
    raws = [None if content is None else content.get(name) for content in contents]
    for i in np.flatnonzero(gone).tolist():
        before = found[i].before if i < len(found) else None
        raws[i] = None if before is None else before.get(name)
        gone[i] = raws[i] is None
    values = cells_of_json(raws)
    left = unavailable(values)
    if left.any():
        values = cells_of_json([None if out else raw for raw, out in zip(raws, left.tolist(), strict=True)])
    return values, gone | left


def _with_key(content: Row | None, envelope: Envelope, names: Sequence[str]) -> Row | None:
    """``content`` with the primary key of the message where it has none itself."""
    held = content or {}
    if all(name in held and bytes(held[name]) != b"null" for name in names):
        return content
    key = key_of(envelope, names)
    return {**held, **key} if key else content


def _content(envelope: Envelope) -> Row | None:
    """The row after a change, or what is known of it before it was deleted."""
    return envelope.after if envelope.after is not None else envelope.before


def _left_behind(
    upserts: Sequence[int],
    found: Sequence[Envelope],
    contents: Sequence[Row | None],
    schema: RowSchema,
    source: TableSource,
    columns: Mapping[str, DType],
) -> list[tuple[int, Row]]:
    """The updates that give their row another primary key, each with the key that it has left and what says
    when. Keys are compared as values: 1 and 1.0 of an int64 are one, however text is escaped."""
    names = source.primary_keys
    written: list[tuple[int, Row, Row]] = []
    for i in upserts:
        before, after = found[i].before, contents[i]
        if before is None or after is None:
            continue
        was = {name: before[name] for name in names if name in before}
        if len(was) < len(names) or any(bytes(value) == b"null" for value in was.values()):
            continue
        if not all(name in after and bytes(after[name]) == bytes(value) for name, value in was.items()):
            written.append((i, was, after))
    if not written:
        return []
    types = {name: columns[name] for name in names}
    was_key, was_bad = _key_hashes([was for _, was, _ in written], schema, source, types)
    now_key, now_bad = _key_hashes([after for _, _, after in written], schema, source, types)
    same = equal(was_key, now_key) & ~was_bad & ~now_bad
    changed_at, position = effective(source)
    when = [name for name in (changed_at, *position, source.available_at) if name is not None]
    return [
        (i, {name: after[name] for name in when if name in after} | was)
        for (i, was, after), one in zip(written, same.tolist(), strict=True)
        if not one
    ]


def _key_hashes(
    contents: Sequence[Row], schema: RowSchema, source: TableSource, types: Mapping[str, DType]
) -> tuple[Hashes, NDArray[np.bool_]]:
    """The primary keys of some rows as hashes of their values, and which hold something that is none."""
    raw: dict[str, pa.Array] = {}
    for name in types:
        values = cells_of_json([content.get(name) for content in contents])
        read = schema[name].read if name in schema else None
        raw[name] = values if read is None else read(values)
    cast = cast_table(pa.table(raw), types, timezone=source.timezone, time_unit=source.time_unit)
    bad = np.zeros(len(contents), np.bool_) if cast.bad is None else cast.bad
    return hashes(cast.table, list(types)), bad


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
        gone = unavailable(values)
        if gone.any():
            values = cells_of_json(
                [None if out else (content or {}).get(name)
                 for content, out in zip(contents, gone.tolist(), strict=True)]
            )  # fmt: skip
        before = set(column.kinds)
        column.see(values)
        if column.clash is None:
            continue
        row = run[odd_row(values, before)][0] + 1
        both = " and ".join(column.clash)
        way_out = f'declare its type: columns={{"{name}": "string", ...}}; or repair the files'
        if name in times:
            way_out = "a time is written in one way throughout: repair the files"
        raise LogError(
            f'column "{name}" holds both {both} in log file "{file.shown}", row {row:,}', hint=way_out
        )


def _nulls(values: pa.Array) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.asarray(values.is_null())
