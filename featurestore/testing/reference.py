"""The oracle: a slow, obvious, row-at-a-time reading of docs/semantics.md, with the standard library only.

Time: a version is known when it was available strictly before K; a fact counts when its event_time is in
``[T - delay - window, T - delay)``. Nothing is cut into intervals here: every question filters all versions
anew. The order of work is that of the page: reject bad input, keep what K knows, choose each identity's
version, and only then key, ``where``, null input and window.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeAlias

from featurestore.dsl.aggregation import Aggregation
from featurestore.dsl.feature_view import FeatureView
from featurestore.dtypes import DType
from featurestore.kernel.roles import KnownAt
from featurestore.testing.reference_content import content_hash, decimal_of, unscaled
from featurestore.testing.reference_expressions import Expression, expression
from featurestore.testing.reference_operations import OPERATIONS, Asked, Item, Overflow, rank, tidy

Row: TypeAlias = "dict[str, Any]"
"""A log row after casting: int, float, str, bool, bytes, Decimal, datetime.date, list or None; an instant
is an int, microseconds UTC."""


@dataclass(frozen=True)
class Value:
    """A feature's value. ``flagged``: null because it is beyond its type. ``latest``: the latest event_time
    among the facts that contribute, None for none."""

    value: Any
    flagged: bool
    latest: int | None


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

    def known(self, known_at: int | None) -> bool:
        """Whether it was available strictly before ``known_at``; null is known only when that is absent."""
        return known_at is None or (self.available_at is not None and self.available_at < known_at)


@dataclass(frozen=True)
class _Feature:
    """A feature's declaration with its expressions made ready for rows."""

    name: str
    aggregation: Aggregation
    window_us: int | None
    input: Expression | None
    where: Expression | None
    order: Expression | None


class Oracle:
    """Answers about ``view`` from the log rows themselves. ``schema`` has the declared columns, in order."""

    def __init__(self, view: FeatureView, schema: Mapping[str, DType], rows: Sequence[Row]) -> None:
        self.view = view
        self.schema = dict(schema)
        cast = [{name: _cast(row.get(name), dtype) for name, dtype in self.schema.items()} for row in rows]
        good = [row for row in cast if not _is_bad(view, row)]
        self._rejected = len(cast) - len(good)
        self.versions = [_version(view, self.schema, row, number) for number, row in enumerate(good)]
        self.features = [
            feature for aggregation in view.features for feature in _features(aggregation, self.schema)
        ]
        # What a version contributes to a feature is the same at every T and K: computed once.
        self._contributed: dict[tuple[str, int], list[Item]] = {}

    def dtypes(self) -> dict[str, DType]:
        """The type of each feature's values."""
        return {feature.name: _result_dtype(feature) for feature in self.features}

    def answer(self, keys: tuple[Any, ...], *, as_of: int | None, known_at: KnownAt) -> dict[str, Value]:
        """Every feature of the entity ``keys`` at ``as_of``; all null at a null time."""
        if as_of is None:
            return {feature.name: Value(None, flagged=False, latest=None) for feature in self.features}
        horizon = as_of if known_at == "as_of" else known_at
        facts = self.facts(keys, known_at=horizon)
        return {feature.name: self._value(feature, facts, as_of) for feature in self.features}

    def _value(self, feature: _Feature, facts: Sequence[Version], as_of: int) -> Value:
        inside = [fact for fact in facts if _in_window(feature, fact, as_of)]
        return _value(feature, [item for fact in inside for item in self._items(feature, fact)], as_of)

    def _items(self, feature: _Feature, fact: Version) -> list[Item]:
        place = (feature.name, fact.number)
        if place not in self._contributed:
            self._contributed[place] = _items(feature, fact)
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


def _is_bad(view: FeatureView, row: Row) -> bool:
    """No id where one is declared, or no event time; a retraction needs none of the latter."""
    source = view.source
    if any(row[name] is None for name in source.ids):
        return True
    return row[source.event_time] is None and not _retracts(view, row)


def _retracts(view: FeatureView, row: Row) -> bool:
    return view.source.deleted is not None and row[view.source.deleted] is True


def _version(view: FeatureView, schema: Mapping[str, DType], row: Row, number: int) -> Version:
    source = view.source
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
        retracts=_retracts(view, row),
        version=_nulls_first(row[source.version]) if source.version is not None else None,
        order=_nulls_first(row[source.order_by]) if source.order_by is not None else None,
        content=content_hash(
            row, {name: dtype for name, dtype in schema.items() if name != source.available_at}
        ),
    )


def _chosen(versions: Sequence[Version]) -> Version:
    """The version of one identity that counts: each content once, from its least ``available_at``; of these
    the one that is ranked last."""
    first_delivery: dict[tuple[int, int], Version] = {}
    for version in sorted(versions, key=lambda version: _nulls_last(version.available_at)):
        first_delivery.setdefault(version.content, version)
    return max(
        first_delivery.values(),
        key=lambda version: (version.version, _nulls_last(version.available_at), version.content),
    )


def _place(version: Version) -> tuple[Any, ...]:
    """Its place on the timeline. The last part settles rows without id, equal but for ``available_at``."""
    return (version.event_time, version.order, version.id, version.content, _nulls_last(version.available_at))


def _nulls_first(value: Any) -> tuple[Any, ...]:
    return (0,) if value is None else (1, rank(value))


def _nulls_last(value: Any) -> tuple[Any, ...]:
    return (1,) if value is None else (0, value)


# --- values of features


def _features(aggregation: Aggregation, schema: Mapping[str, DType]) -> list[_Feature]:
    order = dict(aggregation.parameters).get("order")
    return [
        _Feature(
            name=name,
            aggregation=aggregation,
            window_us=None if window is None else window.window_us,
            input=None if aggregation.column is None else expression(aggregation.column, schema),
            where=None if aggregation.where is None else expression(aggregation.where, schema),
            order=expression(order, schema) if isinstance(order, str) else None,
        )
        for name, window in aggregation.feature_names()
    ]


def _value(feature: _Feature, items: Sequence[Item], as_of: int) -> Value:
    aggregation = feature.aggregation
    operation = aggregation.operation
    if not items:
        if operation.zero_when_empty:
            return Value(0, flagged=False, latest=None)
        return Value(_default(feature), flagged=False, latest=None)
    latest = max(item.event_time for item in items)
    asked = Asked(as_of, dict(aggregation.parameters), _item_dtype(feature))
    try:
        value = OPERATIONS[aggregation.op](items, asked)
    except Overflow:
        return Value(None, flagged=True, latest=latest)
    return Value(tidy(value), flagged=False, latest=latest)


def _in_window(feature: _Feature, fact: Version, as_of: int) -> bool:
    """Whether ``event_time`` is in ``[T - delay - window, T - delay)``; a lifetime has no start."""
    assert fact.event_time is not None
    end = as_of - feature.aggregation.delay_us
    if fact.event_time >= end:
        return False
    return feature.window_us is None or fact.event_time >= end - feature.window_us


def _items(feature: _Feature, fact: Version) -> list[Item]:
    """What a fact contributes: nothing, its input, or each non-null element of its list."""
    assert fact.event_time is not None
    if feature.where is not None and feature.where.of(fact.row) is not True:
        return []
    if feature.input is None:
        return [Item(None, fact.event_time)]
    value = tidy(feature.input.of(fact.row))
    order = None if feature.order is None else tidy(feature.order.of(fact.row))
    if value is None or (feature.order is not None and order is None):
        return []
    if isinstance(value, list) and not feature.aggregation.operation.whole_lists:
        return [Item(element, fact.event_time) for element in value if element is not None]
    return [Item(value, fact.event_time, order)]


def _item_dtype(feature: _Feature) -> DType | None:
    """The type of one item's value: an exploded list's elements have the list's item type."""
    if feature.input is None:
        return None
    dtype = feature.input.dtype
    explodes = dtype.kind == "list" and not feature.aggregation.operation.whole_lists
    return dtype.item if explodes else dtype


def _result_dtype(feature: _Feature) -> DType:
    aggregation = feature.aggregation
    # An operation without a column says what it gives whatever it is asked of.
    dtype = _item_dtype(feature) or DType("int64")
    return aggregation.operation.result(dtype, dict(aggregation.parameters))


def _default(feature: _Feature) -> Any:
    return tidy(_cast(feature.aggregation.default, _result_dtype(feature)))


def _cast(value: Any, dtype: DType) -> Any:
    """A value as its column or its result holds it: canonical floats, decimals of the type's scale."""
    if value is None:
        return None
    match dtype.kind:
        case "float64":
            return tidy(float(value))
        case "decimal":
            return decimal_of(unscaled(Decimal(str(value)), dtype.scale), dtype.scale)
        case "timestamp" if isinstance(value, datetime.datetime):
            since = value - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
            return since // datetime.timedelta(microseconds=1)
        case "list":
            assert dtype.item is not None
            return [_cast(element, dtype.item) for element in value]
    return value
