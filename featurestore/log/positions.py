"""Positions of changes: log sequence numbers and offsets, in whatever form a log writes them, as int64.

Time: none. A position orders the changes of one table, whatever their clocks say.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.dtypes import INT64
from featurestore.kernel.compiled import compiled
from featurestore.log.arrays import converted
from featurestore.log.cells import CELL
from featurestore.log.literals import buffers
from featurestore.log.zones import zone

Bools = NDArray[np.bool_]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
Codes = NDArray[np.uint8]


def positions(raw: pa.Array) -> tuple[pa.Array, Bools | None]:
    """``raw`` as int64, and a mask of the values that are no position (None: none; null in the array).

    Integers, whole decimals and floats, decimal text, and PostgreSQL's ``16/B374D848``, which is
    0x16B374D848. Beyond int64 is no position.
    """
    values, bad = converted(raw, INT64, zone("UTC"), None)
    if bad is None:
        return values, None
    text = _text(raw)
    if text is None:
        return values, bad
    numbers, good = np.zeros(len(text), np.int64), np.zeros(len(text), np.bool_)
    _sequence_numbers(*buffers(text), numbers, good)
    good &= bad
    if not good.any():
        return values, bad
    values = pc.if_else(pa.array(good), pa.array(numbers), values)
    bad = bad & ~good
    return values, bad if bad.any() else None


def _text(raw: pa.Array) -> pa.Array | None:
    if raw.type == CELL:
        return raw.storage.field(1)
    if pa.types.is_dictionary(raw.type):
        return _text(pc.cast(raw, raw.type.value_type))
    t = pa.types
    if t.is_string(raw.type) or t.is_large_string(raw.type) or t.is_string_view(raw.type):
        return pc.cast(raw, pa.string())
    return None


@compiled("void(Array(int32, 1, 'C', True), Array(uint8, 1, 'C', True), int64[::1], boolean[::1])")
def _sequence_numbers(offsets: I32, data: Codes, out: I64, ok: Bools) -> None:
    # Two hexadecimal numbers of at most 32 bits with a slash between.
    for i in range(len(out)):
        low, high = offsets[i], offsets[i + 1]
        value, digits, halves, good = 0, 0, 0, True
        for k in range(low, high):
            c = data[k]
            if c == 47:  # the slash
                good = good and halves == 0 and digits > 0
                halves += 1
                digits = 0
                value <<= 32
                continue
            digit = 0
            if 48 <= c <= 57:
                digit = c - 48
            elif 97 <= (c | 32) <= 102:
                digit = (c | 32) - 87
            else:
                good = False
                break
            digits += 1
            if digits > 8:
                good = False
                break
            upper = (value >> 32) << 32
            value = upper | (((value & 0xFFFFFFFF) << 4) | digit)
        out[i] = value
        ok[i] = good and halves == 1 and digits > 0 and value >= 0
