"""Sources: logs of facts. An EventSource is a log of things that happened.

Time: ``event_time`` is when a thing happened, ``available_at`` when the platform could first have known it. A
naive timestamp is read in ``timezone``; an integer one in ``time_unit``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from featurestore.dsl.log import Log
from featurestore.dsl.names import check_cosmetics, checked, column_names
from featurestore.errors import DefinitionError

if TYPE_CHECKING:
    from featurestore.dsl.lookup import Lookup, Names, Of

TIME_UNITS = ("s", "ms", "us", "ns")


TOPIC_FORMATS = ("json", "debezium", "avro", "debezium-avro")


@dataclass(frozen=True)
class KafkaTopic:
    """A topic whose messages belong to a source's log.

    ``format``: ``"json"``, a value is one JSON object, the row (of a table source with ``format="debezium"``,
    the envelope); ``"debezium"``, of an event source, an envelope whose ``after`` is the event. Either may
    lie in ``payload`` beside a ``schema``. ``"avro"`` and ``"debezium-avro"`` are the same in Avro, each
    value behind the id of its schema in the registry that the settings name. ``timestamp_column``: the
    declared column that is the record's timestamp, whatever the value says; for example that of
    ``available_at``. ``dead_letters``: the topic that what can't be read is copied to, by default the topic's
    name and ``.dead-letters``. ``archive``: where
    ``featurestore stream --archive`` writes what it reads, a directory below the project's; by default
    ``.featurestore/archive/`` and the source's name.
    """

    name: str
    format: str = "json"
    timestamp_column: str | None = None
    dead_letters: str | None = None
    archive: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise DefinitionError(
                f"topic name {self.name!r} can't be used", hint="a topic has a non-empty name"
            )
        if self.format not in TOPIC_FORMATS:
            raise DefinitionError(
                f'topic "{self.name}": format {self.format!r} is unknown',
                hint=f"formats are {', '.join(TOPIC_FORMATS)}",
            )
        for part in ("timestamp_column", "dead_letters", "archive"):
            value = getattr(self, part)
            if value is not None and (not isinstance(value, str) or not value):
                raise DefinitionError(
                    f'topic "{self.name}": {part}={value!r} is not a name', hint="name one, or leave it out"
                )
        if self.dead_letters == self.name:
            raise DefinitionError(
                f'topic "{self.name}": its dead letters would go to itself', hint="name another topic"
            )

    @property
    def dead_letter_topic(self) -> str:
        return self.dead_letters or f"{self.name}.dead-letters"

    @property
    def encoding(self) -> str:
        """What its values are encoded in: ``"json"`` or ``"avro"``."""
        return "avro" if self.format.endswith("avro") else "json"

    @property
    def enveloped(self) -> bool:
        """Whether an event source's values are envelopes; a table source says that itself."""
        return self.format.startswith("debezium")

    @property
    def meaning(self) -> tuple[str, ...]:
        """What of it the facts depend on."""
        return (self.name, self.format, self.timestamp_column or "")


@dataclass(frozen=True)
class EventSource:
    """A log of events.

    ``id``: the column(s) that identify an event within its entity; a version of the same id with other
    content corrects it. Without ``id`` each row is a fact of its own, and rows can't be pushed.
    ``available_at``: without it an event was known when it happened. ``version`` ranks an event's versions
    before ``available_at`` does. ``deleted``: a boolean column, true retracts the event. ``order_by`` orders
    events of one event time. ``columns``: the declared columns, a list of names or a mapping to types; by
    default all of the log. ``lookups`` are made by ``lookup()`` and are no part of the log.
    """

    name: str
    log: Log | None = None
    topic: KafkaTopic | None = None
    event_time: str = ""
    id: str | list[str] | tuple[str, ...] | None = None
    available_at: str | None = None
    version: str | None = None
    deleted: str | None = None
    order_by: str | None = None
    columns: list[str] | tuple[str, ...] | Mapping[str, str] | None = field(default=None, hash=False)
    timezone: str = "UTC"
    time_unit: str | None = None
    description: str = ""
    tags: dict[str, str] = field(default_factory=dict, hash=False)
    owner: str = ""
    lookups: tuple[Lookup, ...] = ()

    def __post_init__(self) -> None:
        checked(self.name, "source")
        label = f'source "{self.name}"'
        if not isinstance(self.event_time, str) or not self.event_time:
            raise DefinitionError(f"{label} has no event_time", hint='name the column: event_time="ts"')
        if self.log is None and self.topic is None:
            raise DefinitionError(f"{label} has no log", hint='give it one: log=Parquet("data/*.parquet")')
        if self.log is not None and not isinstance(self.log, Log):
            raise DefinitionError(
                f"{label}: log {self.log!r} is not a log",
                hint="logs are Parquet, CSV, JSONLines, DuckDBTable",
            )
        object.__setattr__(self, "id", column_names(self.id, f"{label}, id"))
        for part in ("available_at", "version", "deleted", "order_by"):
            value = getattr(self, part)
            if value is not None and (not isinstance(value, str) or not value):
                raise DefinitionError(
                    f"{label}: {part}={value!r} is not a column name", hint="name one column"
                )
        if self.columns is not None:
            columns: object = self.columns
            if isinstance(columns, str):
                raise DefinitionError(f"{label}: columns is text", hint=f'write columns=["{columns}"]')
            if not isinstance(columns, Mapping):
                object.__setattr__(self, "columns", column_names(self.columns, f"{label}, columns"))
            elif not all(isinstance(text, str) and text for pair in columns.items() for text in pair):
                raise DefinitionError(
                    f"{label}: columns={columns!r} are not names with types",
                    hint='write columns={"amount": "float64"}',
                )
        if not isinstance(self.timezone, str) or not self.timezone:
            raise DefinitionError(
                f"{label}: timezone={self.timezone!r} is not a time zone", hint='name one: timezone="UTC"'
            )
        if self.topic is not None and not isinstance(self.topic, KafkaTopic):
            raise DefinitionError(
                f"{label}: topic {self.topic!r} is not a topic", hint='write topic=KafkaTopic("name")'
            )
        check_cosmetics(label, description=self.description, tags=self.tags, owner=self.owner)
        if self.time_unit is not None and self.time_unit not in TIME_UNITS:
            raise DefinitionError(
                f"{label}: time_unit={self.time_unit!r} is not a unit",
                hint=f"units are {', '.join(TIME_UNITS)}",
            )
        if self.topic is not None and not self.id:
            raise DefinitionError(
                f"{label} has a topic but no id",
                hint="a stream delivers a message more than once: name what identifies an event, id=...",
            )

    @property
    def ids(self) -> tuple[str, ...]:
        """The identifying columns; () for none."""
        assert isinstance(self.id, tuple)
        return self.id

    @property
    def structural(self) -> tuple[str, ...]:
        """The columns that the declaration names, each once."""
        stamped = None if self.topic is None else self.topic.timestamp_column
        named = (
            self.event_time, *self.ids, self.available_at, self.version, self.deleted, self.order_by, stamped
        )  # fmt: skip
        return tuple(dict.fromkeys(name for name in named if name is not None))

    def lookup(self, of: Of, on: Names, columns: Names | Mapping[str, str]) -> EventSource:
        """The same source, each event with ``columns`` of a TableSource's row or of a FeatureView's features
        at its own time: what was strictly before the event, as known at the question's ``known_at``.

        ``on``: the event's column(s) that hold the table's primary key, or the keys of the view's entity, in
        their order. ``columns``: columns of the table (named alike), features of the view (named
        ``view__feature``), or a mapping of new names to them.
        """
        from featurestore.dsl.lookup import looked_up

        return looked_up(self, of, on, columns)
