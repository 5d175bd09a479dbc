"""The columns of a log and their types, and those that a source declares of them.

Time: the columns ``event_time`` and ``available_at`` are timestamps whatever the log holds: instants, naive
times of the source's zone, dates (their midnight), ISO 8601 text, or integers of the declared ``time_unit``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from featurestore import dtypes
from featurestore.dsl.log import CSV, DuckDBTable, JSONLines, Log, Parquet
from featurestore.dsl.source import EventSource, KafkaTopic
from featurestore.dtypes import BOOL, TIMESTAMP, DType
from featurestore.errors import DefinitionError, LogError, suggestion
from featurestore.log import csv_files, duckdb_tables, json_lines, parquet_files
from featurestore.log.arrays import family
from featurestore.log.column_type import column_type
from featurestore.log.files import LogFile, list_files
from featurestore.log.infer import CellColumn, TextColumn, odd_row

_DECLARE = (
    "declare its type, columns={...}: values that it can't hold are rejected one by one; or write the files "
    "with one schema"
)


def source_columns(
    source: EventSource, entity_keys: Sequence[str], root: Path, files: Sequence[LogFile] | None = None
) -> dict[str, DType]:
    """The declared columns of a source, read from its log: the columns of its versions tables."""
    assert source.log is not None
    raw = raw_schema(source.log, root, files=files, needed=_needed(source, entity_keys))
    return declared_columns(source, raw, entity_keys)


def raw_schema(
    log: Log, root: Path, *, files: Sequence[LogFile] | None = None, needed: Collection[str] | None = None
) -> dict[str, pa.DataType]:
    """Each column of the log and the type that holds it in all files, in the order in which they first
    appear.

    A file may lack a column. Integers of different widths meet in int64, integers and floats in float64; any
    other difference is a LogError. Types of CSV and JSON lines are inferred over all rows, of the ``needed``
    columns only (default: all); the others are given as string, as is a column that is not needed and differs
    from file to file: each value is cast as its file has it.
    """
    files = list_files(log, root) if files is None else files
    match log:
        case Parquet() | DuckDBTable():
            found = _written(log, files, needed)
        case CSV():
            found = _of_text(log, files, needed)
        case JSONLines():
            found = _of_cells(log, files, needed)
        case _:
            raise AssertionError(log)
    return found | {name: arrow for name, arrow in _of_partitions(files).items() if name not in found}


def declared_columns(
    source: EventSource, raw: Mapping[str, pa.DataType], entity_keys: Sequence[str] = ()
) -> dict[str, DType]:
    """The columns of the source's versions and their types: as declared, then what the declaration names
    besides."""
    label = f'source "{source.name}"'
    named = [*source.structural, *entity_keys]
    declared = (
        [name for name in raw if dtypes.from_arrow(raw[name])]
        if source.columns is None
        else [*source.columns]
    )
    types = source.columns if isinstance(source.columns, Mapping) else {}
    out: dict[str, DType] = {}
    for name in dict.fromkeys([*declared, *named]):
        if name not in raw:
            role = next((what for what, column in _roles(source, entity_keys) if column == name), "columns")
            raise DefinitionError(
                f'{label}: no column "{name}" in its log ({role})', hint=suggestion(name, raw, what="columns")
            )
        text = types.get(name)
        out[name] = _declared(name, raw[name], None if text is None else dtypes.parse(text), source)
    return out


def typed_columns(source: EventSource, entity_keys: Sequence[str]) -> dict[str, DType]:
    """The columns of a source without a log, as its declaration says: there is nothing to read types from."""
    times = (source.event_time, source.available_at, *stamped_columns(source.topic))
    return declared_columns(source, raw_types(source.name, source.columns, times), entity_keys)


def stamped_columns(topic: KafkaTopic | None) -> tuple[str, ...]:
    """The columns that a topic's records fill by themselves."""
    return () if topic is None or topic.timestamp_column is None else (topic.timestamp_column,)


def raw_types(source: str, columns: object, times: Iterable[str | None]) -> dict[str, pa.DataType]:
    """Declared types as if a log had them; ``times`` are timestamps without being declared."""
    if not isinstance(columns, Mapping):
        raise DefinitionError(
            f'source "{source}" has no log to read the types of its columns from',
            hint='declare them: columns={"amount": "float64", ...}',
        )
    types: dict[str, pa.DataType] = {name: TIMESTAMP.arrow for name in times if name is not None}
    return {name: dtypes.parse(text).arrow for name, text in columns.items()} | types


def _declared(name: str, arrow: pa.DataType, asked: DType | None, source: EventSource) -> DType:
    label = f'source "{source.name}", column "{name}"'
    is_time = name in (source.event_time, source.available_at)
    if is_time and asked not in (None, TIMESTAMP):
        raise DefinitionError(f"{label}: declared {asked}, but it is a time", hint='declare it "timestamp"')
    asked = TIMESTAMP if is_time else asked
    dtype = column_type(source.name, name, arrow, asked, time_unit=source.time_unit)
    if name == source.deleted and dtype != BOOL:
        raise DefinitionError(
            f"{label}: deleted is a boolean, the log has {dtype}", hint="name a column of true and false"
        )
    return dtype


def _needed(source: EventSource, entity_keys: Sequence[str]) -> Collection[str] | None:
    """The columns whose types only the log can tell."""
    if source.columns is None:
        return None
    typed = set(source.columns) if isinstance(source.columns, Mapping) else set()
    times = {source.event_time, source.available_at}
    if source.time_unit is not None:  # else the log must be asked whether they are integers
        times -= typed
    return ({*source.columns, *source.structural, *entity_keys} - typed) | {
        name for name in times if name is not None
    }


def _roles(source: EventSource, entity_keys: Sequence[str]) -> Iterable[tuple[str, str | None]]:
    yield "event_time", source.event_time
    for part in ("available_at", "version", "deleted", "order_by"):
        yield part, getattr(source, part)
    yield from (("id", name) for name in source.ids)
    yield from (("entity key", name) for name in entity_keys)


def _written(
    log: Parquet | DuckDBTable, files: Sequence[LogFile], needed: Collection[str] | None
) -> dict[str, pa.DataType]:
    known: dict[str, pa.DataType] = {}
    origin: dict[str, LogFile] = {}
    for file in files:
        found = (
            parquet_files.schema(log, file) if isinstance(log, Parquet) else duckdb_tables.schema(log, file)
        )
        for part in found:
            if part.name not in known:
                known[part.name], origin[part.name] = part.type, file
                continue
            both = unified(known[part.name], part.type)
            if both is None and needed is not None and part.name not in needed:
                both = pa.string()
            if both is None:
                raise LogError(
                    f'column "{part.name}" is {known[part.name]} in log file "{origin[part.name].shown}"'
                    f' and {part.type} in "{file.shown}"',
                    hint=_DECLARE,
                )
            if pa.types.is_null(known[part.name]):
                origin[part.name] = file
            known[part.name] = both
    return known


def unified(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The type that holds what is in a log as one and as the other; None where there is none."""
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    held, also = dtypes.from_arrow(one), dtypes.from_arrow(other)
    families = {family(one), family(other)}
    if held is None and also is None:
        return one  # neither can be declared, so nothing is read of them
    if families == {"int", "float"}:
        return pa.float64()
    if held is None or held != also:
        return None
    if held == TIMESTAMP and families == {"timestamp"} and (one.tz is None) != (other.tz is None):
        return None
    return held.arrow if held != TIMESTAMP else one


def _of_text(log: CSV, files: Sequence[LogFile], needed: Collection[str] | None) -> dict[str, pa.DataType]:
    columns: dict[str, TextColumn] = {}
    for file in files:
        names = [name for name in csv_files.names(log, file) if name]
        for name in names:
            columns.setdefault(name, TextColumn())
        for table in csv_files.tables(
            log, file, [name for name in names if needed is None or name in needed]
        ):
            for name in table.column_names:
                columns[name].see(table.column(name).combine_chunks())
    return {name: column.arrow for name, column in columns.items()}


def _of_cells(
    log: JSONLines, files: Sequence[LogFile], needed: Collection[str] | None
) -> dict[str, pa.DataType]:
    columns: dict[str, CellColumn] = {}
    was: dict[str, LogFile] = {}
    for file in files:
        first_row = 0
        for table in json_lines.tables(log, file, None):
            for name in table.column_names:
                column = columns.setdefault(name, CellColumn())
                if needed is not None and name not in needed:
                    continue
                cells = table.column(name).combine_chunks()
                before = set(column.kinds)
                column.see(cells)
                if column.clash is not None:
                    row = first_row + odd_row(cells, before) + 1
                    where = f'"{file.shown}"'
                    if was.get(name, file) != file:
                        where = f'"{was[name].shown}" and {where}'
                    raise LogError(
                        f'column "{name}" holds both {" and ".join(column.clash)} in log file {where}, '
                        f"row {row:,}",
                        hint=f'declare its type: columns={{"{name}": "string", ...}}; or repair the files',
                    )
                was.setdefault(name, file)
            first_row += table.num_rows
    return {
        name: pa.string() if needed is not None and name not in needed else column.arrow
        for name, column in columns.items()
    }


def _of_partitions(files: Sequence[LogFile]) -> dict[str, pa.DataType]:
    columns: dict[str, TextColumn] = {}
    for file in files:
        for name, value in file.partitions:
            columns.setdefault(name, TextColumn()).see(pa.array([value], pa.string()))
    return {name: column.arrow for name, column in columns.items()}
