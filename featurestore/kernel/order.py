"""Where each value stands among the values of its entity, computed once and shared by every window.

Time plays no part in it: the rank of an item is among all items of its entity, live or not. A tie between
equal values is settled by the item's position, which is its place on the timeline.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore import dtypes
from featurestore.kernel.compiled import compiled, inlined
from featurestore.kernel.edges import I64
from featurestore.kernel.sweep import FLOAT64S, INT64S, most_items, share

U64 = NDArray[np.uint64]
_I32 = NDArray[np.int32]

_SIGN = np.uint64(1 << 63)
_EIGHT = np.uint64(8)
_BYTE = np.uint64(255)
# Up to here by insertion. Measured: the radix sort is as fast from 40 items on when two bytes vary, from 90
# on when all eight do.
_FEW = 64


def order_codes(array: pa.Array | pa.ChunkedArray, *, nan: Literal["greatest", "least"] = "greatest") -> I64:
    """int64[n] in the order of the values: equal codes are equal values, within one call.

    -0.0 equals 0.0; every NaN is one value, above or below all numbers as ``nan`` says. Strings stand in the
    order of their UTF-8 bytes, which is that of code points. ``array`` has no nulls. Lists have no order:
    TypeError.
    """
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if array.null_count:
        raise ValueError(f"{array.null_count} nulls have no order")
    dtype = dtypes.from_arrow(array.type)
    match dtype.kind if dtype is not None else "":
        case "int64" | "timestamp":
            return _fixed(array, np.int64)
        case "date":
            return _fixed(array, np.int32).astype(np.int64)
        case "bool":
            return np.asarray(array.cast(pa.int8())).astype(np.int64)
        case "float64":
            return float_codes(_fixed(array, np.float64), nan=nan)
        case "string" | "uuid" | "binary" | "decimal":
            encoded = array.dictionary_encode()
            ascending = np.asarray(pc.array_sort_indices(encoded.dictionary))
            ranks = np.empty(len(ascending), np.int64)
            ranks[ascending] = np.arange(len(ascending))
            codes: I64 = ranks[np.asarray(encoded.indices)]
            return codes
    raise TypeError(f"values of the type {array.type} have no order")


def float_codes(values: NDArray[np.float64], *, nan: Literal["greatest", "least"] = "greatest") -> I64:
    """``order_codes`` of values that are out of Arrow already."""
    codes = np.empty(len(values), np.int64)
    _float_codes(values, nan == "greatest", codes)
    return codes


def entity_ranks(codes: I64, items: I64, *, threads: ThreadPoolExecutor | None = None) -> tuple[I64, I64]:
    """The dense rank (from 0) of each item's code in its entity, int64[n], and each entity's number of ranks.

    The items of entity e are ``[items[e], items[e + 1])``.
    """
    ranks = np.empty(len(codes), np.int64)
    distinct = np.zeros(len(items) - 1, np.int64)
    share(lambda e0, e1: _rank(e0, e1, codes, items, ranks, distinct), items, threads)
    return ranks, distinct


def entity_order(codes: I64, items: I64, *, threads: ThreadPoolExecutor | None = None) -> I64:
    """The place (from 0) of each item in its entity by (code, position), int64[n]: no two are equal."""
    places = np.empty(len(codes), np.int64)
    share(lambda e0, e1: _place(e0, e1, codes, items, places), items, threads)
    return places


def _fixed(array: pa.Array, stored: type) -> NDArray[Any]:
    return np.frombuffer(array.buffers()[1] or b"", stored)[array.offset : array.offset + len(array)]


@compiled(f"void({FLOAT64S}, boolean, int64[::1])")
def _float_codes(values: NDArray[np.float64], nan_greatest: bool, codes: I64) -> None:
    """The bits as an integer, those of negative numbers turned round."""
    bits = values.view(np.int64)
    for i in range(len(values)):
        if np.isnan(values[i]):
            codes[i] = np.int64(0x7FF8000000000000) if nan_greatest else np.int64(-(2**63))
        elif values[i] == 0.0:
            codes[i] = 0
        elif bits[i] < 0:
            codes[i] = bits[i] ^ np.int64(0x7FFFFFFFFFFFFFFF)
        else:
            codes[i] = bits[i]


@inlined
def sort_key(value: int) -> np.uint64:
    """An int64 as a uint64 of the same order."""
    return np.uint64(value) ^ _SIGN


@inlined
def of_sort_key(key: np.uint64) -> np.int64:
    return np.int64(key ^ _SIGN)


@inlined
def sort_keys(keys: U64, places: _I32, n: int, spare_keys: U64, spare_places: _I32) -> tuple[U64, _I32]:
    """The first n keys in ascending order and the places that they came from; equal keys stay in order.

    Few keys by insertion; many by radix, a byte a pass, least first, leaving out bytes that all keys share.
    """
    if n <= _FEW:
        for i in range(1, n):
            key, place, j = keys[i], places[i], i
            while j > 0 and keys[j - 1] > key:
                keys[j], places[j] = keys[j - 1], places[j - 1]
                j -= 1
            keys[j], places[j] = key, place
        return keys, places
    varying = np.uint64(0)
    for i in range(1, n):
        varying |= keys[i] ^ keys[0]
    starts = np.empty(256, np.int64)
    shift = np.uint64(0)
    for _ in range(8):
        if (varying >> shift) & _BYTE != 0:
            starts[:] = 0
            for i in range(n):
                starts[np.int64((keys[i] >> shift) & _BYTE)] += 1
            total = 0
            for digit in range(256):
                size = starts[digit]
                starts[digit] = total
                total += size
            for i in range(n):
                bucket = np.int64((keys[i] >> shift) & _BYTE)
                to = starts[bucket]
                starts[bucket] = to + 1
                spare_keys[to], spare_places[to] = keys[i], places[i]
            keys, spare_keys = spare_keys, keys
            places, spare_places = spare_places, places
        shift += _EIGHT
    return keys, places


@compiled(f"void(int64, int64, {INT64S}, {INT64S}, int64[::1], int64[::1])")
def _rank(e0: int, e1: int, codes: I64, items: I64, ranks: I64, distinct: I64) -> None:
    most = most_items(items, e0, e1)
    keys, spare_keys = np.empty(most, np.uint64), np.empty(most, np.uint64)
    places, spare_places = np.empty(most, np.int32), np.empty(most, np.int32)
    for e in range(e0, e1):
        first, n = items[e], items[e + 1] - items[e]
        for i in range(n):
            keys[i], places[i] = sort_key(codes[first + i]), i
        in_order, came_from = sort_keys(keys, places, n, spare_keys, spare_places)
        rank = -1
        for i in range(n):
            if i == 0 or in_order[i] != in_order[i - 1]:
                rank += 1
            ranks[first + came_from[i]] = rank
        distinct[e] = rank + 1


@compiled(f"void(int64, int64, {INT64S}, {INT64S}, int64[::1])")
def _place(e0: int, e1: int, codes: I64, items: I64, by_code: I64) -> None:
    most = most_items(items, e0, e1)
    keys, spare_keys = np.empty(most, np.uint64), np.empty(most, np.uint64)
    places, spare_places = np.empty(most, np.int32), np.empty(most, np.int32)
    for e in range(e0, e1):
        first, n = items[e], items[e + 1] - items[e]
        for i in range(n):
            keys[i], places[i] = sort_key(codes[first + i]), i
        _, came_from = sort_keys(keys, places, n, spare_keys, spare_places)
        for i in range(n):
            by_code[first + came_from[i]] = i
