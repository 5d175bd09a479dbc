"""Files that are pushed: read like a source's log of the same kind, but a broken JSON line keeps out itself
only.

Time: none is interpreted here.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.dsl.log import CSV, JSONLines, Log, Parquet
from featurestore.errors import RequestError
from featurestore.log.cells import cells_of_json
from featurestore.log.files import list_files, unreadable
from featurestore.log.scan import scan
from featurestore.plan.nodes import SourcePlan

Row = dict[str, msgspec.Raw]
PushedTable = tuple[pa.Table, NDArray[np.int64], Sequence[tuple[int, str]]]

_LINES = 20_000
_DECODER = msgspec.json.Decoder(dict[str, msgspec.Raw])


def pushed_tables(path: Path, columns: Sequence[str], plan: SourcePlan) -> Iterator[PushedTable]:
    """Some rows at a time: the raw table, the number of each row, and the lines that are no rows, with the
    reason."""
    log = _kind(path, plan)
    if isinstance(log, JSONLines):
        yield from _json_lines(path, columns)
        return
    # The path's parent as the root: names in errors are short.
    files = list_files(log, path.parent)
    for batch in scan(log, path.parent, columns, files):
        first = batch.first_row + 1
        yield batch.table, np.arange(first, first + batch.table.num_rows), ()


def _kind(path: Path, plan: SourcePlan) -> Log:
    name = path.name.lower().removesuffix(".gz")
    if not path.is_file():
        raise RequestError(f'file "{path}" does not exist', hint="name a .jsonl, .csv or .parquet file")
    if name.endswith((".jsonl", ".ndjson", ".json")):
        return JSONLines(path.name)
    if name.endswith((".csv", ".tsv", ".txt")):
        # The log's own dialect, where it is CSV too.
        if isinstance(plan.log, CSV):
            return CSV(path.name, plan.log.delimiter, plan.log.header, plan.log.quote, plan.log.null_values,
                       plan.log.columns)  # fmt: skip
        return CSV(path.name, delimiter="\t" if name.endswith(".tsv") else ",")
    if name.endswith((".parquet", ".parq", ".pq")):
        return Parquet(path.name, hive_partitioning=False)
    raise RequestError(
        f'file "{path.name}" is of no kind that can be pushed', hint="kinds are .jsonl, .csv, .parquet"
    )


def pushed_messages(path: Path, plan: SourcePlan) -> Iterator[list[tuple[int, bytes, Row | None]]] | None:
    """A file of JSON lines, some lines at a time: number, text and members of each, None for what is no
    object. None: it is a file of another kind."""
    if not isinstance(_kind(path, plan), JSONLines):
        return None
    return _messages(path)


def _messages(path: Path) -> Iterator[list[tuple[int, bytes, Row | None]]]:
    lines = _lines(path)
    while some := list(islice(lines, _LINES)):
        found: list[tuple[int, bytes, Row | None]] = []
        for number, text in some:
            try:
                found.append((number, text, _DECODER.decode(text)))
            except (msgspec.DecodeError, RecursionError):
                found.append((number, text, None))
        yield found


def _json_lines(path: Path, columns: Sequence[str]) -> Iterator[PushedTable]:
    lines = _lines(path)
    while some := list(islice(lines, _LINES)):
        rows: list[Row] = []
        numbers: list[int] = []
        refused: list[tuple[int, str]] = []
        for number, text in some:
            try:
                rows.append(_DECODER.decode(text))
                numbers.append(number)
            except (msgspec.DecodeError, RecursionError) as error:
                refused.append((number, f"no JSON object ({_said(error)})"))
        yield table_of(rows, columns), np.array(numbers, np.int64), refused


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers."""
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if text.strip():
                    yield number, text
    except (EOFError, gzip.BadGzipFile) as error:
        raise RequestError(f'file "{path.name}" is cut off: {error}', hint="write it again") from error
    except OSError as error:
        raise unreadable(path.name, error) from error


def _said(error: Exception) -> str:
    return str(error).removeprefix("JSON is malformed: ")


def table_of(rows: Sequence[Row], columns: Sequence[str]) -> pa.Table:
    """Members of JSON objects as columns of cells."""
    arrays = [cells_of_json([row.get(name) for row in rows]) for name in columns]
    return pa.Table.from_arrays(arrays, names=list(columns))
