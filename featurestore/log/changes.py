"""A table source's mutation log as changes tables, in each of its formats.

Time: ``changed_at`` is the commit time at the origin, as the declaration or the format says; positions alone
order the changes of a row. The order of a log's rows and files influences nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from featurestore.dsl.table_source import TableSource
from featurestore.dtypes import INT64, DType
from featurestore.errors import DefinitionError, suggestion
from featurestore.log import debezium, delta, snapshots
from featurestore.log.arrays import family
from featurestore.log.change_columns import (
    CHANGE_TYPE,
    declared_change_columns,
    effective,
    inferred,
    own_columns,
)
from featurestore.log.change_rows import Changes, RawChanges, settled
from featurestore.log.files import LogFile
from featurestore.log.operations import meanings, operation_codes, words_of
from featurestore.log.scan import scan
from featurestore.log.schema import raw_schema, raw_types, stamped_columns

__all__ = ["Changes", "change_columns", "effective", "flat_changes", "read_changes"]


def change_columns(
    source: TableSource, entity_keys: Sequence[str], root: Path, files: Sequence[LogFile] | None = None
) -> dict[str, DType]:
    """The columns of the source's changes tables and their types, read from its log where it has one.

    They are the row's columns, as declared; ``changed_at`` and the position's; not ``__op``, which every
    changes table has at its end. A column that some files lack is null there; one of two types is a LogError.
    """
    if source.log is None:
        return declared_change_columns(source, _typed(source), entity_keys)
    if source.format == "debezium":
        raw = debezium.row_columns(source, root, files, inferred(source, entity_keys))
        return declared_change_columns(source, raw, entity_keys)
    needed = inferred(source, entity_keys)
    operation = _operation_column(source)
    if needed is not None and operation is not None:
        needed = {*needed, operation}
    of_types = snapshots.with_rows(source, root, files) if source.format == "snapshots" else files
    raw = raw_schema(source.log, root, files=of_types, needed=needed)
    _check_operations(source, raw)
    if source.format == "snapshots":
        raw = snapshots.without_date(source, raw, root, files)
    return declared_change_columns(source, raw, entity_keys)


def _typed(source: TableSource) -> dict[str, pa.DataType]:
    """What a source without a log declares of its columns."""
    changed_at, position = effective(source)
    own = own_columns(source)
    times = (changed_at, source.event_time, source.available_at, *stamped_columns(source.topic))
    positions = dict.fromkeys(position, INT64.arrow)
    types = raw_types(source.name, source.columns, times) | positions
    return {name: arrow for name, arrow in types.items() if name not in own}


def read_changes(
    source: TableSource,
    entity_keys: Sequence[str],
    columns: Mapping[str, DType] | None,
    root: Path,
    files: Sequence[LogFile] | None = None,
) -> Iterator[Changes]:
    """The changes that the source's log holds, some at a time. ``columns`` are those of ``change_columns``
    (None: read them first)."""
    assert source.log is not None
    columns = change_columns(source, entity_keys, root, files) if columns is None else columns
    if source.format == "debezium":
        for raw in debezium.raw_changes(source, columns, root, files):
            yield settled(raw, source, entity_keys, columns)
        return
    if source.format == "snapshots":
        yield from snapshots.differences(source, entity_keys, columns, root, files)
        return
    images = delta.images(source, columns, root, files) if source.format == "delta_cdf" else None
    operation = _operation_column(source)
    assert operation is not None
    for batch in scan(source.log, root, [*columns, operation], files):
        if images is None:
            yield flat_changes(
                batch.table, source, entity_keys, columns, file=batch.file, first_row=batch.first_row
            )
        else:
            raw = delta.raw_changes(batch, source, columns, images)
            yield settled(raw, source, entity_keys, columns)


def flat_changes(
    table: pa.Table,
    source: TableSource,
    entity_keys: Sequence[str],
    columns: Mapping[str, DType],
    *,
    file: LogFile | None = None,
    first_row: int = 0,
) -> Changes:
    """Rows with an operation column, as they are in the log, as changes. A row of nulls alone is no
    tombstone, which has no row: it has no operation, so it is rejected."""
    if source.op in table.column_names:
        words = words_of(table.column(source.op).combine_chunks())
    else:
        words = pa.nulls(table.num_rows, pa.string())
    operation = operation_codes(words, meanings(source))
    return settled(RawChanges(table, operation, words, file, first_row), source, entity_keys, columns)


def _operation_column(source: TableSource) -> str | None:
    return {"flat": source.op, "delta_cdf": CHANGE_TYPE, "snapshots": None}[source.format]


def _check_operations(source: TableSource, raw: Mapping[str, pa.DataType]) -> None:
    name = _operation_column(source)
    if name is None:
        return
    if name not in raw:
        flat = source.format == "flat"
        way_out = 'name the column of operations, op="..."' if flat else "a change feed has it"
        raise DefinitionError(
            f'source "{source.name}": no column "{name}" in its log (op)',
            hint=f"{way_out}; {suggestion(name, raw, what='columns')}",
        )
    if family(raw[name]) not in ("text", "int", "bool", "null"):
        raise DefinitionError(
            f'source "{source.name}": column "{name}" holds {raw[name]}, which are no operations',
            hint='operations are words or numbers: operations={"1": "d", ...}',
        )
