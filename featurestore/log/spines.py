"""Spines read from files: Parquet, CSV or JSON lines, told by their suffix."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import pyarrow as pa

from featurestore.dsl.log import CSV, JSONLines, Log, Parquet
from featurestore.dtypes import STRING, TIMESTAMP, from_arrow
from featurestore.errors import LogError
from featurestore.log.cast import cast_table
from featurestore.log.files import LogFile, list_files
from featurestore.log.scan import scan
from featurestore.log.schema import raw_schema

KINDS = {".parquet": Parquet, ".csv": CSV, ".jsonl": JSONLines, ".ndjson": JSONLines}


def file_log(path: Path) -> Log:
    """The log that one file is, by its suffix."""
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise LogError(f'"{path}" is of no known kind', hint=f"name a file that ends in {', '.join(KINDS)}")
    made: Log = kind(str(path))
    return made


def spine_files(path: Path, root: Path) -> tuple[LogFile, ...]:
    """The file that a path names; several, by name, for a pattern."""
    return list_files(file_log(path), root)


def read_spine(
    path: Path, root: Path, texts: Collection[str] = (), files: Sequence[LogFile] | None = None
) -> pa.Table:
    """A file as a table, rows in order. Text files get the types that all of their values have; times of day
    are left as text there, so that a zone is asked for where they have none, and so are the columns
    ``texts``. ``files`` (default: ``spine_files``) are what is read."""
    log = file_log(path)
    files = list_files(log, root) if files is None else files
    raw = raw_schema(log, root, files=files)
    tables = [batch.table for batch in scan(log, root, list(raw), files)]
    if isinstance(log, Parquet):
        return (
            pa.concat_tables(tables)
            if tables
            else pa.table({name: pa.array([], kind) for name, kind in raw.items()})
        )
    types = {name: from_arrow(kind) or STRING for name, kind in raw.items()}
    types = {
        name: STRING if dtype == TIMESTAMP or (name in texts and isinstance(log, CSV)) else dtype
        for name, dtype in types.items()
    }
    parts = [cast_table(table, types, timezone="UTC", time_unit=None).table for table in tables]
    return (
        pa.concat_tables(parts)
        if parts
        else pa.table({name: pa.array([], t.arrow) for name, t in types.items()})
    )
