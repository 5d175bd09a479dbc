"""Distinct integers, numbered in the order in which they first appear: a hash table of numbers.

Time: none.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from featurestore.kernel.compiled import compiled
from featurestore.kernel.murmur import fmix

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

_FIRST_SLOTS = 1 << 10


def numbered(parts: Iterable[I64], rows: int) -> tuple[I64, I32]:
    """The distinct values of ``parts``, which have ``rows`` values together, and each value's number."""
    codes = np.empty(rows, np.int32)
    slots, distinct, known = np.empty(0, np.int32), np.empty(0, np.int64), 0
    filled = 0
    for values in parts:
        done = 0
        while done < len(values):
            if 2 * known >= len(slots):
                # Four times the numbers that there are: the table stays at most half full.
                slots = np.full(max(_FIRST_SLOTS, 4 * len(slots)), -1, np.int32)
                grown = np.empty(len(slots) // 2, np.int64)
                grown[:known] = distinct[:known]
                distinct = grown
                _put(distinct, known, slots)
            done, known = _number(values, done, slots, distinct, known, codes[filled : filled + len(values)])
        filled += len(values)
    return distinct[:known], codes


@compiled("void(int64[::1], int64, int32[::1])")
def _put(distinct: I64, known: int, slots: I32) -> None:
    last = np.uint64(len(slots) - 1)
    for code in range(known):
        slot = fmix(np.uint64(distinct[code])) & last
        while slots[slot] >= 0:
            slot = (slot + np.uint64(1)) & last
        slots[slot] = code


@compiled("UniTuple(int64, 2)(Array(int64, 1, 'C', True), int64, int32[::1], int64[::1], int64, int32[::1])")
def _number(values: I64, done: int, slots: I32, distinct: I64, known: int, codes: I32) -> tuple[int, int]:
    """Number the values from ``done`` on until there are no more, or no more room; returns how many are
    done."""
    last = np.uint64(len(slots) - 1)
    for i in range(done, len(values)):
        value = values[i]
        slot = fmix(np.uint64(value)) & last
        code = slots[slot]
        while code >= 0 and distinct[code] != value:
            slot = (slot + np.uint64(1)) & last
            code = slots[slot]
        if code < 0:
            if known == len(distinct):
                return i, known
            code = np.int32(known)
            slots[slot] = code
            distinct[known] = value
            known += 1
        codes[i] = code
    return len(values), known
