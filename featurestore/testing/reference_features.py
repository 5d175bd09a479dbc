"""The oracle's features: what one fact contributes to a feature, and a feature's value over what contributes.

Time: a fact counts when its time is in ``[T - delay - window, T - delay)``. Which facts there are, is none of
this file's business: events and tables choose them, each by its own rules.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeAlias

from featurestore.dsl.aggregation import Aggregation
from featurestore.dtypes import DType
from featurestore.testing.reference_content import decimal_of, unscaled
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
class Feature:
    """A feature's declaration with its expressions made ready for rows."""

    name: str
    aggregation: Aggregation
    window_us: int | None
    input: Expression | None
    where: Expression | None
    order: Expression | None


def features_of(aggregation: Aggregation, schema: Mapping[str, DType]) -> list[Feature]:
    order = dict(aggregation.parameters).get("order")
    return [
        Feature(
            name=name,
            aggregation=aggregation,
            window_us=None if window is None else window.window_us,
            input=None if aggregation.column is None else expression(aggregation.column, schema),
            where=None if aggregation.where is None else expression(aggregation.where, schema),
            order=expression(order, schema) if isinstance(order, str) else None,
        )
        for name, window in aggregation.feature_names()
    ]


def value_of(feature: Feature, items: Sequence[Item], as_of: int) -> Value:
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


def in_window(feature: Feature, event_time: int, as_of: int) -> bool:
    """Whether it is in ``[T - delay - window, T - delay)``; a lifetime has no start."""
    end = as_of - feature.aggregation.delay_us
    if event_time >= end:
        return False
    return feature.window_us is None or event_time >= end - feature.window_us


def items_of(feature: Feature, row: Row, event_time: int) -> list[Item]:
    """What a fact contributes: nothing, its input, or each non-null element of its list."""
    if feature.where is not None and feature.where.of(row) is not True:
        return []
    if feature.input is None:
        return [Item(None, event_time)]
    value = tidy(feature.input.of(row))
    order = None if feature.order is None else tidy(feature.order.of(row))
    if value is None or (feature.order is not None and order is None):
        return []
    if isinstance(value, list) and not feature.aggregation.operation.whole_lists:
        return [Item(element, event_time) for element in value if element is not None]
    return [Item(value, event_time, order)]


def _item_dtype(feature: Feature) -> DType | None:
    """The type of one item's value: an exploded list's elements have the list's item type."""
    if feature.input is None:
        return None
    dtype = feature.input.dtype
    explodes = dtype.kind == "list" and not feature.aggregation.operation.whole_lists
    return dtype.item if explodes else dtype


def result_dtype(feature: Feature) -> DType:
    aggregation = feature.aggregation
    # An operation without a column says what it gives whatever it is asked of.
    dtype = _item_dtype(feature) or DType("int64")
    return aggregation.operation.result(dtype, dict(aggregation.parameters))


def _default(feature: Feature) -> Any:
    return tidy(cast(feature.aggregation.default, result_dtype(feature)))


def cast(value: Any, dtype: DType) -> Any:
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
            return [cast(element, dtype.item) for element in value]
    return value


def nulls_first(value: Any) -> tuple[Any, ...]:
    return (0,) if value is None else (1, rank(value))


def nulls_last(value: Any) -> tuple[Any, ...]:
    return (1,) if value is None else (0, value)
