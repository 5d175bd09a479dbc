"""The rows of a log as Arrow tables of bounded size, as they are in the files, file by file.

Time: none is interpreted here; ``cast`` does that. The order of rows influences no value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.dsl.log import CSV, DuckDBTable, JSONLines, Log, Parquet
from featurestore.log import csv_files, duckdb_tables, json_lines, parquet_files
from featurestore.log.files import LogFile, list_files

# In an archive's files, where each row is from.
OFFSET = "__offset"


@dataclass(frozen=True)
class RawBatch:
    """Rows as the log holds them. ``first_row`` is the position in ``file`` of the first, counted from 0
    without header and blank lines; the others follow it."""

    table: pa.Table
    file: LogFile
    first_row: int


def scan(
    log: Log, root: Path, columns: Sequence[str], files: Sequence[LogFile] | None = None
) -> Iterator[RawBatch]:
    """The ``columns`` of every row of ``files`` (default: all of the log's now), at most about a million rows
    a table.

    A column that a file lacks is missing in its tables. Types are the file's own; text of CSV and cells of
    JSON lines wait for ``cast``.
    """
    wanted = list(dict.fromkeys(columns))
    for file in list_files(log, root) if files is None else files:
        first_row = 0
        for table in _tables(log, file, wanted):
            yield RawBatch(_with_partitions(table, file, wanted), file, first_row)
            first_row += table.num_rows


def _tables(log: Log, file: LogFile, wanted: list[str]) -> Iterator[pa.Table]:
    if file.from_offset < 0:
        yield from _reader(log)(log, file, wanted)
        return
    for table in _reader(log)(log, file, [*wanted, OFFSET]):
        own = pc.greater_equal(table.column(OFFSET), file.from_offset)
        yield table.filter(own).select([name for name in table.column_names if name != OFFSET])


def _reader(log: Log) -> Callable[..., Iterator[pa.Table]]:
    match log:
        case Parquet():
            return parquet_files.tables
        case CSV():
            return csv_files.tables
        case JSONLines():
            return json_lines.tables
        case DuckDBTable():
            return duckdb_tables.tables


def _with_partitions(table: pa.Table, file: LogFile, wanted: Sequence[str]) -> pa.Table:
    """``table`` with the columns that its file's directories hold, where the file itself has none of that
    name."""
    for name, value in file.partitions:
        if name in wanted and name not in table.column_names:
            table = table.append_column(name, pa.repeat(pa.scalar(value, pa.string()), table.num_rows))
    return table
