"""The request log's files: what a server answered, a row for each value, as Parquet.

Time: ``answered_at`` is when the answer was given, ``as_of`` and ``known_at`` what it was asked about; an
absent ``as_of`` is logged as the instant that it meant. Values and keys are JSON that carries their bits, as
in the answer; a key's types stand beside it. So one layout holds the answers of every view, and dictionaries
make it small.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.errors import LogError
from featurestore.log.durable import sync_folder, write_whole

_INSTANT = pa.timestamp("us", "UTC")

SCHEMA = pa.schema(
    [
        ("answered_at", _INSTANT),
        ("request_id", pa.string()),
        ("store_id", pa.string()),
        ("store_commit", pa.int64()),
        ("view", pa.string()),
        ("version", pa.int64()),
        ("feature", pa.string()),
        ("type", pa.string()),
        ("keys", pa.string()),
        ("key_types", pa.string()),
        ("as_of", _INSTANT),
        # Null: everything known; "as_of"; or an instant, ISO 8601.
        ("known_at", pa.string()),
        ("value", pa.string()),
        ("status", pa.string()),
        ("event_timestamp", _INSTANT),
    ]
)

# What a writer that was killed has left is nobody's after an hour: writing takes a second.
_LEFTOVER_US = 3_600_000_000


def write_answers(directory: Path, name: str, answers: pa.Table) -> Path:
    """Write a file of answers, and return when it is on the disk."""
    return write_whole(directory, name, lambda file: pq.write_table(answers, file, compression="zstd"))


def rewrite_answers(file: Path, answers: pa.Table) -> None:
    """Put other answers in the place of a file's own; none: the file goes."""
    if answers.num_rows:
        write_answers(file.parent, file.name, answers)
    else:
        file.unlink(missing_ok=True)
        sync_folder(file.parent)


def request_files(directory: Path) -> list[Path]:
    """A request log's files, oldest first; none where there is no directory."""
    return sorted(path for path in directory.glob("*.parquet") if not path.name.startswith("."))


def remove_leftovers(directory: Path, now_us: int) -> None:
    """Remove what killed writers have begun."""
    for path in directory.glob(".*.parquet.*"):
        with suppress(OSError):
            if path.stat().st_mtime_ns // 1000 < now_us - _LEFTOVER_US:
                os.unlink(path)


def read_answers(file: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A file's answers; LogError for one that is no file of a request log."""
    try:
        with pq.ParquetFile(file) as opened:
            if not set(SCHEMA.names) <= set(opened.schema_arrow.names):
                raise LogError(
                    f'"{file.name}" is no file of a request log', hint="move it out of the log's directory"
                )
            table = opened.read(columns=list(SCHEMA.names if columns is None else columns))
    except (pa.ArrowException, OSError) as error:
        raise LogError(f'request log "{file.name}" can\'t be read: {error}', hint="remove it") from None
    return table.cast(pa.schema([SCHEMA.field(name) for name in table.column_names]))
