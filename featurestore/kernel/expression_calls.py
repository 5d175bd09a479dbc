"""The functions of the expression language over Arrow; their rules are in ``expression_functions``.

Parts of an instant are those of the proleptic Gregorian calendar in UTC, counted in integers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.kernel import expression_decimal
from featurestore.kernel.expression import Literal, Node
from featurestore.kernel.expression_arrays import Vector, arrow, flagging, numbers, packed
from featurestore.kernel.expression_casts import DAY_US
from featurestore.kernel.expression_numbers import absolute, compare

_ROUND = {"floor": (np.floor, "down"), "ceil": (np.ceil, "up"), "round": (np.rint, "half_to_even")}


def call(name: str, args: Sequence[Node], operands: Sequence[Vector]) -> Vector:
    """``name`` of ``operands``, the values of ``args``, bound."""
    x = operands[0]
    match name:
        case "abs":
            return flagging(absolute, x)
        case "greatest" | "least":
            better = compare("<" if name == "greatest" else ">")
            return reduce(lambda a, b: arrow(_extreme(better), a, b), operands)
        case "concat":
            return arrow(
                lambda *parts: pc.binary_join_element_wise(*parts, "", null_handling="emit_null"), *operands
            )
        case "contains" | "starts_with" | "ends_with":
            function = {"contains": pc.match_substring}.get(name) or getattr(pc, name)
            return arrow(lambda array: function(array, pattern=_value(args[1])), x)
        case "substr":
            return arrow(_substr(args[1:]), x)
    return arrow(_UNARY.get(name) or (lambda array: _round(array, name)), x)


def _value(node: Node) -> str | int:
    assert isinstance(node, Literal) and isinstance(node.value, str | int)
    return node.value


def _extreme(better: Callable[..., pa.Array]) -> Callable[..., pa.Array]:
    def choose(a: pa.Array | pa.Scalar, b: pa.Array | pa.Scalar) -> pa.Array:
        return pc.if_else(pc.coalesce(better(a, b), pc.is_null(a)), b, a)

    return choose


def _substr(args: Sequence[Node]) -> Callable[[pa.Array], pa.Array]:
    start = int(_value(args[0])) - 1
    stop = None if len(args) == 1 else min(start + int(_value(args[1])), 2**62)
    return lambda array: pc.utf8_slice_codeunits(array, start=min(start, 2**62), stop=stop)


def _round(array: pa.Array, name: str) -> pa.Array:
    function, mode = _ROUND[name]
    if pa.types.is_decimal(array.type):
        if array.type.scale == 0:
            return array
        dtype = pa.decimal128(array.type.precision - array.type.scale + 1, 0)
        return expression_decimal.rounded(array, mode, dtype)
    if array.type == pa.int64():
        return array
    values, mask = numbers(array)
    return packed(function(values), mask, array.type)


def _sign(array: pa.Array) -> pa.Array:
    return pc.sign(array).cast(pa.float64() if array.type == pa.float64() else pa.int64())


def _sqrt(array: pa.Array) -> pa.Array:
    values, mask = numbers(array)
    with np.errstate(all="ignore"):
        return packed(np.sqrt(values), mask, array.type)


def _of_day(unit_us: int, count: int) -> Callable[[pa.Array], pa.Array]:
    """A part of the time of day: whole units since midnight, modulo ``count``."""

    def part(array: pa.Array) -> pa.Array:
        values, mask = numbers(array)
        return packed(values // unit_us % count, mask, pa.int64())

    return part


def _of_calendar(
    function: Callable[[NDArray[np.int64]], NDArray[np.int64]],
) -> Callable[[pa.Array], pa.Array]:
    """A part of the date, from its days since 1970-01-01."""

    def part(array: pa.Array) -> pa.Array:
        values, mask = numbers(array)
        days = values.astype(np.int64) if pa.types.is_date(array.type) else values // DAY_US
        return packed(function(days), mask, pa.int64())

    return part


def _months(days: NDArray[np.int64]) -> NDArray[np.int64]:
    """Months since January 1970."""
    return days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)


def _first_day(months: NDArray[np.int64]) -> NDArray[np.int64]:
    return months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)


_UNARY: dict[str, Callable[[pa.Array], pa.Array]] = {
    "day": _of_calendar(lambda days: days - _first_day(_months(days)) + 1),
    "day_of_week": _of_calendar(lambda days: (days + 3) % 7 + 1),  # 1970-01-01 was a Thursday
    "epoch_us": lambda array: array.view(pa.int64()),
    "hour": _of_day(3_600_000_000, 24),
    "is_nan": pc.is_nan,
    "length": lambda array: pc.utf8_length(array).cast(pa.int64()),
    "lower": pc.ascii_lower,
    "ltrim": pc.ascii_ltrim_whitespace,
    "minute": _of_day(60_000_000, 60),
    "month": _of_calendar(lambda days: _months(days) % 12 + 1),
    "rtrim": pc.ascii_rtrim_whitespace,
    "second": _of_day(1_000_000, 60),
    "sign": _sign,
    "sqrt": _sqrt,
    "trim": pc.ascii_trim_whitespace,
    "upper": pc.ascii_upper,
    "year": _of_calendar(lambda days: _months(days) // 12 + 1970),
}
