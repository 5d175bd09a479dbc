"""The arrays that expressions are evaluated over: Arrow between operators, NumPy within the numeric ones.

A row is a row: nothing here knows its time. A constant is an array of length 1, which broadcasts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Mask: TypeAlias = NDArray[np.bool_]
Flagged: TypeAlias = tuple[pa.Array, Mask | None]
"""An array and the rows whose null is an overflow or a failed cast (None: no row)."""

_NUMPY = {
    pa.int64(): np.int64,
    pa.float64(): np.float64,
    pa.timestamp("us", "UTC"): np.int64,
    pa.date32(): np.int32,
}


@dataclass(frozen=True, slots=True)
class Vector:
    """The values of a node, one a row, or one for all; ``flags`` marks the rows that something flagged."""

    array: pa.Array
    constant: bool = False
    flags: Mask | None = None


def arrow(function: Callable[..., pa.Array], *operands: Vector) -> Vector:
    """``function`` of Arrow arrays, where constants are scalars beside arrays."""
    constant = all(x.constant for x in operands)
    inputs = [x.array[0] if x.constant and not constant else x.array for x in operands]
    return Vector(function(*inputs), constant, union(*(x.flags for x in operands)))


def flagging(function: Callable[..., Flagged], *operands: Vector) -> Vector:
    """``function`` of Arrow arrays, those of constants of length 1, that also says which rows it flags."""
    array, flags = function(*(x.array for x in operands))
    return Vector(array, all(x.constant for x in operands), union(flags, *(x.flags for x in operands)))


def numbers(array: pa.Array) -> tuple[NDArray[Any], Mask | None]:
    """The values of a fixed-width array, anything where it is null, and its ``valid`` mask."""
    n = len(array)
    if pa.types.is_boolean(array.type):
        return bits(array.buffers()[1], array.offset, n), valid(array)
    dtype = np.dtype(_NUMPY[array.type])
    if n == 0:
        return np.empty(0, dtype), None
    return np.frombuffer(array.buffers()[1], dtype, n, array.offset * dtype.itemsize), valid(array)


def valid(array: pa.Array) -> Mask | None:
    """Where ``array`` is not null; None: everywhere."""
    return None if array.null_count == 0 else bits(array.buffers()[0], array.offset, len(array))


def bits(buffer: pa.Buffer, offset: int, n: int) -> Mask:
    if n == 0:
        return np.empty(0, np.bool_)
    octets = np.frombuffer(buffer, np.uint8)[offset // 8 : (offset + n + 7) // 8]
    return np.unpackbits(octets, bitorder="little")[offset % 8 : offset % 8 + n].view(np.bool_)


def packed(values: NDArray[Any], mask: Mask | None, dtype: pa.DataType) -> pa.Array:
    """An Arrow array of ``values``, null (and zero below) where ``mask`` is false."""
    n = len(values)
    bitmap = None
    if mask is not None:
        mask = np.broadcast_to(mask, (n,))
        values = np.where(mask, values, np.zeros(1, values.dtype))
        bitmap = pa.py_buffer(np.packbits(mask, bitorder="little"))
    if pa.types.is_boolean(dtype):
        data = np.packbits(values, bitorder="little")
    else:
        data = np.ascontiguousarray(values, _NUMPY[dtype])
    return pa.Array.from_buffers(dtype, n, [bitmap, pa.py_buffer(data)])


def both(a: Mask | None, b: Mask | None) -> Mask | None:
    """Where both masks are true; None is true everywhere."""
    return b if a is None else a if b is None else a & b


def union(*flags: Mask | None) -> Mask | None:
    """Where one of the masks is true; None is true nowhere."""
    found: Mask | None = None
    for mask in flags:
        if mask is not None:
            found = mask if found is None else found | mask
    return found


def true(array: pa.Array) -> Mask:
    """Where a boolean array is true, and not null."""
    values, mask = numbers(array)
    return values if mask is None else values & mask


def nulled(values: NDArray[Any], mask: Mask | None, bad: Mask, dtype: pa.DataType) -> Flagged:
    """``values`` with null, flagged, where they are ``bad``."""
    if mask is not None:
        bad = bad & mask
    if not bad.any():
        return packed(values, mask, dtype), None
    return packed(values, both(mask, ~bad), dtype), bad
