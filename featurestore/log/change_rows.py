"""Changes: a mutation log's rows after the first step of the order of work, the rejection of bad input.

Time: ``changed_at`` is a canonical instant here, as are ``event_time`` and ``available_at``; nulls of these
two are no fault. Nothing else is filtered, and nothing is sorted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.dsl.table_source import TableSource
from featurestore.dtypes import DType
from featurestore.kernel.changes import CLAIM_COLUMN, OPERATION_COLUMN, TRUNCATE, UPSERT
from featurestore.log.cast import Cast, Fault, cast_table
from featurestore.log.cells import CELL
from featurestore.log.change_columns import effective, own_columns
from featurestore.log.files import LogFile
from featurestore.log.operations import IGNORED, UNKNOWN, claims_of, meanings
from featurestore.log.positions import positions

_SHOWN_REJECTED = 1000
_MAP_IT = "map it to r, c, u, d, t or m (ignore) with operations="

Bools = NDArray[np.bool_]
I64 = NDArray[np.int64]


@dataclass(frozen=True)
class RawChanges:
    """Rows as a log holds them, each a change. ``table`` has raw columns under the names of the changes
    table, ``operation`` says what each row does, ``words`` how the log says it. Row i of the table is row
    ``rows[i]`` of ``file``, or ``first_row + i``. ``ignored`` counts what came before that is no row of the
    table. ``entering`` marks updates that give their row another primary key: under it, the row is new. The
    rows ``of_before`` hold what was before the change: where an ``available_at`` among it is older than the
    commit, or null, it says nothing of when the change was known, and the commit's time stands. ``faults``
    are those that the format itself finds."""

    table: pa.Table
    operation: I64
    words: pa.Array
    file: LogFile | None = None
    first_row: int = 0
    rows: I64 | None = None
    ignored: int = 0
    entering: Bools | None = None
    of_before: Bools | None = None
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True)
class Changes:
    """The good changes as a changes table: the declared columns and ``__op`` (0: the row now has this
    content, 1: it is deleted, 2: the table is truncated).

    ``rejected`` lists (row of ``file``, why) of the first changes left out, ``reasons`` counts all of them by
    their first reason. ``keyless`` counts those with a null entity key, which stay: they end the change
    before them. ``ignored`` counts tombstones, messages and images of what was. Row i of the table is row
    ``rows[i]`` of ``file``, or ``first_row + i``; less than 0 where it is made of more than one. ``claims``
    marks updates and deletes, which say that their row was there before (None: there are none)."""

    table: pa.Table
    rejected: tuple[tuple[int, str], ...] = ()
    reasons: Mapping[str, int] = field(default_factory=dict)
    keyless: int = 0
    ignored: int = 0
    file: LogFile | None = None
    first_row: int = 0
    rows: I64 | None = None
    claims: Bools | None = None

    @property
    def rejected_count(self) -> int:
        return sum(self.reasons.values())

    def with_claims(self) -> pa.Table:
        """The table with ``CLAIM_COLUMN``."""
        claims = np.zeros(self.table.num_rows, np.bool_) if self.claims is None else self.claims
        return self.table.append_column(CLAIM_COLUMN, pa.array(claims))


class Rejections:
    """Which of some rows are left, and why the others are out: each counts under its first reason."""

    def __init__(self, rows: I64) -> None:
        self.left = np.ones(len(rows), np.bool_)
        self.reasons: Counter[str] = Counter()
        self._rows = rows
        self._details: list[tuple[int, str]] = []

    def reject(self, reason: str, out: Bools, shown: Mapping[int, str] | None = None) -> None:
        """Leave ``out`` rows out; ``shown`` has what is said of some of them."""
        out = out & self.left
        count = int(out.sum())
        if not count:
            return
        self.left &= ~out
        self.reasons[reason] += count
        first = np.flatnonzero(out)[:_SHOWN_REJECTED].tolist()
        self._details += [(int(self._rows[row]), (shown or {}).get(row, reason)) for row in first]

    @property
    def details(self) -> tuple[tuple[int, str], ...]:
        return tuple(sorted(self._details)[:_SHOWN_REJECTED])


def settled(
    raw: RawChanges, source: TableSource, entity_keys: Sequence[str], columns: Mapping[str, DType]
) -> Changes:
    """What is left of ``raw`` when bad input is rejected, with the ``columns`` cast.

    A change is rejected with an unknown operation, without ``changed_at`` or position, without primary key (a
    truncate needs none) or with a value that its type can't hold; in a delete or truncate, such values
    elsewhere than in what it needs become null.
    """
    changed_at, position = effective(source)
    cast = _cast(raw.table, source, columns, position)
    table, operation = _known(cast.table, raw, source, changed_at), raw.operation
    numbers = raw.rows
    if numbers is None:
        numbers = np.arange(raw.first_row, raw.first_row + table.num_rows, dtype=np.int64)
    judged = Rejections(numbers)
    ignored = operation == IGNORED
    judged.left &= ~ignored
    _reject_unknown(raw, source, judged)

    upsert, truncate = operation == UPSERT, operation == TRUNCATE
    for fault in (*raw.faults, *cast.faults):
        out = np.zeros(table.num_rows, np.bool_)
        out[fault.rows] = True
        if fault.column in source.primary_keys:
            out &= ~truncate
        elif fault.column not in (changed_at, *position):
            out &= upsert
        judged.reject(fault.reason, out, dict(fault.details()))
    own = own_columns(source)
    for name in source.primary_keys:
        judged.reject(f'no primary key: column "{name}" is null', null_rows(table.column(name)) & ~truncate)
    judged.reject(_nothing("changed_at", changed_at, own), null_rows(table.column(changed_at)))
    for name in position:
        judged.reject(_nothing("position", name, own), null_rows(table.column(name)))

    keyless = np.zeros(table.num_rows, np.bool_)
    for name in entity_keys:
        keyless |= null_rows(table.column(name))
    keyless &= judged.left & upsert
    table = table.append_column(OPERATION_COLUMN, pa.array(operation))
    claims = claims_of(raw.words, meanings(source))
    if raw.entering is not None:
        claims &= ~raw.entering
    whole = bool(judged.left.all())
    return Changes(
        table if whole else table.filter(pa.array(judged.left)),
        judged.details,
        dict(judged.reasons),
        int(keyless.sum()),
        int(ignored.sum()) + raw.ignored,
        raw.file,
        raw.first_row,
        raw.rows if whole else numbers[judged.left],
        claims if whole else claims[judged.left],
    )


def _cast(raw: pa.Table, source: TableSource, columns: Mapping[str, DType], position: Sequence[str]) -> Cast:
    """The ``columns`` of ``raw``, with positions read as positions."""
    others = {name: dtype for name, dtype in columns.items() if name not in position}
    cast = cast_table(raw, others, timezone=source.timezone, time_unit=source.time_unit)
    table, faults = cast.table, list(cast.faults)
    for name in position:
        if raw.schema.get_field_index(name) < 0:
            table = table.append_column(name, pa.nulls(raw.num_rows, pa.int64()))
            continue
        array = raw.column(name).combine_chunks()
        values, bad = positions(array)
        table = table.append_column(name, values)
        if bad is not None:
            rows = np.flatnonzero(bad)
            first = array.take(pa.array(rows[:_SHOWN_REJECTED]))
            faults.append(Fault(name, f'column "{name}" holds no position', rows, _shown(first)))
    return Cast(table.select(list(columns)), None, tuple(faults))


def _known(table: pa.Table, raw: RawChanges, source: TableSource, changed_at: str) -> pa.Table:
    name = source.available_at
    if raw.of_before is None or name is None or not raw.of_before.any():
        return table
    own, committed = table.column(name), table.column(changed_at)
    older = pc.fill_null(pc.less(own, committed), True)
    known = pc.if_else(pc.and_(pa.array(raw.of_before), older), committed, own)
    return table.set_column(table.schema.get_field_index(name), name, known)


def _reject_unknown(raw: RawChanges, source: TableSource, judged: Rejections) -> None:
    out = raw.operation == UNKNOWN
    if not out.any():
        return
    missing = null_rows(raw.words) & out
    judged.reject("no operation: it is null", missing)
    out &= ~missing
    first = np.flatnonzero(out)[:_SHOWN_REJECTED].tolist()
    shown = {row: f"operation {raw.words[row].as_py()[:80]!r} is unknown: {_MAP_IT}" for row in first}
    judged.reject(f"an operation is unknown: {_MAP_IT}", out, shown)


def _nothing(part: str, column: str, own: set[str]) -> str:
    if column in own:
        return f"no {part}"
    return f'no {part}: column "{column}" is null'


def _shown(values: pa.Array) -> tuple[str, ...]:
    if values.type == CELL:
        values = values.storage.field(1)
    return tuple(repr(value)[:80] for value in values.to_pylist())


def null_rows(column: pa.ChunkedArray | pa.Array) -> Bools:
    if column.null_count == 0:
        return np.zeros(len(column), np.bool_)
    nulls = pc.is_null(column)
    return np.asarray(nulls.combine_chunks() if isinstance(nulls, pa.ChunkedArray) else nulls)
