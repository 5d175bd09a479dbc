"""The oracle: a slow, obvious, row-at-a-time reading of docs/semantics.md, with the standard library only.

Time: a version is known when it was available strictly before K; a fact counts when its event_time is in
``[T - delay - window, T - delay)``. Nothing is cut into intervals here: every question filters all versions
anew. The order of work is that of the page: reject bad input, keep what K knows, choose each identity's
version, and only then key, ``where``, null input and window. What an event looks up is asked anew at its own
time, with the question's K.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from featurestore.dsl.aggregation import agg
from featurestore.dsl.entity import Entity
from featurestore.dsl.feature_view import FeatureView
from featurestore.dsl.lookup import Lookup
from featurestore.dsl.source import EventSource
from featurestore.dsl.table_source import TableSource
from featurestore.dtypes import DType
from featurestore.kernel.roles import KnownAt
from featurestore.testing.reference_content import content_hash
from featurestore.testing.reference_features import (
    Feature,
    Row,
    Value,
    cast,
    features_of,
    in_window,
    items_of,
    nulls_first,
    nulls_last,
    result_dtype,
    value_of,
)
from featurestore.testing.reference_operations import Item, rank
from featurestore.testing.reference_tables import TableOracle

__all__ = ["Counts", "Logs", "Oracle", "Row", "Value", "Version"]


@dataclass(frozen=True)
class Counts:
    """Versions, as a training set with this ``known_at`` counts them. ``rejected``: bad input. Of the others
    that K knows: ``keyless`` have a null entity key; ``duplicates`` repeat a content of their identity;
    ``corrections`` are the further contents of an identity, retractions included."""

    rejected: int
    keyless: int
    duplicates: int
    corrections: int


@dataclass(frozen=True)
class Version:
    """The ``number``-th row of the log that is not bad input. ``identity`` tells which fact it speaks of."""

    number: int
    row: Row
    key: tuple[Any, ...]
    identity: tuple[Any, ...]
    id: tuple[Any, ...]
    event_time: int | None
    available_at: int | None
    retracts: bool
    version: Any
    order: Any
    content: tuple[int, int]

    @property
    def keyless(self) -> bool:
        return None in self.key

    @property
    def happened(self) -> int:
        """The event time of a version that doesn't retract: bad input has been rejected."""
        assert self.event_time is not None
        return self.event_time

    def known(self, known_at: int | None) -> bool:
        """Whether it was available strictly before ``known_at``; null is known only when that is absent."""
        return known_at is None or (self.available_at is not None and self.available_at < known_at)


class Oracle:
    """Answers about ``view`` from the log rows themselves. ``schema`` has the declared columns, in order;
    ``logs`` the columns and rows of the sources that are looked up, by name."""

    def __init__(
        self, view: FeatureView, schema: Mapping[str, DType], rows: Sequence[Row], logs: Logs | None = None
    ) -> None:
        self.view = view
        self.schema = dict(schema)
        self.source = _event_source(view)
        self._lookups = [looked_up(lookup, logs or {}) for lookup in self.source.lookups]
        brought = {name: dtype for lookup in self._lookups for name, dtype in lookup.dtypes().items()}
        held = [{name: cast(row.get(name), dtype) for name, dtype in self.schema.items()} for row in rows]
        good = [row for row in held if not _is_bad(self.source, row)]
        self._rejected = len(held) - len(good)
        self.versions = [_version(view, self.schema, row, number) for number, row in enumerate(good)]
        self.features = [
            feature
            for aggregation in view.features
            for feature in features_of(aggregation, {**self.schema, **brought})
        ]
        # What a version contributes to a feature is the same at every T, and at every K but for what it looks
        # up: computed once.
        self._contributed: dict[tuple[str, int, int | None], list[Item]] = {}

    def dtypes(self) -> dict[str, DType]:
        """The type of each feature's values."""
        return {feature.name: result_dtype(feature) for feature in self.features}

    def answer(self, keys: tuple[Any, ...], *, as_of: int | None, known_at: KnownAt) -> dict[str, Value]:
        """Every feature of the entity ``keys`` at ``as_of``; all null at a null time."""
        if as_of is None:
            return {feature.name: Value(None, flagged=False, latest=None) for feature in self.features}
        horizon = as_of if known_at == "as_of" else known_at
        facts = self.facts(keys, known_at=horizon)
        return {feature.name: self._value(feature, facts, as_of, horizon) for feature in self.features}

    def _value(self, feature: Feature, facts: Sequence[Version], as_of: int, known_at: int | None) -> Value:
        inside = [fact for fact in facts if in_window(feature, fact.happened, as_of)]
        items = [item for fact in inside for item in self._items(feature, fact, known_at)]
        return value_of(feature, items, as_of)

    def _items(self, feature: Feature, fact: Version, known_at: int | None) -> list[Item]:
        place = (feature.name, fact.number, known_at if self._lookups else None)
        if place not in self._contributed:
            row = dict(fact.row)
            for lookup in self._lookups:
                row |= lookup.columns(fact.row, as_of=fact.happened, known_at=known_at)
            self._contributed[place] = items_of(feature, row, fact.happened)
        return self._contributed[place]

    def facts(self, keys: tuple[Any, ...], *, known_at: int | None) -> list[Version]:
        """The timeline of one entity as ``known_at`` knows it: each fact's chosen version, in order."""
        known = [v for v in self.versions if v.known(known_at) and not v.keyless and v.key == tuple(keys)]
        by_identity: dict[tuple[Any, ...], list[Version]] = {}
        for version in known:
            by_identity.setdefault(version.identity, []).append(version)
        chosen = [_chosen(versions) for versions in by_identity.values()]
        return sorted((version for version in chosen if not version.retracts), key=_place)

    def counts(self, *, known_at: KnownAt = None) -> Counts:
        """What a training set reports. Under ``"as_of"`` a version counts when any question could know it."""
        horizon = 2**63 if known_at == "as_of" else known_at
        known = [version for version in self.versions if version.known(horizon)]
        keyed = [version for version in known if not version.keyless]
        contents = {(version.identity, version.content) for version in keyed}
        return Counts(
            rejected=self._rejected,
            keyless=len(known) - len(keyed),
            duplicates=len(keyed) - len(contents),
            corrections=len(contents) - len({identity for identity, _ in contents}),
        )


# --- versions of facts


def _event_source(view: FeatureView) -> EventSource:
    assert isinstance(view.source, EventSource), f'view "{view.name}" is over a table: ask a TableOracle'
    return view.source


def _is_bad(source: EventSource, row: Row) -> bool:
    """No id where one is declared, or no event time; a retraction needs none of the latter."""
    if any(row[name] is None for name in source.ids):
        return True
    return row[source.event_time] is None and not _retracts(source, row)


def _retracts(source: EventSource, row: Row) -> bool:
    return source.deleted is not None and row[source.deleted] is True


def _version(view: FeatureView, schema: Mapping[str, DType], row: Row, number: int) -> Version:
    source = _event_source(view)
    key = tuple(row[name] for name in view.entity.keys)
    identifier = tuple(row[name] for name in source.ids)
    return Version(
        number=number,
        row=row,
        key=key,
        # Without an id each row is a fact of its own: its number sets it apart and does nothing else.
        identity=(key, identifier) if source.ids else (number,),
        id=tuple(rank(part) for part in identifier),
        event_time=row[source.event_time],
        available_at=row[source.event_time if source.available_at is None else source.available_at],
        retracts=_retracts(source, row),
        version=nulls_first(row[source.version]) if source.version is not None else None,
        order=nulls_first(row[source.order_by]) if source.order_by is not None else None,
        content=content_hash(
            row, {name: dtype for name, dtype in schema.items() if name != source.available_at}
        ),
    )


def _chosen(versions: Sequence[Version]) -> Version:
    """The version of one identity that counts: each content once, from its least ``available_at``; of these
    the one that is ranked last."""
    first_delivery: dict[tuple[int, int], Version] = {}
    for version in sorted(versions, key=lambda version: nulls_last(version.available_at)):
        first_delivery.setdefault(version.content, version)
    return max(
        first_delivery.values(),
        key=lambda version: (version.version, nulls_last(version.available_at), version.content),
    )


def _place(version: Version) -> tuple[Any, ...]:
    """Its place on the timeline. The last part settles rows without id, equal but for ``available_at``."""
    return (version.event_time, version.order, version.id, version.content, nulls_last(version.available_at))


# --- what events look up


Logs: TypeAlias = "Mapping[str, tuple[Mapping[str, DType], Sequence[Row]]]"
"""Columns and rows of each source by name; those of a table are changes, as ``TableOracle`` takes them."""


class LookedUp(Protocol):
    """What one lookup brings to an event: values at the event's own time, as the question knows them."""

    def dtypes(self) -> dict[str, DType]: ...

    def columns(self, row: Row, *, as_of: int, known_at: int | None) -> Row: ...


def looked_up(lookup: Lookup, logs: Logs) -> LookedUp:
    return _OfTable(lookup, logs) if isinstance(lookup.of, TableSource) else _OfView(lookup, logs)


class _OfTable:
    """Columns of the row with this primary key: as its last change before the event left it."""

    def __init__(self, lookup: Lookup, logs: Logs) -> None:
        assert isinstance(lookup.of, TableSource)
        self._lookup = lookup
        self._schema, changes = logs[lookup.of.name]
        rows = FeatureView("rows", Entity("row", key=list(lookup.of.primary_keys)), lookup.of, [agg.count()])
        self._table = TableOracle(rows, self._schema, changes)
        self._live: dict[tuple[int, int | None], dict[tuple[Any, ...], Row]] = {}

    def dtypes(self) -> dict[str, DType]:
        return {name: self._schema[column] for name, column in self._lookup.columns}

    def columns(self, row: Row, *, as_of: int, known_at: int | None) -> Row:
        if (as_of, known_at) not in self._live:
            live = self._table.live(as_of=as_of, known_at=known_at)
            self._live[as_of, known_at] = {change.primary_key: change.row for change in live}
        key = tuple(nulls_first(row[name]) for name in self._lookup.on)
        found = self._live[as_of, known_at].get(key, {})
        return {name: found.get(column) for name, column in self._lookup.columns}


class _OfView:
    """Features of another view, as a training set's row would have them at the event's time."""

    def __init__(self, lookup: Lookup, logs: Logs) -> None:
        assert isinstance(lookup.of, FeatureView)
        self._lookup = lookup
        schema, rows = logs[lookup.of.source.name]
        self._inner: Oracle | TableOracle
        if isinstance(lookup.of.source, TableSource):
            self._inner = TableOracle(lookup.of, schema, rows)
        else:
            self._inner = Oracle(lookup.of, schema, rows, logs)
        self._answers: dict[tuple[Any, ...], dict[str, Value]] = {}

    def dtypes(self) -> dict[str, DType]:
        dtypes = self._inner.dtypes()
        return {name: dtypes[feature] for name, feature in self._lookup.columns}

    def columns(self, row: Row, *, as_of: int, known_at: int | None) -> Row:
        keys = tuple(row[name] for name in self._lookup.on)
        asked = (tuple(nulls_first(key) for key in keys), as_of, known_at)
        if asked not in self._answers:
            self._answers[asked] = self._inner.answer(keys, as_of=as_of, known_at=known_at)
        return {name: self._answers[asked][feature].value for name, feature in self._lookup.columns}
