"""The 128-bit hash of a version's content: equal is a duplicate, the greater of two is the final tie.

Time plays no part here, save that ``available_at`` is never among the hashed columns (the caller leaves it
out). The bytes are fixed for ever, because stores keep the hashes. MurmurHash3 x64 128 with seed 0 hashes

- a value: a tag byte (``_TAGS``), then its canonical bytes; a list: its tag, then for each element a byte 0
  for null, or a byte 1 and the element's hash;
- a row: for each column that is not null, in code point order of the names, ``state = hash(state + hash(name)
  + hash(value))``, beginning with 16 zero bytes. Skipping nulls keeps old hashes when a log gains a column.

A hash as bytes is h1, then h2, little-endian.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore import dtypes
from featurestore.kernel.compiled import compiled, inlined
from featurestore.kernel.murmur import block, finish, fmix, mix1, mix2, tagged

U64 = NDArray[np.uint64]
Bytes = NDArray[np.uint8]
I32 = NDArray[np.int32]

_TAGS = {
    "bool": 1, "int64": 2, "float64": 3, "string": 4, "uuid": 4, "binary": 5,
    "timestamp": 6, "date": 7, "decimal": 8, "list": 9,
}  # fmt: skip
_NULL_HASH = 0x9E3779B97F4A7C15
# 65,536 rows: a column's values, their digests and the rows' states (2.5 MB) stay in the second-level cache.
_BATCH_ROWS = 1 << 16
_NOTHING = np.zeros(0, np.uint8)

# Read-only arguments accept both what Arrow lends and what NumPy owns.
_BYTES = "Array(uint8, 1, 'C', True)"
_INT32S = "Array(int32, 1, 'C', True)"
_WORDS = "Array(uint64, 1, 'C', True)"
_DIGESTS = "Array(uint64, 2, 'C', True)"
_OUT = "uint64[:, ::1]"

_ZERO = np.uint64(0)


def content_hash(table: pa.Table, columns: Sequence[str]) -> U64:
    """uint64[n, 2], (h1, h2) of each row's ``columns``; their order does not matter; values are canonical."""
    states = np.zeros((table.num_rows, 2), np.uint64)
    names = sorted(columns)
    digests = {name: np.array(mm3_128(name.encode()), np.uint64) for name in names}
    start = 0
    for batch in table.select(names).to_batches(max_chunksize=_BATCH_ROWS):
        part = states[start : start + batch.num_rows]
        for name, array in zip(names, batch.columns, strict=True):
            bitmap, offset = _validity(array)
            _fold(part, digests[name], _digests(array), bitmap, offset)
        start += batch.num_rows
    return states


def mm3_128(data: bytes) -> tuple[int, int]:
    """MurmurHash3 x64 128 of ``data`` with seed 0, as (h1, h2)."""
    h1, h2 = _hash_bytes(np.frombuffer(data, np.uint8), 0, len(data))
    return int(h1), int(h2)


def hash64(array: pa.Array | pa.ChunkedArray) -> U64:
    """uint64[n] for grouping; equal values have equal hashes, nulls too, and different values may meet.

    Integers, timestamps and dates go through a bijection (fmix64), so that among themselves they never meet.
    """
    hashes = np.empty(len(array), np.uint64)
    start = 0
    for chunk in array.chunks if isinstance(array, pa.ChunkedArray) else [array]:
        for first in range(0, len(chunk), _BATCH_ROWS):
            part = chunk.slice(first, _BATCH_ROWS)
            bitmap, offset = _validity(part)
            kind = _kind(part.type)
            out = hashes[start : start + len(part)]
            if kind in ("int64", "timestamp", "date"):
                _mix_words(_words(part, kind), bitmap, offset, _NULL_HASH, out)
            else:
                _first_words(_digests(part), bitmap, offset, _NULL_HASH, out)
            start += len(part)
    return hashes


def _kind(arrow: pa.DataType) -> str:
    dtype = dtypes.from_arrow(arrow)
    if dtype is None or (dtype.arrow != arrow and dtype.kind not in ("list", "uuid")):
        raise TypeError(f"{arrow} is not the Arrow type of any value type")
    return dtype.kind


def _validity(array: pa.Array) -> tuple[Bytes, int]:
    """The bits that say which values are there, and the first one's position; an empty array: all are."""
    if array.null_count == 0:
        return _NOTHING, 0
    return np.frombuffer(array.buffers()[0], np.uint8), array.offset


def _words(array: pa.Array, kind: str) -> U64:
    stored = np.int32 if kind == "date" else np.int64
    values = np.frombuffer(array.buffers()[1], stored)[array.offset : array.offset + len(array)]
    return values.astype(np.int64, copy=False).view(np.uint64)


def _digests(array: pa.Array) -> U64:
    """uint64[n, 2] of each value; of a null, anything."""
    kind = _kind(array.type)
    tag, n = _TAGS[kind], len(array)
    digests = np.empty((n, 2), np.uint64)
    if n == array.null_count:
        return digests
    match kind:
        case "int64" | "timestamp" | "date":
            _hash_words(_words(array, kind), tag, False, digests)
        case "float64":
            _hash_words(_words(array, kind), tag, True, digests)
        case "bool":
            _hash_bools(np.frombuffer(array.buffers()[1], np.uint8), array.offset, tag, digests)
        case "decimal":
            words = np.frombuffer(array.buffers()[1], np.uint64)
            _hash_decimals(words[2 * array.offset : 2 * (array.offset + n)], tag, digests)
        case "list":
            # A slice of a list array keeps all elements: take those between its first and its last offset.
            array = array.cast(pa.list_(array.type.value_type))
            offsets = np.frombuffer(array.buffers()[1], np.int32)[array.offset : array.offset + n + 1]
            elements = array.values.slice(offsets[0], offsets[-1] - offsets[0])
            bitmap, offset = _validity(elements)
            _hash_lists(offsets, _digests(elements), bitmap, offset, tag, digests)
        case _:
            _, starts, data = array.buffers()
            offsets = np.frombuffer(starts, np.int32)[array.offset : array.offset + n + 1]
            text = np.frombuffer(data, np.uint8) if data is not None else _NOTHING
            _hash_strings(offsets, text, tag, digests)
    return digests


@compiled(f"UniTuple(uint64, 2)({_BYTES}, int64, int64)")
def _hash_bytes(data: Bytes, start: int, length: int) -> tuple[np.uint64, np.uint64]:
    return tagged(data, start, length, 0)


@inlined
def _is_valid(bitmap: Bytes, position: int) -> bool:
    return len(bitmap) == 0 or (bitmap[position >> 3] >> (position & 7)) & 1 != 0


@compiled(f"void({_WORDS}, int64, boolean, {_OUT})")
def _hash_words(words: U64, tag: int, floats: bool, digests: U64) -> None:
    """Tag and 8 bytes; floats with one zero and one NaN."""
    for i in range(len(words)):
        word = words[i]
        if floats:
            magnitude = word & np.uint64(0x7FFFFFFFFFFFFFFF)
            if magnitude > np.uint64(0x7FF0000000000000):
                word = np.uint64(0x7FF8000000000000)
            elif magnitude == _ZERO:
                word = magnitude
        k1 = np.uint64(tag) | (word << np.uint64(8))
        digests[i, 0], digests[i, 1] = finish(mix1(k1), mix2(word >> np.uint64(56)), 9)


@compiled(f"void({_BYTES}, int64, int64, {_OUT})")
def _hash_bools(bits: Bytes, offset: int, tag: int, digests: U64) -> None:
    for i in range(len(digests)):
        k1 = np.uint64(tag) | (np.uint64(_is_valid(bits, offset + i)) << np.uint64(8))
        digests[i, 0], digests[i, 1] = finish(mix1(k1), _ZERO, 2)


@compiled(f"void({_WORDS}, int64, {_OUT})")
def _hash_decimals(words: U64, tag: int, digests: U64) -> None:
    """Tag and 16 bytes of two's complement: low word, high word."""
    for i in range(len(digests)):
        low, high = words[2 * i], words[2 * i + 1]
        k1 = np.uint64(tag) | (low << np.uint64(8))
        k2 = (low >> np.uint64(56)) | (high << np.uint64(8))
        h1, h2 = block(_ZERO, _ZERO, k1, k2)
        digests[i, 0], digests[i, 1] = finish(h1 ^ mix1(high >> np.uint64(56)), h2, 17)


@compiled(f"void({_INT32S}, {_BYTES}, int64, {_OUT})")
def _hash_strings(offsets: I32, data: Bytes, tag: int, digests: U64) -> None:
    for i in range(len(digests)):
        start = int(offsets[i])
        digests[i, 0], digests[i, 1] = tagged(data, start, int(offsets[i + 1]) - start, tag)


@compiled(f"void({_INT32S}, {_DIGESTS}, {_BYTES}, int64, int64, {_OUT})")
def _hash_lists(offsets: I32, elements: U64, bitmap: Bytes, offset: int, tag: int, digests: U64) -> None:
    """Tag, then 1 byte 0 for a null element, or 1 byte 1 and its 16 byte digest."""
    longest = 0
    for i in range(len(digests)):
        longest = max(longest, offsets[i + 1] - offsets[i])
    text = np.empty(17 * longest + 1, np.uint8)
    for i in range(len(digests)):
        length = 0
        for j in range(offsets[i] - offsets[0], offsets[i + 1] - offsets[0]):
            there = _is_valid(bitmap, offset + j)
            text[length] = there
            length += 1
            if there:
                for half in range(2):
                    for byte in range(8):
                        text[length] = (elements[j, half] >> np.uint64(8 * byte)) & np.uint64(255)
                        length += 1
        digests[i, 0], digests[i, 1] = tagged(text, 0, length, tag)


@compiled(f"void({_OUT}, {_WORDS}, {_DIGESTS}, {_BYTES}, int64)")
def _fold(states: U64, name: U64, digests: U64, bitmap: Bytes, offset: int) -> None:
    """Each row's state after one more column: 48 bytes, three whole blocks."""
    for i in range(len(states)):
        if _is_valid(bitmap, offset + i):
            h1, h2 = block(_ZERO, _ZERO, states[i, 0], states[i, 1])
            h1, h2 = block(h1, h2, name[0], name[1])
            h1, h2 = block(h1, h2, digests[i, 0], digests[i, 1])
            states[i, 0], states[i, 1] = finish(h1, h2, 48)


@compiled(f"void({_WORDS}, {_BYTES}, int64, uint64, uint64[::1])")
def _mix_words(words: U64, bitmap: Bytes, offset: int, null: int, hashes: U64) -> None:
    for i in range(len(hashes)):
        hashes[i] = fmix(words[i]) if _is_valid(bitmap, offset + i) else null


@compiled(f"void({_DIGESTS}, {_BYTES}, int64, uint64, uint64[::1])")
def _first_words(digests: U64, bitmap: Bytes, offset: int, null: int, hashes: U64) -> None:
    for i in range(len(hashes)):
        hashes[i] = digests[i, 0] if _is_valid(bitmap, offset + i) else null
