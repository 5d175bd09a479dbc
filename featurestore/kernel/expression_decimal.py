"""Exact decimals: sums, products, remainders and conversions in 256 bits, then fitted to 38 digits.

Halves that a conversion drops go to the even neighbour. Nothing here depends on a time.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.kernel.expression_arrays import Flagged, Mask, both, numbers, packed, union, valid

_WIDE = 76
"""Digits of the widest decimal256; 10**76 < 2**255, and so is 5 * 10**76."""

_EXACT_INTEGERS = 2**53
_EXACT_POWERS = 22
"""10.0**22 is the largest power of ten that float64 holds exactly."""


def arithmetic(op: str, dtype: pa.Decimal128Type) -> Callable[[pa.Array, pa.Array], Flagged]:
    """``op``, one of ``+ - * %``: exact, and null and flagged where the result does not fit ``dtype``."""

    def compute(a: pa.Array, b: pa.Array) -> Flagged:
        if op != "%" and (small := _small_arithmetic(op, a, b, dtype)) is not None:
            return small, None
        a, b = _broadcast(a, b)
        if op == "%":
            return _remainder(a, b, dtype)
        if op == "*":
            # Arrow asks for p1 + p2 + 1 <= 76 digits; two factors of 38 make 76, which 256 bits hold.
            return _fitted(pc.multiply(_viewed(_wide(a), 37), _viewed(_wide(b), 37)), dtype)
        function = pc.add if op == "+" else pc.subtract
        return _fitted(function(*(_viewed(_wide(x, dtype.scale), 75) for x in (a, b))), dtype)

    return compute


def _small_arithmetic(op: str, a: pa.Array, b: pa.Array, dtype: pa.Decimal128Type) -> pa.Array | None:
    """``a op b`` in int64, several times as fast; None where a value could leave int64."""
    (x, x_mask), (y, y_mask) = _int64s(a), _int64s(b)
    if x is None or y is None:
        return None
    mask = both(x_mask, y_mask)
    x_power, y_power = (1, 1) if op == "*" else (10 ** (dtype.scale - part.type.scale) for part in (a, b))
    x_most, y_most = _largest(x) * x_power, _largest(y) * y_power
    if max(x_power, y_power) >= 2**62 or x_most >= 2**62 or y_most >= 2**62:
        return None
    if (x_most * y_most if op == "*" else x_most + y_most) >= 2**63:
        return None  # and what fits int64 fits dtype, which is cut to 38 digits only
    x, y = x * x_power, y * y_power
    return _from_unscaled(x * y if op == "*" else x + y if op == "+" else x - y, mask, dtype)


def aligned(a: pa.Array | pa.Scalar, b: pa.Array | pa.Scalar) -> tuple[pa.Array, pa.Array]:
    """Decimals of any two types, made to compare by value."""
    if a.type == b.type:
        return a, b
    scale = max(a.type.scale, b.type.scale)
    return tuple(x.cast(pa.decimal256(_WIDE, scale)) for x in (a, b))


def rescaled(array: pa.Array, dtype: pa.Decimal128Type) -> Flagged:
    """A decimal as a decimal of other digits."""
    wide = _wide(array)
    if dtype.scale < array.type.scale:
        wide = pc.round(wide, ndigits=dtype.scale, round_mode="half_to_even")
    return _fitted(wide.cast(pa.decimal256(_WIDE, dtype.scale)), dtype)


def rounded(array: pa.Array, mode: str, dtype: pa.Decimal128Type) -> pa.Array:
    """A decimal's whole number, by a rounding mode of Arrow."""
    return pc.round(_wide(array), ndigits=0, round_mode=mode).cast(dtype)


def from_int64(array: pa.Array, dtype: pa.Decimal128Type) -> Flagged:
    return _fitted(array.cast(pa.decimal256(19, 0)).cast(pa.decimal256(_WIDE, dtype.scale)), dtype)


def to_int64(array: pa.Array) -> Flagged:
    whole, flags = rescaled(array, pa.decimal128(38, 0))
    least, most = (pa.scalar(Decimal(x), pa.decimal128(38, 0)) for x in (-(2**63), 2**63 - 1))
    inside = pc.and_(pc.greater_equal(whole, least), pc.less_equal(whole, most))
    out = _where_false(inside)
    return pc.if_else(inside, whole, pa.scalar(None, whole.type)).cast(pa.int64()), union(flags, out)


def to_float64(array: pa.Array) -> pa.Array:
    """The nearest float64."""
    scale = array.type.scale
    unscaled, mask = _int64s(array)
    if unscaled is not None and scale <= _EXACT_POWERS and _largest(unscaled) <= _EXACT_INTEGERS:
        # One division of two exact numbers is rounded once.
        return packed(unscaled / 10.0**scale, mask, pa.float64())
    # Text of all digits, read by Arrow's correctly rounding parser.
    return array.cast(pa.string()).cast(pa.float64())


def from_float64(array: pa.Array, dtype: pa.Decimal128Type) -> Flagged:
    """The float's exact value, an integer times a power of two, rounded at ``dtype``'s scale."""
    x, mask = numbers(array)
    power = 10.0 ** min(dtype.scale, _EXACT_POWERS)
    with np.errstate(all="ignore"):
        product = x * power
        easy = (np.abs(product) < 2.0**52) & (dtype.scale <= _EXACT_POWERS)
        product, error = np.where(easy, product, 0.0), _product_error(np.where(easy, x, 0.0), power)
        whole = np.rint(product)
        # product + error is the exact product; the error decides where product looks like a half.
        left = product - whole
        whole += (left == 0.5) & (error > 0)
        whole -= (left == -0.5) & (error < 0)
    unscaled = whole.astype(np.int64)
    fits = easy & (np.abs(unscaled) < 10 ** min(dtype.precision, 18))
    if fits.all() if mask is None else fits[mask].all():
        return _from_unscaled(unscaled, mask, dtype), None
    return _from_floats_one_by_one(x, mask, dtype)


def _from_floats_one_by_one(x: NDArray[np.float64], mask: Mask | None, dtype: pa.Decimal128Type) -> Flagged:
    values: list[Decimal | None] = []
    flags = np.zeros(len(x), np.bool_)
    for i, number in enumerate(x.tolist()):
        if mask is not None and not mask[i]:
            values.append(None)
            continue
        unscaled = round(Fraction(number) * 10**dtype.scale) if np.isfinite(number) else 10**dtype.precision
        flags[i] = abs(unscaled) >= 10**dtype.precision
        values.append(None if flags[i] else _decimal(unscaled, dtype.scale))
    return pa.array(values, dtype), flags if flags.any() else None


def _decimal(unscaled: int, scale: int) -> Decimal:
    """Exact, whatever the thread's decimal context."""
    return Decimal((int(unscaled < 0), tuple(map(int, str(abs(unscaled)))), -scale))


def _product_error(x: NDArray[np.float64], y: float) -> NDArray[np.float64]:
    """x * y less its rounding to float64, exactly (T. J. Dekker, 1971, with G. W. Veltkamp's splitting)."""
    product = x * y
    x_high, x_low = _split(x)
    y_high, y_low = _split(np.float64(y))
    error: NDArray[np.float64]
    error = ((x_high * y_high - product) + x_high * y_low + x_low * y_high) + x_low * y_low
    return error


def _split(x: Any) -> tuple[Any, Any]:
    scaled = x * 134_217_729.0  # 2**27 + 1
    high = scaled - (scaled - x)
    return high, x - high


def _remainder(a: pa.Array, b: pa.Array, dtype: pa.Decimal128Type) -> Flagged:
    """The remainder with the sign of ``a``; null where ``b`` is 0."""
    (x, x_mask), (y, y_mask) = (_int64s(_wide(part, dtype.scale)) for part in (a, b))
    mask = both(x_mask, y_mask)
    if x is not None and y is not None:
        mask = both(mask, y != 0)
        with np.errstate(all="ignore"):
            return _from_unscaled(np.fmod(x, np.where(y == 0, 1, y)), mask, dtype), None
    values: list[Decimal | None] = []
    for left, right in zip(_integers(_wide(a, dtype.scale)), _integers(_wide(b, dtype.scale)), strict=True):
        if left is None or not right:
            values.append(None)
        else:
            rest = abs(left) % abs(right)
            values.append(_decimal(-rest if left < 0 else rest, dtype.scale))
    return pa.array(values, dtype), None


def _integers(array: pa.Array) -> list[int | None]:
    width = array.type.byte_width
    data = array.buffers()[1].to_pybytes() if len(array) else b""
    mask = valid(array)
    starts = range(array.offset * width, (array.offset + len(array)) * width, width)
    return [
        int.from_bytes(data[start : start + width], "little", signed=True)
        if mask is None or mask[i]
        else None
        for i, start in enumerate(starts)
    ]


def _int64s(array: pa.Array) -> tuple[NDArray[np.int64] | None, Mask | None]:
    """The unscaled integers, None where one of them is beyond int64, and where the array is not null."""
    mask = valid(array)
    if len(array) == 0:
        return np.empty(0, np.int64), None
    lanes = array.type.byte_width // 8
    words = np.frombuffer(array.buffers()[1], np.int64).reshape(-1, lanes)[
        array.offset : array.offset + len(array)
    ]
    low = words[:, 0]
    small = (words[:, 1:] == (low >> 63)[:, None]).all(axis=1)
    if mask is not None:
        small, low = small | ~mask, np.where(mask, low, 0)
    return (low if small.all() else None), mask


def _largest(unscaled: NDArray[np.int64]) -> int:
    return max(int(unscaled.max()), -int(unscaled.min())) if len(unscaled) else 0


def _from_unscaled(unscaled: NDArray[np.int64], mask: Mask | None, dtype: pa.Decimal128Type) -> pa.Array:
    words = np.empty((len(unscaled), 2), np.int64)
    words[:, 0] = unscaled if mask is None else np.where(mask, unscaled, 0)
    words[:, 1] = words[:, 0] >> 63
    bitmap = None
    if mask is not None:
        bitmap = pa.py_buffer(np.packbits(np.broadcast_to(mask, (len(unscaled),)), bitorder="little"))
    return pa.Array.from_buffers(dtype, len(unscaled), [bitmap, pa.py_buffer(words)])


def _broadcast(a: pa.Array, b: pa.Array) -> tuple[pa.Array, pa.Array]:
    if len(a) == len(b):
        return a, b
    return (pa.repeat(a[0], len(b)), b) if len(a) == 1 else (a, pa.repeat(b[0], len(a)))


def _wide(array: pa.Array, scale: int | None = None) -> pa.Array:
    return array.cast(pa.decimal256(_WIDE, array.type.scale if scale is None else scale))


def _viewed(wide: pa.Array, precision: int) -> pa.Array:
    """The same 256-bit integers under a smaller precision, so that Arrow takes them as operands."""
    dtype = pa.decimal256(precision, wide.type.scale)
    return pa.Array.from_buffers(dtype, len(wide), wide.buffers(), wide.null_count, wide.offset)


def _fitted(wide: pa.Array, dtype: pa.Decimal128Type) -> Flagged:
    """``wide``, of ``dtype``'s scale, as ``dtype``; null and flagged where it has more digits."""
    limit = Decimal((0, (1,), dtype.precision - dtype.scale))
    most, least = (pa.scalar(x, pa.decimal256(_WIDE, dtype.scale)) for x in (limit, limit.copy_negate()))
    wide = _viewed(wide, _WIDE)
    inside = pc.and_(pc.less(wide, most), pc.greater(wide, least))
    flags = _where_false(inside)
    if flags is not None:
        wide = pc.if_else(inside, wide, pa.scalar(None, wide.type))
    return wide.cast(dtype), flags


def _where_false(array: pa.Array) -> Mask | None:
    values, mask = numbers(array)
    false = ~values if mask is None else ~values & mask
    return false if false.any() else None
