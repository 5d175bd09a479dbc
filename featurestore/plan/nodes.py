"""A project as the hosts run it: frozen plans of sources, views and services, with their fingerprints.

A plan is made of data alone: no engine, no file and no clock. Two declarations that mean the same have equal
fingerprints, whatever their formatting, order, description, tags or owner.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, fields, replace

from featurestore.dsl.log import Log
from featurestore.dsl.source import KafkaTopic
from featurestore.dsl.table_source import TableSource
from featurestore.dtypes import DType
from featurestore.kernel.expression import Node, canonical
from featurestore.kernel.feature import Feature
from featurestore.kernel.roles import ChangeRoles, Roles


def fingerprint(meaning: object) -> str:
    """128 bits of SHA-256, in hex, over the canonical JSON of what a declaration means."""
    text = json.dumps(meaning, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


PRIMARY_KEY = "primary key"
"""The entity of a view of a table's rows. No declared entity can have this name."""


@dataclass(frozen=True)
class EntityPlan:
    """An entity's key columns and their types."""

    name: str
    keys: tuple[str, ...]
    dtypes: tuple[DType, ...]


@dataclass(frozen=True)
class ChangeFormat:
    """How a table source's log says what a change does: its format, the operation column and what its values
    mean besides the usual words. ``declared``: the declaration, for reading the log."""

    format: str
    op: str
    operations: tuple[tuple[str, str], ...]
    declared: TableSource = field(compare=False, repr=False)


@dataclass(frozen=True)
class SourcePlan:
    """A source's declared columns, in order, and the parts they play.

    ``columns`` are (name, type) pairs; ``log`` is None for a source that is only pushed or streamed.
    """

    name: str
    log: Log | None
    columns: tuple[tuple[str, DType], ...]
    roles: Roles | ChangeRoles
    timezone: str
    time_unit: str | None
    changes: ChangeFormat | None = None
    topic: KafkaTopic | None = None

    @property
    def schema(self) -> dict[str, DType]:
        return dict(self.columns)

    @property
    def events(self) -> Roles:
        """The roles of an event source."""
        assert isinstance(self.roles, Roles)
        return self.roles

    @property
    def event_time(self) -> str:
        return self.events.event_time

    @property
    def ids(self) -> tuple[str, ...]:
        return self.events.id

    @property
    def identity(self) -> tuple[str, ...]:
        """What identifies a fact: an event's id, a table row's primary key."""
        return self.roles.id if isinstance(self.roles, Roles) else self.roles.primary_key

    @property
    def deleted(self) -> str | None:
        return self.events.deleted


HIDDEN = "__"
"""How the names of views begin that nobody declares or asks: rows of a table by primary key, to be looked
up."""


BY_PRIMARY_KEY = "_by_primary_key"


def label_of(view: str) -> str:
    """How messages name a view."""
    if not view.startswith(HIDDEN):
        return f'feature view "{view}"'
    return f'lookup of "{view.removeprefix(HIDDEN).removesuffix(BY_PRIMARY_KEY)}"'


@dataclass(frozen=True)
class LookupPlan:
    """Columns that the events of a source take from features of ``view`` at their own time, (name, feature)
    pairs. ``on``: the event's columns that hold the keys of the view's entity. A table's columns are features
    of a view of its rows by primary key."""

    view: ViewPlan
    on: tuple[str, ...]
    columns: tuple[tuple[str, Feature], ...]

    @property
    def features(self) -> tuple[Feature, ...]:
        """The features to ask for, each once."""
        return tuple({feature.reference: feature for _, feature in self.columns}.values())

    def of(self, names: Collection[str]) -> LookupPlan | None:
        """The part of it that brings ``names``; None for none."""
        kept = tuple(pair for pair in self.columns if pair[0] in names)
        if not kept:
            return None
        features = tuple({feature.reference: feature for _, feature in kept}.values())
        view = replace(self.view, features=features, lookups=self.view.lookups_for(features))
        return LookupPlan(view, self.on, kept)

    @property
    def meaning(self) -> object:
        """What the columns' values depend on."""
        return {
            "on": self.on,
            "columns": {name: feature_fingerprint(feature) for name, feature in self.columns},
            "timeline": self.view.timeline_fingerprint,
            "types": self.view.types_of(self.features),
            "lookups": [one.meaning for one in self.view.lookups_for(self.features)],
        }


@dataclass(frozen=True)
class ViewPlan:
    """Features of one entity over one source, whose events may take columns from elsewhere on the way."""

    name: str
    entity: EntityPlan
    source: SourcePlan
    features: tuple[Feature, ...]
    lookups: tuple[LookupPlan, ...] = ()
    # How far back questions to the store may reach; no value depends on it, so no fingerprint does.
    retention_us: int | None = None

    @property
    def reach_us(self) -> int | None:
        """How far before its time a question looks: the longest delay and window together; None for a
        lifetime."""
        spans = [
            None if feature.window_us is None else feature.delay_us + feature.window_us
            for feature in self.features
        ]
        return None if None in spans else max((span for span in spans if span is not None), default=0)

    @property
    def hidden(self) -> bool:
        return self.name.startswith(HIDDEN)

    @property
    def label(self) -> str:
        """How messages name it."""
        return label_of(self.name)

    def feature(self, name: str) -> Feature | None:
        return next((feature for feature in self.features if feature.name == name), None)

    def lookups_for(self, features: Iterable[Feature]) -> tuple[LookupPlan, ...]:
        """Those parts of its lookups that ``features`` read."""
        if not self.lookups:
            return ()
        used = read_by(features)
        return tuple(part for one in self.lookups if (part := one.of(used)) is not None)

    def columns_for(self, features: Iterable[Feature]) -> frozenset[str]:
        """The source's own columns whose values ``features`` of the view read, themselves or to look up
        others, besides those that play a part in every fact."""
        features = tuple(features)
        by = {name for one in self.lookups_for(features) for name in one.on}
        brought = {name for one in self.lookups for name, _ in one.columns}
        return frozenset((read_by(features) - brought) | by)

    def used_columns(self) -> frozenset[str]:
        """``columns_for`` all features."""
        return self.columns_for(self.features)

    def types_of(self, features: Iterable[Feature]) -> dict[str, str]:
        """The types of the columns that ``features`` read."""
        return {name: str(self.source.schema[name]) for name in sorted(self.columns_for(features))}

    @property
    def schema(self) -> dict[str, DType]:
        """The types of the source's columns and of those that are looked up."""
        brought = {name: feature.dtype for one in self.lookups for name, feature in one.columns}
        return {**self.source.schema, **brought}

    def inner(self) -> Iterator[ViewPlan]:
        """The views that its lookups read, at any depth, innermost first."""
        for one in self.lookups:
            yield from one.view.inner()
            yield one.view

    @property
    def timeline_fingerprint(self) -> str:
        """What the facts of a timeline depend on: the source, its parts and the entity's keys.

        The content is among them: its columns decide what is a duplicate, what corrects it, and how ties are
        broken.
        """
        source = self.source
        table = None if source.changes is None else source.changes.declared.table
        return fingerprint(
            {
                **_parts(source),
                **({} if table is None else {"table": table}),
                **({} if source.changes is None else {"changes": repr(source.changes)}),
                "source": source.name,
                "log": None if source.log is None else repr(source.log),
                # A topic beside a log carries the same facts; alone it is the log.
                **({} if source.log or source.topic is None else {"topic": source.topic.meaning}),
                "timezone": source.timezone,
                "time_unit": source.time_unit,
                "entity": self.entity.name,
                "keys": [
                    [key, str(dtype)] for key, dtype in zip(self.entity.keys, self.entity.dtypes, strict=True)
                ],
            }
        )

    @property
    def fingerprint(self) -> str:
        """What the view's values depend on."""
        return fingerprint(
            {
                "timeline": self.timeline_fingerprint,
                "columns": self.types_of(self.features),
                "features": {feature.name: feature_fingerprint(feature) for feature in self.features},
                **({"lookups": [one.meaning for one in self.lookups]} if self.lookups else {}),
            }
        )


def read_by(features: Iterable[Feature]) -> frozenset[str]:
    """The columns that the expressions of ``features`` read."""
    return frozenset().union(*(feature.reads for feature in features))


def _parts(source: SourcePlan) -> dict[str, object]:
    """The columns that play a part in every fact, and the types of those that are content; the order in which
    it names them means nothing."""
    roles, schema = source.roles, source.schema
    parts = {part.name: getattr(roles, part.name) for part in fields(roles)}
    return {**parts, "content": [[name, str(schema.get(name, ""))] for name in sorted(roles.content)]}


@dataclass(frozen=True)
class ServicePlan:
    """The features that a model takes, as ``view:feature`` references in order."""

    name: str
    features: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.features)


def feature_fingerprint(feature: Feature) -> str:
    """What one feature's values depend on, its facts apart."""

    def text(node: Node | None) -> str | None:
        return None if node is None else canonical(node)

    return fingerprint(
        {
            "op": feature.op,
            "input": text(feature.input),
            "where": text(feature.where),
            "order": text(feature.order),
            "window_us": feature.window_us,
            "delay_us": feature.delay_us,
            "dtype": str(feature.dtype),
            "default": None if feature.default is None else repr(feature.default),
            "parameters": [[key, repr(value)] for key, value in feature.parameters if key != "order"],
        }
    )
