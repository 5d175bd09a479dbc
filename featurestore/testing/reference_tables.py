"""The oracle for mutable tables: a slow, obvious, row-at-a-time reading of docs/semantics.md.

Time: a change is known when it was available strictly before K, and happened when it was committed strictly
before T - delay. A row is as its last such change, in ``position`` order, left it; it counts when its own
event_time is in ``[T - delay - window, T - delay)``. No change is ever given an end here: every question
looks at all changes anew. The order of work is that of the page: reject bad input, keep what K knows, find
each row's last change, and only then key, ``where``, null input and window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from featurestore.dsl.feature_view import FeatureView
from featurestore.dsl.table_source import TableSource
from featurestore.dtypes import INT64, DType
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
from featurestore.testing.reference_operations import Item

UPSERT, DELETE, TRUNCATE = 0, 1, 2
OPERATION = "__op"
"""Where a change says what it does: ``UPSERT`` (snapshot read, create, update), ``DELETE``, ``TRUNCATE``."""


@dataclass(frozen=True)
class TableCounts:
    """Changes, as a training set with this ``known_at`` counts them. ``rejected``: bad input. Of the others
    that K knows: ``keyless`` leave a row a null entity key, ``timeless`` a null event_time; ``duplicates``
    repeat another's position and content; ``conflicts`` are a row's further contents at one position."""

    rejected: int
    keyless: int
    timeless: int
    duplicates: int
    conflicts: int


@dataclass(frozen=True)
class Change:
    """The ``number``-th row of the log that is not bad input. ``row`` has every declared column and ``__op``;
    ``time`` is that of the fact which the change leaves: the row's event_time, or ``changed_at`` in a table
    without one."""

    number: int
    row: Row
    operation: int
    primary_key: tuple[Any, ...]
    changed_at: int
    position: tuple[int, ...]
    available_at: int | None
    key: tuple[Any, ...]
    time: int | None
    place: tuple[Any, ...]
    content: tuple[int, int]

    def known(self, known_at: int | None) -> bool:
        """Whether it was available strictly before ``known_at``; null is known only when that is absent."""
        return known_at is None or (self.available_at is not None and self.available_at < known_at)


class TableOracle:
    """Answers about ``view``, over a TableSource, from its changes themselves.

    ``schema`` has the declared columns, in order. ``changes`` are rows of canonical Python values, as the
    events' oracle takes them, with ``"__op"`` beside the declared columns; positions are ints.
    """

    def __init__(self, view: FeatureView, schema: Mapping[str, DType], changes: Sequence[Row]) -> None:
        source = view.source
        assert isinstance(source, TableSource), f'view "{view.name}" is over events: ask an Oracle'
        assert source.changed_at and source.positions, (
            f'source "{source.name}": columns of a format are unnamed'
        )
        self.view = view
        self.source = source
        self.schema = dict(schema)
        columns = {**self.schema, OPERATION: INT64}
        held = [{name: cast(row.get(name), dtype) for name, dtype in columns.items()} for row in changes]
        good = [row for row in held if not _is_bad(source, row)]
        self._rejected = len(held) - len(good)
        self.changes = [_change(view, source, columns, row, number) for number, row in enumerate(good)]
        self.features = [
            feature for aggregation in view.features for feature in features_of(aggregation, self.schema)
        ]
        if source.event_time is None:
            windowed = [feature.name for feature in self.features if feature.window_us is not None]
            assert not windowed, f"{windowed}: a table without event_time has lifetime windows only"
        # What a change leaves for a feature is the same at every T and K: computed once.
        self._contributed: dict[tuple[str, int], list[Item]] = {}

    def dtypes(self) -> dict[str, DType]:
        """The type of each feature's values."""
        return {feature.name: result_dtype(feature) for feature in self.features}

    def answer(self, keys: tuple[Any, ...], *, as_of: int | None, known_at: KnownAt) -> dict[str, Value]:
        """Every feature of the entity ``keys`` at ``as_of``; all null at a null time."""
        if as_of is None:
            return {feature.name: Value(None, flagged=False, latest=None) for feature in self.features}
        horizon = as_of if known_at == "as_of" else known_at
        delays = {feature.aggregation.delay_us for feature in self.features}
        facts = {delay: self.facts(keys, as_of=as_of - delay, known_at=horizon) for delay in delays}
        return {
            feature.name: self._value(feature, facts[feature.aggregation.delay_us], as_of)
            for feature in self.features
        }

    def facts(self, keys: tuple[Any, ...], *, as_of: int, known_at: int | None) -> list[Change]:
        """The timeline of one entity at ``as_of`` as ``known_at`` knows it: what left each live row as it
        is, in order. ``as_of`` is the question's T less the delay."""
        mine = [change for change in self.live(as_of=as_of, known_at=known_at) if change.key == tuple(keys)]
        return sorted(
            (change for change in mine if None not in change.key and change.time is not None),
            key=lambda change: change.place,
        )

    def live(self, *, as_of: int, known_at: int | None) -> list[Change]:
        """The last change of each row that there is at ``as_of``, as ``known_at`` knows it, of any entity."""
        happened = [c for c in self.changes if c.known(known_at) and c.changed_at < as_of]
        truncates = [change.position for change in happened if change.operation == TRUNCATE]
        by_row: dict[tuple[Any, ...], list[Change]] = {}
        for change in happened:
            if change.operation != TRUNCATE:
                by_row.setdefault(change.primary_key, []).append(change)
        last = [_last(changes) for changes in by_row.values()]
        return [
            change
            for change in last
            if change.operation == UPSERT and not any(position >= change.position for position in truncates)
        ]

    def counts(self, *, known_at: KnownAt = None) -> TableCounts:
        """What a training set reports. Under ``"as_of"`` a change counts when any question could know it."""
        horizon = 2**63 if known_at == "as_of" else known_at
        known = [change for change in self.changes if change.known(horizon)]
        rows = [change for change in known if change.operation == UPSERT]
        contents = {(change.primary_key, change.position, change.content) for change in known}
        of_rows = {
            (change.primary_key, change.position, change.content)
            for change in known
            if change.operation != TRUNCATE
        }
        return TableCounts(
            rejected=self._rejected,
            keyless=sum(None in change.key for change in rows),
            timeless=sum(change.time is None for change in rows),
            duplicates=len(known) - len(contents),
            conflicts=len(of_rows) - len({(primary_key, position) for primary_key, position, _ in of_rows}),
        )

    def _value(self, feature: Feature, facts: Sequence[Change], as_of: int) -> Value:
        items: list[Item] = []
        for fact in facts:
            assert fact.time is not None
            # A table without event_time is not asked about it: its row is live, and that is all.
            if self.source.event_time is None or in_window(feature, fact.time, as_of):
                items += self._items(feature, fact, fact.time)
        return value_of(feature, items, as_of)

    def _items(self, feature: Feature, fact: Change, time: int) -> list[Item]:
        held = (feature.name, fact.number)
        if held not in self._contributed:
            self._contributed[held] = items_of(feature, fact.row, time)
        return self._contributed[held]


def _is_bad(source: TableSource, row: Row) -> bool:
    """No ``changed_at``, no part of the position, or no part of the primary key; a truncate needs no key."""
    assert source.changed_at is not None
    needed = [source.changed_at, *source.positions]
    if row[OPERATION] != TRUNCATE:
        needed += source.primary_keys
    return any(row[name] is None for name in needed)


def _change(
    view: FeatureView, source: TableSource, columns: Mapping[str, DType], row: Row, number: int
) -> Change:
    assert source.changed_at is not None
    changed_at: int = row[source.changed_at]
    position = tuple(row[name] for name in source.positions)
    primary_key = tuple(nulls_first(row[name]) for name in source.primary_keys)
    content = content_hash(
        row, {name: dtype for name, dtype in columns.items() if name != source.available_at}
    )
    time: int | None = changed_at if source.event_time is None else row[source.event_time]
    order = () if source.order_by is None else nulls_first(row[source.order_by])
    # Among live rows a primary key stands once: nothing after it can decide.
    own_time = (time, order, primary_key, content)
    return Change(
        number=number,
        row=row,
        operation=row[OPERATION],
        primary_key=primary_key,
        changed_at=changed_at,
        position=position,
        available_at=changed_at if source.available_at is None else row[source.available_at],
        key=tuple(row[name] for name in view.entity.keys),
        time=time,
        place=(changed_at, position, primary_key) if source.event_time is None else own_time,
        content=content,
    )


def _last(changes: Sequence[Change]) -> Change:
    """The last of one row's changes: by position, of two contents there the one of the greater hash, of two
    of its deliveries the one that was available first."""
    # max() returns the first of equals.
    by_arrival = sorted(changes, key=lambda change: nulls_last(change.available_at))
    return max(by_arrival, key=lambda change: (change.position, change.content))
