"""Arithmetic and comparison: int64 with overflows flagged, IEEE 754 float64, exact decimals.

NaN equals NaN and stands above every number. Instants compare as their microseconds; so does a difference.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.dtypes import DType
from featurestore.kernel import expression_decimal
from featurestore.kernel.expression_arrays import (
    Flagged,
    Mask,
    Vector,
    both,
    flagging,
    nulled,
    numbers,
    packed,
)
from featurestore.kernel.expression_meeting import decimal_result

_LEAST = -(2**63)
_ORDER: dict[str, Callable[..., pa.Array]] = {
    "=": pc.equal,
    "<>": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}


def arithmetic(op: str, left: Vector, right: Vector) -> Vector:
    """``left op right`` of one kind."""
    kind = left.array.type
    if pa.types.is_decimal(kind):
        result = decimal_result(op, *(_decimal_type(x.array.type) for x in (left, right)))
        return flagging(expression_decimal.arithmetic(op, result.arrow), left, right)
    return flagging((_FLOAT if kind == pa.float64() else _INT)[op], left, right)


def compare(op: str) -> Callable[..., pa.Array]:
    """``op`` of two arrays, or an array and a scalar, of one kind."""

    def ordered(a: pa.Array | pa.Scalar, b: pa.Array | pa.Scalar) -> pa.Array:
        if a.type == pa.float64():
            return _compare_floats(op, _array(a), _array(b))
        if pa.types.is_decimal(a.type):
            a, b = expression_decimal.aligned(a, b)
        return _ORDER[op](a, b)

    return ordered


def negate(array: pa.Array) -> Flagged:
    if pa.types.is_decimal(array.type):
        return pc.negate(array), None
    values, mask = numbers(array)
    if array.type == pa.float64():
        return packed(-values, mask, array.type), None
    with np.errstate(all="ignore"):
        return nulled(-values, mask, values == _LEAST, array.type)


def absolute(array: pa.Array) -> Flagged:
    if pa.types.is_decimal(array.type):
        return pc.abs(array), None
    values, mask = numbers(array)
    if array.type == pa.float64():
        return packed(np.abs(values), mask, array.type), None
    with np.errstate(all="ignore"):
        return nulled(np.abs(values), mask, values == _LEAST, array.type)


def _decimal_type(dtype: pa.Decimal128Type) -> DType:
    return DType("decimal", precision=dtype.precision, scale=dtype.scale)


def _array(x: pa.Array | pa.Scalar) -> pa.Array:
    return pa.repeat(x, 1) if isinstance(x, pa.Scalar) else x


def _compare_floats(op: str, a: pa.Array, b: pa.Array) -> pa.Array:
    (x, x_mask), (y, y_mask) = numbers(a), numbers(b)
    match op:
        case "=":
            result = _equal(x, y)
        case "<>":
            result = ~_equal(x, y)
        case "<":
            result = _below(x, y)
        case ">":
            result = _below(y, x)
        case "<=":
            result = ~_below(y, x)
        case _:
            result = ~_below(x, y)
    return packed(result, both(x_mask, y_mask), pa.bool_())


def _equal(x: NDArray[np.float64], y: NDArray[np.float64]) -> Mask:
    equal: Mask = (x == y) | (np.isnan(x) & np.isnan(y))
    return equal


def _below(x: NDArray[np.float64], y: NDArray[np.float64]) -> Mask:
    below: Mask = (x < y) | (np.isnan(y) & ~np.isnan(x))
    return below


def _floats(function: Callable[..., NDArray[np.float64]]) -> Callable[[pa.Array, pa.Array], Flagged]:
    def compute(a: pa.Array, b: pa.Array) -> Flagged:
        (x, x_mask), (y, y_mask) = numbers(a), numbers(b)
        with np.errstate(all="ignore"):
            return packed(function(x, y), both(x_mask, y_mask), pa.float64()), None

    return compute


def _ints(function: Callable[..., tuple[NDArray[np.int64], Mask]]) -> Callable[[pa.Array, pa.Array], Flagged]:
    """``function`` gives the results modulo 2**64 and where they overflowed."""

    def compute(a: pa.Array, b: pa.Array) -> Flagged:
        (x, x_mask), (y, y_mask) = numbers(a), numbers(b)
        with np.errstate(all="ignore"):
            values, bad = function(x.astype(np.int64, copy=False), y.astype(np.int64, copy=False))
        return nulled(values, both(x_mask, y_mask), bad, pa.int64())

    return compute


def _add(x: NDArray[np.int64], y: NDArray[np.int64]) -> tuple[NDArray[np.int64], Mask]:
    # An overflow has the sign that neither operand has.
    return (r := x + y), ((x ^ r) & (y ^ r)) < 0


def _subtract(x: NDArray[np.int64], y: NDArray[np.int64]) -> tuple[NDArray[np.int64], Mask]:
    return (r := x - y), ((x ^ y) & (x ^ r)) < 0


def _multiply(x: NDArray[np.int64], y: NDArray[np.int64]) -> tuple[NDArray[np.int64], Mask]:
    r = x * y
    if _magnitude(x) * _magnitude(y) < 2**63:
        return r, np.zeros(r.shape, np.bool_)
    divisor = np.where(y == 0, 1, y)
    # The least int64 divided by -1 overflows itself, so that pair is named.
    bad = (y != 0) & ((r % divisor != 0) | (r // divisor != x) | ((y == -1) & (x == _LEAST)))
    return r, bad


def _magnitude(x: NDArray[np.int64]) -> int:
    return max(int(x.max()), -int(x.min())) if x.size else 0


def _int_remainder(a: pa.Array, b: pa.Array) -> Flagged:
    (x, x_mask), (y, y_mask) = numbers(a), numbers(b)
    zero = y == 0
    mask = both(x_mask, y_mask)
    if zero.any():
        mask = both(mask, ~zero)
    with np.errstate(all="ignore"):
        return packed(np.fmod(x, np.where(zero, 1, y)), mask, pa.int64()), None


# One zero: a divisor of -0.0 is 0.0. fmod is exact by IEEE 754, and the sign is the dividend's.
_FLOAT = {
    "+": _floats(np.add),
    "-": _floats(np.subtract),
    "*": _floats(np.multiply),
    "/": _floats(lambda x, y: x / (y + 0.0)),
    "%": _floats(np.fmod),
}
_INT = {"+": _ints(_add), "-": _ints(_subtract), "*": _ints(_multiply), "%": _int_remainder}
