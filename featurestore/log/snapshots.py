"""Daily snapshots of a whole table as changes: what differs, by primary key, from the snapshot before.

Time: a snapshot of a day shows the table at the end of that day in the source's zone, the first instant of
the next local date; that instant is ``changed_at`` and position of every difference, and a deletion's
``available_at``.

A day without a snapshot says nothing. A snapshot is there when a file of its day is, with rows or without;
one without rows deletes all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.dsl.log import JSONLines
from featurestore.dsl.table_source import TableSource
from featurestore.dtypes import DATE, DType, date_text
from featurestore.errors import DefinitionError, LogError, suggestion
from featurestore.kernel.changes import DELETE, OPERATION_COLUMN, UPSERT
from featurestore.log import literals
from featurestore.log.arrays import CASTS, converted, family
from featurestore.log.cast import Cast, cast_table
from featurestore.log.change_columns import CHANGED_AT, SNAPSHOT_POSITION, snapshot_date
from featurestore.log.change_rows import Changes, Rejections, null_rows
from featurestore.log.files import LogFile, list_files
from featurestore.log.key_hashes import Hashes, equal, hashes, no_hashes, places, sorting
from featurestore.log.scan import RawBatch, scan
from featurestore.log.zones import zone

Bools = NDArray[np.bool_]
I64 = NDArray[np.int64]

_DAY_US = 86_400_000_000
_WAY_OUT = (
    "snapshots lie in directories ds=YYYY-MM-DD or have a column ds of dates; changed_at= names another"
)


@dataclass(frozen=True)
class _Snapshot:
    """The rows of one day, one a primary key, by the hash of it: their hashes and where they are in
    ``table``."""

    table: pa.Table
    keys: Hashes
    contents: Hashes
    rows: I64


def without_date(
    source: TableSource, raw: Mapping[str, pa.DataType], root: Path, files: Sequence[LogFile] | None
) -> dict[str, pa.DataType]:
    """``raw`` without the column of the day; an error where neither that nor the files' directories tell
    it."""
    assert source.log is not None
    name = snapshot_date(source)
    files = list_files(source.log, root) if files is None else files
    if any(_of_directory(file, name) is None for file in files):
        if name not in raw:
            raise DefinitionError(
                f'source "{source.name}": no column "{name}" in its log (the day of a snapshot)',
                hint=f"{_WAY_OUT}; {suggestion(name, raw, what='columns')}",
            )
        if family(raw[name]) not in CASTS["date"]:
            raise DefinitionError(
                f'source "{source.name}": column "{name}" holds {raw[name]}, which are no dates',
                hint=_WAY_OUT,
            )
    return {column: arrow for column, arrow in raw.items() if column != name}


def differences(
    source: TableSource,
    entity_keys: Sequence[str],
    columns: Mapping[str, DType],
    root: Path,
    files: Sequence[LogFile] | None,
) -> Iterator[Changes]:
    """The changes from each snapshot to the next, the first one's from nothing; before them, for each part of
    a snapshot with bad rows, a table of none that counts these."""
    assert source.log is not None
    files = list_files(source.log, root) if files is None else files
    days, undated = _files_of_days(source, root, files, columns)
    yield from undated
    row_columns = {
        name: dtype for name, dtype in columns.items() if name not in (CHANGED_AT, *SNAPSHOT_POSITION)
    }
    before: _Snapshot | None = None
    for day in sorted(days):
        parts: list[pa.Table] = []
        origin: list[tuple[RawBatch, I64]] = []
        unread = [no_hashes()]
        for table, batch, rows, rejected, keys in _rows(source, day, days[day], row_columns, root):
            if rejected is not None:
                yield _nothing_but(rejected, columns, batch)
                unread.append(keys)
            parts.append(table)
            origin.append((batch, rows))
        table = pa.concat_tables(parts) if parts else _empty(row_columns)
        if before is not None:
            table = pa.concat_tables([table, _still(before, np.concatenate(unread), table, source)])
        now, twice = _by_key(table, source, row_columns)
        yield from _reported(twice, origin, day, columns)
        yield _difference(before, now, day, source, entity_keys, columns, days[day][0])
        before = now


def days_of(
    source: TableSource, columns: Mapping[str, DType], root: Path, files: Sequence[LogFile]
) -> dict[int, list[LogFile]]:
    """Each day with a snapshot (as days since 1970) and its files."""
    return _files_of_days(source, root, files, columns)[0]


def _rows(
    source: TableSource, day: int, files: Sequence[LogFile], columns: Mapping[str, DType], root: Path
) -> Iterator[tuple[pa.Table, RawBatch, I64, Rejections | None, Hashes]]:
    """The good rows of a day, cast, and which rows of their files they are; what is rejected, with its
    keys."""
    assert source.log is not None
    name = snapshot_date(source)
    for batch in scan(source.log, root, [*columns, name], with_rows(source, root, files)):
        table = batch.table
        rows = np.arange(batch.first_row, batch.first_row + table.num_rows, dtype=np.int64)
        if _of_directory(batch.file, name) is None:
            of_day = _days(table, name, source)[0] == day
            table, rows = table.filter(pa.array(of_day)), rows[of_day]
        cast = cast_table(table, columns, timezone=source.timezone, time_unit=source.time_unit)
        judged = _judged(cast, source, rows)
        if judged.left.all():
            yield cast.table, batch, rows, None, no_hashes()
        else:
            good = pa.array(judged.left)
            keys = hashes(cast.table.filter(pc.invert(good)), source.primary_keys)
            yield cast.table.filter(good), batch, rows[judged.left], judged, keys


def _still(before: _Snapshot, unread: Hashes, table: pa.Table, source: TableSource) -> pa.Table:
    """The rows of the snapshot before whose rows in this one can't be read: they are there, so they stay."""
    unread = unread[sorting(unread)]
    good = hashes(table, source.primary_keys) if len(unread) else unread
    good = good[sorting(good)]
    stay = places(unread, before.keys)[1] & ~places(good, before.keys)[1]
    return before.table.take(pa.array(before.rows[stay]))


def _judged(cast: Cast, source: TableSource, rows: I64) -> Rejections:
    judged = Rejections(rows)
    for fault in cast.faults:
        out = np.zeros(len(rows), np.bool_)
        out[fault.rows] = True
        judged.reject(fault.reason, out, dict(fault.details()))
    for name in source.primary_keys:
        judged.reject(f'no primary key: column "{name}" is null', null_rows(cast.table.column(name)))
    return judged


def _by_key(
    table: pa.Table, source: TableSource, columns: Mapping[str, DType]
) -> tuple[_Snapshot, list[tuple[int, bool]]]:
    """The snapshot by primary key. Of rows of one key and different contents the greatest counts; all of them
    are told: (row of ``table``, whether it counts)."""
    keys = hashes(table, source.primary_keys)
    contents = hashes(table, [name for name in columns if name != source.available_at])
    order = sorting(keys, contents)
    keys, contents = keys[order], contents[order]
    new_key, new_content = ~equal(keys[1:], keys[:-1]), ~equal(contents[1:], contents[:-1])
    last = np.append(new_key, True)[: len(keys)]
    distinct = np.flatnonzero(np.append(True, new_key | new_content)[: len(keys)])
    twice: list[tuple[int, bool]] = []
    run = np.cumsum(np.append(0, new_key))[: len(keys)][distinct]
    if len(distinct) > int(last.sum()):
        several = np.flatnonzero(np.bincount(run) > 1)
        greatest = np.append(run[1:] != run[:-1], True)
        told = np.isin(run, several)
        twice = [(int(order[i]), bool(g)) for i, g in zip(distinct[told], greatest[told], strict=True)]
    return _Snapshot(table, keys[last], contents[last], order[last]), twice


def _difference(
    before: _Snapshot | None,
    now: _Snapshot,
    day: int,
    source: TableSource,
    entity_keys: Sequence[str],
    columns: Mapping[str, DType],
    file: LogFile,
) -> Changes:
    old_keys = before.keys if before is not None else no_hashes()
    place, there = places(old_keys, now.keys)
    changed = ~there
    if before is not None:
        changed[there] = ~equal(before.contents[place[there]], now.contents[there])
    rows = now.table.take(pa.array(np.sort(now.rows[changed])))
    keyless = np.zeros(rows.num_rows, np.bool_)
    for name in entity_keys:
        keyless |= null_rows(rows.column(name))
    parts = [_changes_table(rows, UPSERT, columns, day, source)]
    if before is not None:
        gone = ~places(now.keys, old_keys)[1]
        keys = before.table.select(list(source.primary_keys)).take(pa.array(np.sort(before.rows[gone])))
        parts.append(_changes_table(keys, DELETE, columns, day, source))
    made = pa.concat_tables(parts).combine_chunks()
    # A difference is of two rows, so it is in no one place.
    nowhere = np.full(made.num_rows, -1, np.int64)
    return Changes(made, keyless=int(keyless.sum()), file=file, rows=nowhere)


def _changes_table(
    rows: pa.Table, operation: int, columns: Mapping[str, DType], day: int, source: TableSource
) -> pa.Table:
    """``rows`` with null for the columns that they lack, the end of their day and what is done."""
    at = np.full(rows.num_rows, _end_of(day, source), np.int64)
    arrays: list[pa.Array | pa.ChunkedArray] = []
    for name, dtype in columns.items():
        if name == CHANGED_AT:
            arrays.append(pa.array(at).view(dtype.arrow))
        elif name in SNAPSHOT_POSITION:
            arrays.append(pa.array(at))
        elif name in rows.column_names:
            arrays.append(rows.column(name))
        elif name == source.available_at and operation == DELETE:
            # No row says it: that a row is gone is known when the snapshot without it is.
            arrays.append(pa.array(at).view(dtype.arrow))
        else:
            arrays.append(pa.nulls(rows.num_rows, dtype.arrow))
    arrays.append(pa.array(np.full(rows.num_rows, operation, np.int64)))
    return pa.Table.from_arrays(arrays, names=[*columns, OPERATION_COLUMN])


def _end_of(day: int, source: TableSource) -> int:
    local = np.array([(day + 1) * _DAY_US], np.int64)
    return int(zone(source.timezone).to_utc(local)[0])


def _files_of_days(
    source: TableSource, root: Path, files: Sequence[LogFile], columns: Mapping[str, DType]
) -> tuple[dict[int, list[LogFile]], list[Changes]]:
    """Each day with a snapshot (as days since 1970) and its files; what is said of rows without a day."""
    assert source.log is not None
    name = snapshot_date(source)
    days: dict[int, list[LogFile]] = {}
    undated: list[Changes] = []
    for file in files:
        text = _of_directory(file, name)
        if text is not None:
            days.setdefault(_day(text, file, name), []).append(file)
            continue
        found: set[int] = set()
        for batch in scan(source.log, root, [name], [file]):
            of_rows, judged = _days(batch.table, name, source, batch.first_row)
            found |= set(np.unique(of_rows[judged.left]).tolist())
            if not judged.left.all():
                undated.append(_nothing_but(judged, columns, batch))
        for day in sorted(found):
            days.setdefault(day, []).append(file)
    return days, undated


def _days(table: pa.Table, name: str, source: TableSource, first_row: int = 0) -> tuple[I64, Rejections]:
    """The day of each row, and which rows have none."""
    judged = Rejections(np.arange(first_row, first_row + table.num_rows, dtype=np.int64))
    nowhere = np.full(table.num_rows, np.iinfo(np.int64).min)
    if name not in table.column_names:
        judged.reject(f'no day: column "{name}" is missing', np.ones(table.num_rows, np.bool_))
        return nowhere, judged
    values, bad = converted(table.column(name).combine_chunks(), DATE, zone(source.timezone), None)
    if bad is not None:
        judged.reject(f'column "{name}" holds no date', bad)
    judged.reject(f'no day: column "{name}" is null', null_rows(values))
    days = np.asarray(pc.cast(pc.fill_null(values, pa.scalar(0, pa.date32())), pa.int32())).astype(np.int64)
    return np.where(judged.left, days, nowhere), judged


def with_rows(source: TableSource, root: Path, files: Sequence[LogFile] | None) -> list[LogFile]:
    """The files (default: all of the log's now) without those of JSON lines that are nothing but the day of
    their directory: a table without rows is no line."""
    assert source.log is not None
    files = list_files(source.log, root) if files is None else files
    name = snapshot_date(source)
    lines = isinstance(source.log, JSONLines)
    return [file for file in files if file.size or not lines or _of_directory(file, name) is None]


def _of_directory(file: LogFile, name: str) -> str | None:
    """What the file's directories say of its day."""
    for part in reversed(file.shown.split("/")[:-1]):
        column, equals, value = part.partition("=")
        if equals and unquote(column) == name:
            return unquote(value)
    return None


def _day(text: str, file: LogFile, name: str) -> int:
    days, good = literals.dates(pa.array([text]))
    if not good[0]:
        raise LogError(f'log file "{file.shown}" lies in {name}={text}, which is no date', hint=_WAY_OUT)
    return int(days[0])


def _reported(
    twice: list[tuple[int, bool]], origin: list[tuple[RawBatch, I64]], day: int, columns: Mapping[str, DType]
) -> Iterator[Changes]:
    """Both of two rows of one primary key are listed, the one that doesn't count is counted."""
    if not twice:
        return
    reason = f"another row of its primary key in the snapshot of {date_text(day)}"
    low = 0
    for batch, rows in origin:
        here = sorted((int(rows[row - low]), counts) for row, counts in twice if low <= row < low + len(rows))
        low += len(rows)
        if here:
            details = tuple(
                (row, f"{reason}: {'this' if counts else 'that'} one counts") for row, counts in here
            )
            left_out = sum(not counts for _, counts in here)
            reasons = {reason: left_out} if left_out else {}
            yield Changes(_empty_changes(columns), details[:1000], reasons, file=batch.file)


def _nothing_but(rejected: Rejections, columns: Mapping[str, DType], batch: RawBatch) -> Changes:
    return Changes(
        _empty_changes(columns),
        rejected.details,
        dict(rejected.reasons),
        file=batch.file,
        first_row=batch.first_row,
    )


def _empty(columns: Mapping[str, DType]) -> pa.Table:
    return pa.schema([pa.field(name, dtype.arrow) for name, dtype in columns.items()]).empty_table()


def _empty_changes(columns: Mapping[str, DType]) -> pa.Table:
    return _empty(columns).append_column(OPERATION_COLUMN, pa.array([], pa.int64()))
