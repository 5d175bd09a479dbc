"""The bytes of a payload: the loops that pack runs of versions and unpack many payloads into one block.

Instants are packed like any other int64; no time is compared here. All numbers are little-endian::

    payload   format u8 = 1, folded u8 (0 or 1), nodes u16, rows u32, [integers], then each node of the schema
              in pre-order; the integers of a folded payload are the commits at which its versions entered
    node      nulls u8 (0 or 1), [bitmap], body
    body      INT64, INT32   integers
              DECIMAL        integers of the low 64 bits, integers of the high 64 bits
              FIXED          the items' bytes
              BOOL           bitmap
              BYTES          integers of the lengths, total u32, the bytes
              LIST           integers of the lengths, total u32 (the child node follows, with so many rows)
    integers  width u8 (0..8), base i64; unless width is 0: step u64, then each row's quotient in width bytes
    value     base + step * quotient, modulo 2^64

base is the least value and step the greatest common divisor of what lies above it, so instants in whole
seconds, floats that are whole numbers and close ids all take few bytes. Floats are packed as their bits. A
null has quotient 0 or length 0: the bytes depend on the values alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featurestore.kernel.compiled import compiled, inlined
from featurestore.store.unaligned import load8, store8

Bytes = NDArray[np.uint8]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
Int = int | np.int64

FORMAT = 1
FOLDED = 1 << 8
HEADER_BYTES = 8
# What must follow the last payload in ``data``, because numbers are loaded eight bytes at a time.
PADDING = bytes(8)
INT64, INT32, DECIMAL, FIXED, BOOL, BYTES, LIST = range(7)

# What a node's row of ``layout`` says about the block: where its bitmap (-1: none is needed), its values or
# offsets and its bytes begin, and how many rows it has in all.
AT_BITMAP, AT_VALUES, AT_BYTES, ROWS = range(4)
KIND, WIDTH, PARENT = range(3)

_READ8 = "Array(uint8, 1, 'C', True)"
_READ64 = "Array(int64, 1, 'C', True)"
_SHAPE = "Array(int64, 2, 'C', True)"
_READU64 = "Array(uint64, 1, 'C', True)"
_ONE, _EIGHT = np.uint64(1), np.uint64(8)


# What the loops share; numba wants it first.


@inlined
def _bit(data: Bytes, at: Int, i: Int) -> bool:
    return bool((data[at + (i >> 3)] >> (i & 7)) & 1)


@inlined
def _set_bit(out: Bytes, at: Int, i: Int) -> None:
    out[at + (i >> 3)] |= np.uint8(1 << (i & 7))


@inlined
def _mask(width: Int) -> np.uint64:
    """The bits of the lowest ``width`` bytes, 1 to 8 of them."""
    return ~np.uint64(0) >> (np.uint64(64) - np.uint64(width) * _EIGHT)


@inlined
def _load(data: Bytes, at: Int, width: Int) -> np.uint64:
    """``width`` bytes, 1 to 8; reads up to 7 bytes behind them, which is why ``data`` ends in PADDING."""
    return load8(data, at) & _mask(width)


@inlined
def _store(value: np.uint64, width: Int, at: Int, out: Bytes) -> None:
    for k in range(width):
        out[at + k] = np.uint8(value & np.uint64(0xFF))
        value >>= _EIGHT


@inlined
def _copy(data: Bytes, at: Int, count: Int, to: Int, out: Bytes) -> None:
    whole = count // 8 * 8
    for k in range(0, whole, 8):
        store8(load8(data, at + k), to + k, out)
    for k in range(whole, count):
        out[to + k] = data[at + k]


@inlined
def _pack_bits(values: Bytes, first: Int, end: Int, at: Int, out: Bytes) -> Int:
    for i in range(end - first):
        if values[first + i]:
            _set_bit(out, at, i)
    return at + (end - first + 7) // 8


@inlined
def _integers_bytes(width: Int, n: Int) -> Int:
    return 9 + (8 + width * n if width > 0 else 0)


@inlined
def _entered_bytes(data: Bytes, at: Int, rows: Int) -> Int:
    # What stands between a payload's header and its first node.
    return _integers_bytes(np.int64(data[at + HEADER_BYTES]), rows) if data[at + 1] == 1 else np.int64(0)


@inlined
def _integers_head(data: Bytes, at: Int) -> tuple[np.uint64, np.uint64, Int]:
    w = np.int64(data[at])
    step = load8(data, at + 9) if w > 0 else np.uint64(0)
    return load8(data, at + 1), step, w


@inlined
def _unpack_words(data: Bytes, at: Int, n: Int, bitmap: Int, words: I64, to: Int, stride: Int) -> Int:
    base, step, w = _integers_head(data, at)
    if w == 0:
        for i in range(n):
            if bitmap < 0 or _bit(data, bitmap, i):
                words[to + i * stride] = np.int64(base)
        return at + 9
    at += 17
    mask = _mask(w)
    if bitmap < 0:
        for i in range(n):
            words[to + i * stride] = np.int64(base + step * (load8(data, at + i * w) & mask))
    else:
        # The slot of a null stays zero, so that equal versions give equal buffers.
        for i in range(n):
            if _bit(data, bitmap, i):
                words[to + i * stride] = np.int64(base + step * (load8(data, at + i * w) & mask))
    return at + n * w


# Packing: one node at a time over all runs. ``bounds[r]:bounds[r + 1]`` are the node's rows in run r.


@compiled(f"void({_READ8}, {_READ64}, uint8[::1], int64[::1])")
def measure_nulls(valid: Bytes, bounds: I64, nulls: Bytes, sizes: I64) -> None:
    """Which runs need a bitmap; ``valid`` has a byte a row, or none at all where no row is null."""
    for r in range(len(bounds) - 1):
        nulls[r] = 0
        if len(valid) > 0:
            for i in range(bounds[r], bounds[r + 1]):
                if valid[i] == 0:
                    nulls[r] = 1
                    break
        sizes[r] += 1 + nulls[r] * ((bounds[r + 1] - bounds[r] + 7) // 8)


@compiled(f"void({_READ8}, {_READ64}, {_READ8}, int64[::1], uint8[::1])")
def pack_nulls(valid: Bytes, bounds: I64, nulls: Bytes, at: I64, out: Bytes) -> None:
    for r in range(len(bounds) - 1):
        out[at[r]] = nulls[r]
        at[r] += 1
        if nulls[r]:
            at[r] = _pack_bits(valid, bounds[r], bounds[r + 1], at[r], out)


@compiled(f"void({_READ8}, {_READ64}, int64[::1], uint8[::1])")
def pack_bools(values: Bytes, bounds: I64, at: I64, out: Bytes) -> None:
    for r in range(len(bounds) - 1):
        at[r] = _pack_bits(values, bounds[r], bounds[r + 1], at[r], out)


@compiled(f"void({_READ64}, {_READ8}, {_READ64}, int64[::1], uint64[::1], int64[::1], int64[::1])")
def measure_integers(
    values: I64, valid: Bytes, bounds: I64, base: I64, step: U64, width: I64, sizes: I64
) -> None:
    """Each run's base, step and width."""
    for r in range(len(bounds) - 1):
        first, end = bounds[r], bounds[r + 1]
        least, greatest, seen = np.int64(0), np.int64(0), False
        for i in range(first, end):
            if len(valid) == 0 or valid[i]:
                v = values[i]
                if not seen:
                    least, greatest, seen = v, v, True
                elif v < least:
                    least = v
                elif v > greatest:
                    greatest = v
        divisor = np.uint64(0)
        for i in range(first, end):
            if divisor == _ONE:
                break
            if len(valid) == 0 or valid[i]:
                a, b = divisor, np.uint64(values[i]) - np.uint64(least)
                while b != np.uint64(0):
                    a, b = b, a % b
                divisor = a
        base[r], step[r], width[r] = least, divisor, 0
        if divisor != np.uint64(0):
            most = (np.uint64(greatest) - np.uint64(least)) // divisor
            while most != np.uint64(0):
                most >>= _EIGHT
                width[r] += 1
        sizes[r] += _integers_bytes(width[r], end - first)


@compiled(f"void({_READ64}, {_READ8}, {_READ64}, {_READ64}, {_READU64}, {_READ64}, int64[::1], uint8[::1])")
def pack_integers(
    values: I64, valid: Bytes, bounds: I64, base: I64, step: U64, width: I64, at: I64, out: Bytes
) -> None:
    for r in range(len(bounds) - 1):
        w, p = width[r], at[r]
        out[p] = w
        _store(np.uint64(base[r]), 8, p + 1, out)
        p += 9
        if w > 0:
            _store(step[r], 8, p, out)
            p += 8
            end = p + w * (bounds[r + 1] - bounds[r])
            for i in range(bounds[r], bounds[r + 1]):
                q = np.uint64(0)
                if len(valid) == 0 or valid[i]:
                    q = np.uint64(values[i]) - np.uint64(base[r])
                    if step[r] != _ONE:
                        q //= step[r]
                # Eight bytes while they stay inside this run's values: the next row overwrites the rest.
                if p + 8 <= end:
                    store8(q, p, out)
                else:
                    _store(q, w, p, out)
                p += w
        at[r] = p


@compiled(f"void({_READ8}, {_READ8}, int64, {_READ64}, int64[::1], uint8[::1])")
def pack_fixed(values: Bytes, valid: Bytes, item_bytes: int, bounds: I64, at: I64, out: Bytes) -> None:
    for r in range(len(bounds) - 1):
        for i in range(bounds[r], bounds[r + 1]):
            if len(valid) == 0 or valid[i]:
                _copy(values, i * item_bytes, item_bytes, at[r], out)
            at[r] += item_bytes


@compiled(f"void({_READ8}, {_READ64}, {_READ64}, {_READ64}, int64[::1], uint8[::1])")
def pack_bytes(data: Bytes, starts: I64, lengths: I64, bounds: I64, at: I64, out: Bytes) -> None:
    """Each run's total length, then its bytes; row i's are ``data[starts[i] : starts[i] + lengths[i]]``."""
    for r in range(len(bounds) - 1):
        p, first, last = at[r] + 4, bounds[r], bounds[r + 1] - 1
        total = lengths[first : last + 1].sum()
        if last >= first and starts[last] + lengths[last] - starts[first] == total:
            # Nothing lies between the rows (under a null, say): one copy.
            _copy(data, starts[first], total, p, out)
            p += total
        else:
            for i in range(first, last + 1):
                _copy(data, starts[i], lengths[i], p, out)
                p += lengths[i]
        _store(np.uint64(p - at[r] - 4), 4, at[r], out)
        at[r] = p


@compiled(f"void({_READ64}, int64, int64[::1], uint8[::1])")
def pack_counts(counts: I64, width: int, at: I64, out: Bytes) -> None:
    """A number of ``width`` bytes for each run."""
    for r in range(len(counts)):
        _store(np.uint64(counts[r]), width, at[r], out)
        at[r] += width


# Unpacking: all payloads in two passes, into one block that Arrow then reads in place. ``shape`` is
# int64[nodes, 3]: each node's kind, the bytes of one of its values in the block, and its parent (-1: none).


@inlined
def _measure_payloads(data: Bytes, lengths: I64, shape: I64, rows: I64, layout: I64) -> Int:
    nodes = len(shape)
    totals = np.zeros((nodes, 3), np.int64)  # rows, bytes, whether any is null
    children = np.zeros(nodes, np.int64)
    at: Int = 0
    end: Int = 0
    for p in range(len(lengths)):
        at = end
        end += lengths[p]
        if end - at < HEADER_BYTES or data[at] != FORMAT or np.int64(_load(data, at + 2, 2)) != nodes:
            return -1 - p
        rows[p] = np.int64(_load(data, at + 4, 4))
        if data[at + 1] > 1 or (data[at + 1] == 1 and data[at + HEADER_BYTES] > 8):
            return -1 - p
        at += HEADER_BYTES + _entered_bytes(data, at, rows[p])
        for k in range(nodes):
            n = rows[p] if shape[k, PARENT] < 0 else children[shape[k, PARENT]]
            if at >= end:
                return -1 - p
            totals[k, 0] += n
            if data[at]:
                totals[k, 2] = 1
                at += (n + 7) // 8
            at += 1
            kind = shape[k, KIND]
            if kind == FIXED:
                at += n * shape[k, WIDTH]
            elif kind == BOOL:
                at += (n + 7) // 8
            else:
                if at >= end or data[at] > 8:
                    return -1 - p
                at += _integers_bytes(np.int64(data[at]), n)
                if kind == DECIMAL:
                    if at >= end or data[at] > 8:
                        return -1 - p
                    at += _integers_bytes(np.int64(data[at]), n)
                elif kind in (BYTES, LIST):
                    if at + 4 > end:
                        return -1 - p
                    children[k] = np.int64(_load(data, at, 4))
                    at += 4
                    if kind == BYTES:
                        totals[k, 1] += children[k]
                        at += children[k]
        if at != end:
            return -1 - p
    size = 0
    for k in range(nodes):
        n, kind = totals[k, 0], shape[k, KIND]
        layout[k, ROWS] = n
        layout[k, AT_BITMAP] = -1
        if totals[k, 2]:
            layout[k, AT_BITMAP] = size
            size += (n + 63) // 64 * 8
        layout[k, AT_VALUES] = size
        if kind == BOOL:
            size += (n + 63) // 64 * 8
        elif kind in (BYTES, LIST):
            size += (n + 2) // 2 * 8
        else:
            size += (n * shape[k, WIDTH] + 7) // 8 * 8
        layout[k, AT_BYTES] = size
        size += (totals[k, 1] + 7) // 8 * 8
    return size


@inlined
def _unpack_payloads(data: Bytes, lengths: I64, shape: I64, layout: I64, block: Bytes) -> None:
    nodes = len(shape)
    children = np.zeros(nodes, np.int64)
    done = np.zeros(nodes, np.int64)
    bytes_done = np.zeros(nodes, np.int64)
    words = block.view(np.int64)
    halves = block.view(np.int32)
    at: Int = 0
    start: Int = 0
    for p in range(len(lengths)):
        rows = np.int64(_load(data, start + 4, 4))
        at = start + HEADER_BYTES + _entered_bytes(data, start, rows)
        start += lengths[p]
        for k in range(nodes):
            n = rows if shape[k, PARENT] < 0 else children[shape[k, PARENT]]
            row, kind, values = done[k], shape[k, KIND], layout[k, AT_VALUES]
            done[k] += n
            bitmap: Int = -1
            if data[at]:
                bitmap = at + 1
                at += (n + 7) // 8
            at += 1
            if layout[k, AT_BITMAP] >= 0:
                for i in range(n):
                    if bitmap < 0 or _bit(data, bitmap, i):
                        _set_bit(block, layout[k, AT_BITMAP], row + i)
            if kind == INT64:
                at = _unpack_words(data, at, n, bitmap, words, values // 8 + row, 1)
            elif kind == INT32:
                base, step, w = _integers_head(data, at)
                at += 9 + (8 if w else 0)
                # With width 0 the step is 0, and what is loaded does not matter.
                mask = _mask(max(w, 1))
                for i in range(n):
                    if bitmap < 0 or _bit(data, bitmap, i):
                        halves[values // 4 + row + i] = np.int64(
                            base + step * (load8(data, at + i * w) & mask)
                        )
                at += n * w
            elif kind == DECIMAL:
                at = _unpack_words(data, at, n, bitmap, words, values // 8 + 2 * row, 2)
                at = _unpack_words(data, at, n, bitmap, words, values // 8 + 2 * row + 1, 2)
            elif kind == FIXED:
                _copy(data, at, n * shape[k, WIDTH], values + row * shape[k, WIDTH], block)
                at += n * shape[k, WIDTH]
            elif kind == BOOL:
                for i in range(n):
                    if _bit(data, at, i):
                        _set_bit(block, values, row + i)
                at += (n + 7) // 8
            else:
                base, step, w = _integers_head(data, at)
                at += 9 + (8 if w else 0)
                mask = _mask(max(w, 1))
                offset = values // 4 + row
                end = halves[offset]
                for i in range(n):
                    end += np.int64(base + step * (load8(data, at + i * w) & mask))
                    halves[offset + i + 1] = end
                at += n * w
                children[k] = np.int64(_load(data, at, 4))
                at += 4
                if kind == BYTES:
                    to = layout[k, AT_BYTES] + bytes_done[k]
                    _copy(data, at, children[k], to, block)
                    bytes_done[k] += children[k]
                    at += children[k]


@compiled(f"Tuple((int64, uint8[::1]))({_READ8}, {_READ64}, {_SHAPE}, int64[::1], int64[:, ::1])")
def unpack(data: Bytes, lengths: I64, shape: I64, rows: I64, layout: I64) -> tuple[Int, Bytes]:
    """The block's size in bytes and the block; fills ``rows`` of each payload and the block's ``layout``.

    A size of -1 - p: payload p is not of this format or not of these nodes.
    """
    size = _measure_payloads(data, lengths, shape, rows, layout)
    block = np.zeros(max(size, 0), np.uint8)
    if size >= 0:
        _unpack_payloads(data, lengths, shape, layout, block)
    return size, block


@compiled(f"int64[::1]({_READ8}, {_READ64}, {_READ64}, {_READ64})")
def unpack_entered(data: Bytes, lengths: I64, rows: I64, commits: I64) -> I64:
    """The commit at which each version entered, payload after payload: a folded one says it, the versions of
    another one entered with it, at ``commits``. ``rows`` of each payload, as ``unpack`` tells them."""
    out = np.empty(rows.sum(), np.int64)
    start: Int = 0
    to: Int = 0
    for p in range(len(lengths)):
        if data[start + 1] == 1:
            _unpack_words(data, start + HEADER_BYTES, rows[p], -1, out, to, 1)
        else:
            out[to : to + rows[p]] = commits[p]
        start += lengths[p]
        to += rows[p]
    return out
