"""The oracle's operations: one small function each, over the values that contribute, oldest first.

Time: an item carries its fact's ``event_time``; ``asked.as_of`` is the question's T, without the delay.
Nobody here knows of windows: whoever calls has chosen the items.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, TypeAlias

from featurestore.dtypes import DType
from featurestore.testing.reference_content import decimal_of, unscaled

INT64_MIN = -(2**63)
INT64_MAX = 2**63 - 1
NAN = float("nan")


@dataclass(frozen=True)
class Item:
    """A value that contributes: an input or a list input's element. ``order`` is for min_by and max_by."""

    value: Any
    event_time: int
    order: Any = None


@dataclass(frozen=True)
class Asked:
    """What an operation needs beside its items: T, its parameters, and the type of an item's value."""

    as_of: int
    parameters: Mapping[str, Any]
    dtype: DType | None


class Overflow(Exception):
    """The exact result is beyond its type: the value is null and flagged."""


Items: TypeAlias = Sequence[Item]
Number: TypeAlias = "int | float | Decimal"


def rank(value: Any) -> tuple[int, Any]:
    """Where a value stands among its like: NaN above all, -0.0 beside 0.0, text by code point."""
    if isinstance(value, float):
        return (1, 0.0) if math.isnan(value) else (0, value + 0.0)
    return (0, value)


def tidy(value: Any) -> Any:
    """A value as results show it: no -0.0 and one NaN, inside lists and maps too."""
    if isinstance(value, float):
        return NAN if math.isnan(value) else value + 0.0
    if isinstance(value, list):
        return [tidy(each) for each in value]
    return value


def nearest(exact: Fraction) -> float:
    """The float64 nearest to an exact number, halves to even; beyond float64 an infinity."""
    try:
        return exact.numerator / exact.denominator
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


def ratio(a: float, b: float) -> float:
    """IEEE 754 division: by zero it is an infinity, or NaN for zero by zero."""
    if b != 0:
        return a / b
    return NAN if a == 0 or math.isnan(a) else math.copysign(math.inf, a) * math.copysign(1.0, b)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _not_finite(values: Sequence[Any]) -> bool:
    return any(isinstance(value, float) and not math.isfinite(value) for value in values)


def _values(items: Items) -> list[Any]:
    return [item.value for item in items]


def _without_nan(items: Items, of: Callable[[Item], Any]) -> list[Item]:
    """The items whose ``of`` is no NaN; all of them when each is NaN."""
    return [item for item in items if not _is_nan(of(item))] or list(items)


# --- counts and sums


def _count(items: Items, _: Asked) -> int:
    return len(items)


def _float_sum(values: Sequence[float]) -> float:
    if any(math.isnan(value) for value in values) or {math.inf, -math.inf} <= set(values):
        return NAN
    for infinity in (math.inf, -math.inf):
        if infinity in values:
            return infinity
    return nearest(sum(map(Fraction, values), Fraction(0)))


def _sum(items: Items, asked: Asked) -> Number:
    values = _values(items)
    assert asked.dtype is not None
    if asked.dtype.kind == "float64":
        return _float_sum(values)
    if asked.dtype.kind == "int64":
        total = sum(values)
        if not INT64_MIN <= total <= INT64_MAX:
            raise Overflow
        return int(total)
    scale = asked.dtype.scale
    units = sum(unscaled(value, scale) for value in values)
    if abs(units) >= 10**38:
        raise Overflow
    return decimal_of(units, scale)


def _mean(items: Items, _: Asked) -> float:
    values = _values(items)
    if _not_finite(values):
        return _float_sum(values) / len(values)
    return nearest(sum(map(Fraction, values), Fraction(0))) / len(values)


# --- moments


def _moment(values: Sequence[Number], power: int, n: int) -> float:
    """The exact sum of (x - mean)^power over n, rounded once; NaN beside a NaN or an infinity."""
    if _not_finite(values):
        return NAN
    exact = [Fraction(value) for value in values]
    mean = sum(exact, Fraction(0)) / len(exact)
    return nearest(sum(((x - mean) ** power for x in exact), Fraction(0)) / n)


def _variance(items: Items, asked: Asked) -> float | None:
    n = len(items) - 1 if asked.parameters.get("sample") else len(items)
    return _moment(_values(items), 2, n) if n else None


def _stddev(items: Items, asked: Asked) -> float | None:
    variance = _variance(items, asked)
    return None if variance is None else math.sqrt(variance)


def _skew(items: Items, _: Asked) -> float | None:
    values, n = _values(items), len(items)
    m2 = _moment(values, 2, n)
    if n < 3 or m2 == 0:
        return None
    return ratio(_moment(values, 3, n), m2 * math.sqrt(m2))


def _kurtosis(items: Items, _: Asked) -> float | None:
    values, n = _values(items), len(items)
    m2 = _moment(values, 2, n)
    if n < 4 or m2 == 0:
        return None
    return ratio(_moment(values, 4, n), m2 * m2) - 3


# --- extremes


def _min(items: Items, _: Asked) -> Any:
    return min(_values(_without_nan(items, lambda item: item.value)), key=rank)


def _max(items: Items, _: Asked) -> Any:
    return max(_values(_without_nan(items, lambda item: item.value)), key=rank)


def _top_k(items: Items, asked: Asked) -> list[Any]:
    values = _values(_without_nan(items, lambda item: item.value))
    return sorted(values, key=rank, reverse=True)[: asked.parameters["k"]]


def _bottom_k(items: Items, asked: Asked) -> list[Any]:
    values = _values(_without_nan(items, lambda item: item.value))
    return sorted(values, key=rank)[: asked.parameters["k"]]


def _min_by(items: Items, _: Asked) -> Any:
    kept = _without_nan(items, lambda item: item.order)
    smallest = min(rank(item.order) for item in kept)
    return [item.value for item in kept if rank(item.order) == smallest][-1]


def _max_by(items: Items, _: Asked) -> Any:
    kept = _without_nan(items, lambda item: item.order)
    largest = max(rank(item.order) for item in kept)
    return [item.value for item in kept if rank(item.order) == largest][-1]


# --- by timeline order


def _first(items: Items, _: Asked) -> Any:
    return items[0].value


def _last(items: Items, _: Asked) -> Any:
    return items[-1].value


def _first_k(items: Items, asked: Asked) -> list[Any]:
    return _values(items)[: asked.parameters["k"]]


def _last_k(items: Items, asked: Asked) -> list[Any]:
    return _values(items)[::-1][: asked.parameters["k"]]


def _time_since_first(items: Items, asked: Asked) -> float:
    return (asked.as_of - items[0].event_time) / 1_000_000


def _time_since_last(items: Items, asked: Asked) -> float:
    return (asked.as_of - items[-1].event_time) / 1_000_000


# --- distinct values


def _counts(items: Items) -> dict[tuple[int, Any], int]:
    """How often each value is there, smallest first, by rank: NaN is one value."""
    counts: dict[tuple[int, Any], int] = {}
    for value in sorted(_values(items), key=rank):
        counts[rank(value)] = counts.get(rank(value), 0) + 1
    return counts


def _of_rank(place: tuple[int, Any]) -> Any:
    return NAN if place[0] else place[1]


def _count_distinct(items: Items, _: Asked) -> int:
    return len(_counts(items))


def _distinct_k(items: Items, asked: Asked) -> list[Any]:
    newest_first = dict.fromkeys(rank(item.value) for item in reversed(items))
    return [_of_rank(place) for place in newest_first][: asked.parameters["k"]]


def _most_frequent(items: Items) -> list[tuple[tuple[int, Any], int]]:
    # sorted() is stable and the counts come smallest value first, so ties stay in that order.
    return sorted(_counts(items).items(), key=lambda entry: -entry[1])


def _mode(items: Items, _: Asked) -> Any:
    return _of_rank(_most_frequent(items)[0][0])


def _histogram(items: Items, asked: Asked) -> dict[Any, int]:
    kept = _most_frequent(items)[: asked.parameters.get("k")]
    return {_of_rank(place): count for place, count in sorted(kept)}


# --- percentile


def _percentile(items: Items, asked: Asked) -> float:
    """``numpy.quantile(values, q, method="linear")``, step by step in float64."""
    values: list[float] = sorted(v if isinstance(v, float) else nearest(Fraction(v)) for v in _values(items))
    if any(math.isnan(value) for value in values):
        return NAN
    h: float = float(len(values) - 1) * asked.parameters["q"]
    below = math.floor(h)
    t = h - below
    a, b = values[below], values[min(below + 1, len(values) - 1)]
    if a == b or t == 0:
        return a
    return a + (b - a) * t if t < 0.5 else b - (b - a) * (1 - t)


# --- booleans


def _bool_any(items: Items, _: Asked) -> bool:
    return any(_values(items))


def _bool_all(items: Items, _: Asked) -> bool:
    return all(_values(items))


OPERATIONS: Mapping[str, Callable[[Items, Asked], Any]] = {
    "count": _count,
    "sum": _sum,
    "mean": _mean,
    "variance": _variance,
    "stddev": _stddev,
    "skew": _skew,
    "kurtosis": _kurtosis,
    "min": _min,
    "max": _max,
    "first": _first,
    "last": _last,
    "first_k": _first_k,
    "last_k": _last_k,
    "min_by": _min_by,
    "max_by": _max_by,
    "top_k": _top_k,
    "bottom_k": _bottom_k,
    "count_distinct": _count_distinct,
    "distinct_k": _distinct_k,
    "mode": _mode,
    "histogram": _histogram,
    "percentile": _percentile,
    "time_since_first": _time_since_first,
    "time_since_last": _time_since_last,
    "bool_any": _bool_any,
    "bool_all": _bool_all,
}
