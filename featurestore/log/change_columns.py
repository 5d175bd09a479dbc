"""The columns of a table source's changes tables and their types.

Time: ``changed_at``, ``event_time`` and ``available_at`` are timestamps whatever the log holds, as an event's
times are; positions are int64.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import pyarrow as pa

from featurestore import dtypes
from featurestore.dsl.table_source import TableSource
from featurestore.dtypes import INT64, TIMESTAMP, DType
from featurestore.errors import DefinitionError, suggestion
from featurestore.log.column_type import column_type

CHANGED_AT = "__changed_at"
"""When a change was committed, where the format says so in a place that is no column of the row."""

DEBEZIUM_POSITION = tuple(f"__position_{i}" for i in range(4))
SNAPSHOT_POSITION = ("__position_0",)
CHANGE_TYPE, COMMIT_TIMESTAMP, COMMIT_VERSION = "_change_type", "_commit_timestamp", "_commit_version"
DELTA_POSITION = (COMMIT_VERSION, "__position_1")

SNAPSHOT_DATE = "ds"
OF_SOURCE = "source."
"""How a declaration names a part of an envelope's source, as in position="source.pos"."""

OF_ENVELOPE = "envelope."
"""How it names the connector's own clock, as in available_at="envelope.ts_ms"."""
_CLOCKS = tuple(f"{OF_ENVELOPE}{unit}" for unit in ("ts_ms", "ts_us", "ts_ns"))


def effective(source: TableSource) -> tuple[str, tuple[str, ...]]:
    """The names that a changes table has for ``changed_at`` and for the columns of the position: the declared
    ones, or the format's own."""
    match source.format:
        case "debezium":
            return source.changed_at or CHANGED_AT, source.positions or DEBEZIUM_POSITION
        case "delta_cdf":
            return source.changed_at or COMMIT_TIMESTAMP, source.positions or DELTA_POSITION
        case "snapshots":  # a declared changed_at names the column of dates
            return CHANGED_AT, SNAPSHOT_POSITION
    assert source.changed_at is not None
    return source.changed_at, source.positions


def own_columns(source: TableSource) -> set[str]:
    """Which of ``effective`` are no columns of the row: the format makes them."""
    changed_at, position = effective(source)
    made = {CHANGED_AT, *DEBEZIUM_POSITION, *SNAPSHOT_POSITION, DELTA_POSITION[1]}
    if source.format == "flat":
        return set()
    if source.format == "debezium":
        made |= {name for name in (changed_at, *position) if name.startswith(OF_SOURCE)}
        if source.available_at is not None and source.available_at.startswith((OF_SOURCE, OF_ENVELOPE)):
            made.add(source.available_at)
    return made & {changed_at, *position, source.available_at or changed_at}


def snapshot_date(source: TableSource) -> str:
    """The column, or the ``column=value`` directory, that says of which day a snapshot is."""
    return source.changed_at or SNAPSHOT_DATE


def not_of_the_row(source: TableSource) -> tuple[str, ...]:
    """The columns of the log that are no columns of the table it is about."""
    match source.format:
        case "flat":
            return (source.op,)
        case "delta_cdf":
            return (CHANGE_TYPE,)
        case "snapshots":
            return (snapshot_date(source),)
    return ()


def declared_change_columns(
    source: TableSource, raw: Mapping[str, pa.DataType], entity_keys: Sequence[str]
) -> dict[str, DType]:
    """The columns of the source's changes tables, where its log has the columns ``raw``: as declared, what
    the declaration names besides, then the format's own."""
    changed_at, position = effective(source)
    own = own_columns(source) - raw.keys()
    for clock in own - {*_CLOCKS}:
        if clock.startswith(OF_ENVELOPE):
            raise DefinitionError(
                f'source "{source.name}": an envelope has no "{clock}" (available_at)',
                hint=suggestion(clock, _CLOCKS, what="the connector's clocks"),
            )
    aside = not_of_the_row(source)
    listed = list(source.columns) if source.columns is not None else []
    if source.columns is None:
        listed = [name for name in raw if name not in aside and dtypes.from_arrow(raw[name])]
    named = [
        *source.primary_keys,
        changed_at,
        *position,
        source.event_time,
        source.available_at,
        source.order_by,
        None if source.topic is None else source.topic.timestamp_column,
    ]
    types = source.columns if isinstance(source.columns, Mapping) else {}
    out: dict[str, DType] = {}
    for name in dict.fromkeys([*listed, *named, *entity_keys]):
        if name is None or name in own:
            continue
        text = types.get(name)
        if raw and name not in raw:
            role = next((what for what, column in _roles(source, entity_keys) if column == name), "columns")
            raise DefinitionError(
                f'source "{source.name}": no column "{name}" in its log ({role})',
                hint=suggestion(name, raw, what="columns"),
            )
        if not raw and text is None and name not in _of_known_type(source):
            raise DefinitionError(
                f'source "{source.name}": its log holds no rows yet, which would tell the type of "{name}"',
                hint=f'declare the columns\' types, columns={{"{name}": "string", ...}}; or wait for a row',
            )
        asked = None if text is None else dtypes.parse(text)
        out[name] = _declared(name, raw.get(name, pa.null()), asked, source)
    for part in (changed_at, *position, source.available_at):
        if part is not None and part in own:
            out[part] = INT64 if part in position else TIMESTAMP
    return out


def inferred(source: TableSource, entity_keys: Sequence[str]) -> Collection[str] | None:
    """The columns whose types only the log can tell; None for all."""
    if source.columns is None:
        return None
    typed = set(source.columns) if isinstance(source.columns, Mapping) else set()
    changed_at, position = effective(source)
    times = {changed_at, source.event_time, source.available_at}
    if source.time_unit is not None:  # else the log must be asked whether they are integers
        times -= typed
    named = {*source.columns, *source.primary_keys, source.order_by, *entity_keys} - typed - set(position)
    return {name for name in named | times if name is not None}


def _of_known_type(source: TableSource) -> set[str | None]:
    """The columns whose types their parts tell: times and positions."""
    changed_at, position = effective(source)
    return {changed_at, *position, source.event_time, source.available_at}


def _declared(name: str, arrow: pa.DataType, asked: DType | None, source: TableSource) -> DType:
    label = f'source "{source.name}", column "{name}"'
    changed_at, position = effective(source)
    part = TIMESTAMP if name in (changed_at, source.event_time, source.available_at) else None
    if name in position:
        part = INT64
    if part is not None and asked not in (None, part):
        what = "a time" if part == TIMESTAMP else "a position"
        raise DefinitionError(f"{label}: declared {asked}, but it is {what}", hint=f'declare it "{part}"')
    return column_type(source.name, name, arrow, part or asked, time_unit=source.time_unit)


def _roles(source: TableSource, entity_keys: Sequence[str]) -> Iterable[tuple[str, str | None]]:
    changed_at, position = effective(source)
    yield from (("primary_key", name) for name in source.primary_keys)
    yield "changed_at", changed_at
    yield from (("position", name) for name in position)
    for part in ("event_time", "available_at", "order_by"):
        yield part, getattr(source, part)
    yield from (("entity key", name) for name in entity_keys)
