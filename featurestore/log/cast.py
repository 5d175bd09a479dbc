"""From what a log holds, or what was pushed, to canonical values: the one gate through which data enters.

Time: instants are whole microseconds UTC, finer ones floored (before 1970 too). A naive time is read in the
source's zone: ambiguous is the earlier instant, nonexistent uses the offset before the gap.

A value that its declared type cannot hold is a fault of its row: the cell becomes null and the row is marked.
Nothing is rounded to fit, with one exception: an integer or a decimal literal that becomes a float64 is the
nearest one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.dtypes import DType
from featurestore.log.arrays import converted
from featurestore.log.cells import CELL, cells_of
from featurestore.log.zones import zone

_SHOWN_FAULTS = 1000
_SHOWN_CHARACTERS = 80


@dataclass(frozen=True)
class Fault:
    """Rows that one column keeps out. ``rows`` are positions in the table that was cast, ascending; ``shown``
    is the text of the values of the first of them."""

    column: str
    reason: str
    rows: NDArray[np.int64]
    shown: tuple[str, ...]

    def details(self) -> Iterator[tuple[int, str]]:
        """(row, why) for the first rows, with the value."""
        for row, value in zip(self.rows.tolist(), self.shown, strict=False):
            yield row, f"{self.reason}: {value}"


@dataclass(frozen=True)
class Cast:
    """Canonical columns of the same rows as what was cast. ``bad`` marks the rows that ``faults`` keep out;
    None for none."""

    table: pa.Table
    bad: NDArray[np.bool_] | None = None
    faults: tuple[Fault, ...] = ()

    @property
    def reasons(self) -> list[tuple[int, str]]:
        """(row, why) of the first faults of each column, by row."""
        return sorted(detail for fault in self.faults for detail in fault.details())


def cast_table(raw: pa.Table, columns: Mapping[str, DType], *, timezone: str, time_unit: str | None) -> Cast:
    """The ``columns`` of ``raw``, each as the canonical array of its type; one chunk each.

    A column that ``raw`` lacks is null. Columns that are canonical already are passed on without a copy.
    """
    out: list[pa.Array] = []
    faults: list[Fault] = []
    for name, dtype in columns.items():
        index = raw.schema.get_field_index(name)
        if index < 0:
            out.append(pa.nulls(raw.num_rows, dtype.arrow))
            continue
        array = _one_chunk(raw.column(index))
        values, bad = converted(array, dtype, zone(timezone), time_unit)
        if bad is not None:
            rows = np.flatnonzero(bad)
            first = array.take(pa.array(rows[:_SHOWN_FAULTS]))
            faults.append(Fault(name, _reason(name, dtype), rows, tuple(_shown(first))))
        out.append(values)
    return _cast(out, columns, faults, raw.num_rows)


def cast_rows(
    rows: Sequence[Mapping[str, object]],
    columns: Mapping[str, DType],
    *,
    timezone: str,
    time_unit: str | None,
) -> Cast:
    """Rows of Python values, as a JSON parser gives them, by the same rules as a JSON lines log.

    A missing key is null. A key that is no column is a fault. A float stands for its shortest digits;
    ``decimal.Decimal`` carries more of them. Also taken: bytes, and the datetime, date and UUID classes of
    the standard library.
    """
    out: list[pa.Array] = []
    faults: list[Fault] = []
    for name, dtype in columns.items():
        given = [row.get(name) for row in rows]
        values, bad = converted(cells_of(given), dtype, zone(timezone), time_unit)
        if bad is not None:
            at = np.flatnonzero(bad)
            shown = tuple(_written(given[row]) for row in at[:_SHOWN_FAULTS].tolist())
            faults.append(Fault(name, _reason(name, dtype), at, shown))
        out.append(values)
    unknown: dict[str, list[int]] = {}
    for row, keys in enumerate(rows):
        for key in keys:
            if key not in columns:
                unknown.setdefault(str(key), []).append(row)
    for key, found in unknown.items():
        shown = tuple(_written(rows[row][key]) for row in found[:_SHOWN_FAULTS])
        faults.append(
            Fault(key, f'no column "{_short(key)}" in the source', np.array(found, np.int64), shown)
        )
    return _cast(out, columns, faults, len(rows))


def _cast(arrays: list[pa.Array], columns: Mapping[str, DType], faults: list[Fault], rows: int) -> Cast:
    schema = pa.schema([pa.field(name, dtype.arrow) for name, dtype in columns.items()])
    table = pa.Table.from_arrays(arrays, schema=schema)
    if not faults:
        return Cast(table)
    bad = np.zeros(rows, np.bool_)
    for fault in faults:
        bad[fault.rows] = True
    return Cast(table, bad, tuple(faults))


def _reason(name: str, dtype: DType) -> str:
    return f'column "{name}" holds no {dtype}'


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.array([], column.type) if column.num_chunks == 0 else pa.concat_arrays(column.chunks)


def _shown(values: pa.Array) -> Iterator[str]:
    """The values as a person reads them: text as it is, damaged text too; a time beyond Python's calendar as
    Arrow's."""
    if values.type == CELL:
        values = values.storage.field(1)
    if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        values = pc.cast(values, pa.string(), safe=False)
    if pa.types.is_string(values.type):
        values = values.view(pa.binary())
        return (_short(repr((value or b"").decode("utf-8", "replace"))) for value in values.to_pylist())
    return (_short(repr(value.as_py())) for value in values)


def _written(value: object) -> str:
    try:
        return _short(repr(value))
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "an integer of thousands of digits"


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."
