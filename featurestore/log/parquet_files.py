"""Parquet files, read by Arrow: its types reach ``cast`` as they were written, nanoseconds and unsigned
integers too.

Time: none. INT96, the timestamps of old writers, are read in microseconds, which holds every year.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.dsl.log import Parquet
from featurestore.errors import LogError
from featurestore.log.engine import BATCH_ROWS
from featurestore.log.files import LogFile, unreadable


def schema(log: Parquet, file: LogFile) -> pa.Schema:
    """The file's columns and their types."""
    with _open(file) as parquet:
        return _named_once(parquet.schema_arrow, file)


def tables(log: Parquet, file: LogFile, columns: Sequence[str]) -> Iterator[pa.Table]:
    """The file's rows in order: one table a row group, or several of a row group that is too large to hold at
    once."""
    with _open(file) as parquet:
        present = [name for name in columns if name in _named_once(parquet.schema_arrow, file).names]
        for group in range(parquet.num_row_groups):
            rows = parquet.metadata.row_group(group).num_rows
            if not present:
                yield pa.table({"": pa.nulls(rows)}).select([])
            elif rows <= 2 * BATCH_ROWS:
                yield parquet.read_row_group(group, columns=present)
            else:
                for batch in parquet.iter_batches(BATCH_ROWS, row_groups=[group], columns=present):
                    yield pa.Table.from_batches([batch])


@contextmanager
def _open(file: LogFile) -> Iterator[pq.ParquetFile]:
    """The open file; whatever Arrow finds wrong with its bytes while it is open is a LogError."""
    if file.size == 0:
        raise LogError(f'log file "{file.shown}" is empty (0 bytes): no Parquet file', hint=_WAY_OUT)
    try:
        with pq.ParquetFile(file.path, coerce_int96_timestamp_unit="us", pre_buffer=True) as parquet:
            yield parquet
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, (FileNotFoundError, PermissionError)):
            raise unreadable(file.shown, error) from error
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LogError(
            f'log file "{file.shown}" is truncated, damaged or no Parquet file: {said}',
            hint=_WAY_OUT,
        ) from error


_WAY_OUT = (
    "write it again, or move it out of the log's path; a file that is still being written belongs elsewhere"
)


def _named_once(found: pa.Schema, file: LogFile) -> pa.Schema:
    twice = next((name for name in found.names if found.names.count(name) > 1), None)
    if twice is not None:
        raise LogError(
            f'log file "{file.shown}" has two columns "{twice}"', hint="write it with one of each name"
        )
    return found
