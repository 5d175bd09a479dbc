"""TableSource: a mutable table, seen through the log of its changes.

Time: ``changed_at`` is when a change was committed at its origin; a row's state at T is that of its last
change, in ``position`` order, among those committed strictly before T. ``event_time`` is the row's own time
(an order's date), which windows are about; a table without one has lifetime windows only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from featurestore.dsl.log import Log
from featurestore.dsl.names import checked, column_names
from featurestore.dsl.source import TIME_UNITS, KafkaTopic
from featurestore.errors import DefinitionError

FORMATS = ("flat", "debezium", "delta_cdf", "snapshots")
STREAMED_FORMATS = ("flat", "debezium")

OPERATIONS: Mapping[str, str] = {
    "r": "r", "read": "r", "snapshot": "r", "bootstrap-insert": "r", "load": "r",
    "c": "c", "create": "c", "i": "c", "insert": "c",
    "u": "u", "update": "u", "update_postimage": "u", "update_after": "u",
    "d": "d", "delete": "d",
    "t": "t", "truncate": "t", "table-truncate": "t",
    "m": "m", "update_preimage": "m", "update_before": "m", "bootstrap-start": "m", "bootstrap-complete": "m",
}  # fmt: skip
"""What the values of an operation column mean, in any case; ``operations=`` adds to it."""


@dataclass(frozen=True)
class TableSource:
    """A mutable table.

    ``primary_key`` names the row. ``position`` (LSN, SCN, offset: one or more columns, compared as integers;
    LSN text is parsed) is the total order of one row's changes. ``format``: ``"flat"`` rows with an operation
    column ``op``, whose values ``operations`` maps to r, c, u, d, t (m: ignore) besides the usual words;
    ``"debezium"`` envelopes, ``changed_at`` defaulting to ``source.ts_ms`` and ``position`` to the source's
    LSN or binlog position, ``available_at="envelope.ts_ms"`` naming the connector's clock and ``table``
    ("orders", "public.orders") one of several tables in the log; ``"delta_cdf"``, the change feed's columns;
    ``"snapshots"``, the whole table once a day in partitions ``ds``, whose changes are derived. Columns are
    as in an EventSource. Where an ``available_at`` is the deleted row's own, as in an envelope's ``before``,
    the deletion was known when it was committed.
    """

    name: str
    log: Log | None = None
    topic: KafkaTopic | None = None
    primary_key: str | list[str] | tuple[str, ...] = ()
    changed_at: str | None = None
    position: str | list[str] | tuple[str, ...] | None = None
    event_time: str | None = None
    format: str = "flat"
    op: str = "op"
    operations: Mapping[str, str] | None = field(default=None, hash=False)
    available_at: str | None = None
    order_by: str | None = None
    columns: list[str] | tuple[str, ...] | Mapping[str, str] | None = field(default=None, hash=False)
    timezone: str = "UTC"
    time_unit: str | None = None
    table: str | None = None
    description: str = ""
    tags: dict[str, str] = field(default_factory=dict, hash=False)
    owner: str = ""

    def __post_init__(self) -> None:
        checked(self.name, "source")
        label = f'source "{self.name}"'
        if self.format not in FORMATS:
            raise DefinitionError(
                f'{label}: format "{self.format}" is unknown', hint=f"formats are {', '.join(FORMATS)}"
            )
        object.__setattr__(self, "primary_key", column_names(self.primary_key, f"{label}, primary_key"))
        object.__setattr__(self, "position", column_names(self.position, f"{label}, position"))
        if not self.primary_key:
            raise DefinitionError(
                f"{label} has no primary_key", hint='name what identifies a row: primary_key="id"'
            )
        if self.log is None and self.topic is None:
            raise DefinitionError(f"{label} has no log", hint='give it one: log=Parquet("data/*.parquet")')
        if self.log is not None and not isinstance(self.log, Log):
            raise DefinitionError(
                f"{label}: log {self.log!r} is not a log",
                hint="logs are Parquet, CSV, JSONLines, DuckDBTable",
            )
        if self.format == "flat":
            if not self.changed_at:
                raise DefinitionError(
                    f"{label} has no changed_at", hint='name the commit time: changed_at="committed_at"'
                )
            if not self.position:
                raise DefinitionError(
                    f"{label} has no position", hint='name what orders changes: position="lsn"'
                )
        if self.table is not None and self.format != "debezium":
            raise DefinitionError(
                f"{label}: table={self.table!r} says nothing about {self.format} logs",
                hint='only envelopes name their table: format="debezium"',
            )
        if self.topic is not None and not isinstance(self.topic, KafkaTopic):
            raise DefinitionError(
                f"{label}: topic {self.topic!r} is not a topic", hint='write topic=KafkaTopic("name")'
            )
        if self.topic is not None and self.format not in STREAMED_FORMATS:
            raise DefinitionError(
                f'{label}: format "{self.format}" can\'t be streamed',
                hint=f"a topic carries {' or '.join(STREAMED_FORMATS)}",
            )
        if self.topic is not None and self.topic.enveloped:
            raise DefinitionError(
                f'{label}: its topic has format "{self.topic.format}"',
                hint='a table source says its format itself: format="debezium", topic=KafkaTopic("name"), '
                'in Avro KafkaTopic("name", format="avro")',
            )
        for value, meaning in (self.operations or {}).items():
            if meaning not in ("r", "c", "u", "d", "t", "m"):
                raise DefinitionError(
                    f'{label}: operations maps "{value}" to {meaning!r}',
                    hint="operations are r, c, u, d, t, or m: ignore",
                )
        if self.columns is not None and not isinstance(self.columns, Mapping):
            object.__setattr__(self, "columns", column_names(self.columns, f"{label}, columns"))
        if self.time_unit is not None and self.time_unit not in TIME_UNITS:
            raise DefinitionError(
                f"{label}: time_unit={self.time_unit!r} is not a unit",
                hint=f"units are {', '.join(TIME_UNITS)}",
            )

    @property
    def primary_keys(self) -> tuple[str, ...]:
        assert isinstance(self.primary_key, tuple)
        return self.primary_key

    @property
    def positions(self) -> tuple[str, ...]:
        """The declared position columns; () where the format has its own."""
        assert isinstance(self.position, tuple)
        return self.position

    @property
    def structural(self) -> tuple[str, ...]:
        """The columns that the declaration names, each once."""
        named = (
            *self.primary_keys,
            self.changed_at,
            *self.positions,
            self.event_time,
            self.available_at,
            self.order_by,
            None if self.topic is None else self.topic.timestamp_column,
        )
        return tuple(dict.fromkeys(name for name in named if name))
