"""The live items of one entity as bits: the least, the greatest, the next, the n-th, each in O(log64 n).

An item is a number 0..n-1 (its rank in some order; time has been settled before). ``words`` holds level after
level: a bit of level 0 is an item, a bit of level l + 1 says whether a word of level l has any. Ten million
items take 1.3 MB, which stays in the second-level cache.
``counts`` is the companion for the n-th item: how many items lie below each 64 words, and each 64 of those.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from featurestore.kernel.compiled import inlined
from featurestore.kernel.edges import I64

U64 = NDArray[np.uint64]
LEVELS = 8  # 64 ** 8 items are more than there can be.

_ONE = np.uint64(1)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


def _instruction(build: Callable[[Any, Any, Any], Any]) -> Callable[[np.uint64], int]:
    """A function of one uint64 that compiles to one machine instruction."""

    def of_word(typing_context: Any, word: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return build(context, builder, arguments[0])

        return types.int64(types.uint64), generate

    return cast("Callable[[np.uint64], int]", intrinsic(of_word))


# The words that are asked for zeros are never zero, and the instruction is told so.
_trailing_zeros = _instruction(lambda context, builder, word: builder.cttz(word, _true(context)))
_leading_zeros = _instruction(lambda context, builder, word: builder.ctlz(word, _true(context)))
_bit_count = _instruction(lambda context, builder, word: builder.ctpop(word))


def _true(context: Any) -> Any:
    return context.get_constant(types.boolean, True)


@inlined
def words_for(n: int) -> int:
    """The words that ``lay_out`` needs for n items."""
    total = 0
    while True:
        n = (n + 63) >> 6
        total += n
        if n <= 1:
            return total + 1


@inlined
def lay_out(words: U64, base: I64, n: int) -> int:
    """Empty the set for n items; ``base[l]`` becomes where level l begins. Returns the number of levels."""
    levels, begin = 0, 0
    while True:
        n = (n + 63) >> 6
        base[levels] = begin
        levels += 1
        begin += n
        if n <= 1:
            words[:begin] = 0
            return levels


@inlined
def add(words: U64, base: I64, levels: int, item: int) -> None:
    for level in range(levels):
        at = base[level] + (item >> 6)
        before = words[at]
        words[at] = before | (_ONE << np.uint64(item & 63))
        if before != 0:
            return
        item >>= 6


@inlined
def discard(words: U64, base: I64, levels: int, item: int) -> None:
    for level in range(levels):
        at = base[level] + (item >> 6)
        words[at] &= ~(_ONE << np.uint64(item & 63))
        if words[at] != 0:
            return
        item >>= 6


@inlined
def least(words: U64, base: I64, levels: int, item: int) -> int:
    """The least item below bit ``item`` of level ``levels`` (0 of the top: of all); there must be one."""
    for level in range(levels - 1, -1, -1):
        item = (item << 6) | _trailing_zeros(words[base[level] + item])
    return item


@inlined
def greatest(words: U64, base: I64, levels: int, item: int) -> int:
    for level in range(levels - 1, -1, -1):
        item = (item << 6) | (63 - _leading_zeros(words[base[level] + item]))
    return item


@inlined
def following(words: U64, base: I64, levels: int, item: int) -> int:
    """The least item greater than ``item``, or -1."""
    for level in range(levels):
        bit, item = item & 63, item >> 6
        if bit < 63:
            rest = words[base[level] + item] & (_ALL << np.uint64(bit + 1))
            if rest != 0:
                return least(words, base, level, (item << 6) | _trailing_zeros(rest))
    return -1


@inlined
def preceding(words: U64, base: I64, levels: int, item: int) -> int:
    """The greatest item less than ``item``, or -1."""
    for level in range(levels):
        bit, item = item & 63, item >> 6
        rest = words[base[level] + item] & ((_ONE << np.uint64(bit)) - _ONE)
        if rest != 0:
            return greatest(words, base, level, (item << 6) | (63 - _leading_zeros(rest)))
    return -1


@inlined
def empty_counts(counts: I64, base: I64, sizes: I64, n: int) -> int:
    """Lay out the counts for n items: ``counts[base[l]:]`` is level l >= 1, the words themselves level 0."""
    levels, begin = 1, 0
    sizes[0] = (n + 63) >> 6
    while sizes[levels - 1] > 64:
        base[levels] = begin
        sizes[levels] = (sizes[levels - 1] + 63) >> 6
        begin += sizes[levels]
        levels += 1
    counts[:begin] = 0
    return levels


@inlined
def count(words: U64, counts: I64, base: I64, levels: int, item: int, change: int) -> None:
    """Put the item in (change 1) or take it out (-1)."""
    at = item >> 6
    words[at] ^= _ONE << np.uint64(item & 63)
    for level in range(1, levels):
        at >>= 6
        counts[base[level] + at] += change


@inlined
def nth(words: U64, counts: I64, base: I64, levels: int, n: int) -> int:
    """The item with n live ones before it; there must be one."""
    at = 0
    for level in range(levels - 1, 0, -1):
        while counts[base[level] + at] <= n:
            n -= counts[base[level] + at]
            at += 1
        at <<= 6
    while _bit_count(words[at]) <= n:
        n -= _bit_count(words[at])
        at += 1
    word, bit = words[at], 0
    for width in (32, 16, 8, 4, 2, 1):
        below = _bit_count(word & ((_ONE << np.uint64(width)) - _ONE))
        if below <= n:
            n -= below
            bit += width
            word >>= np.uint64(width)
    return (at << 6) | bit


@inlined
def next_in_word(words: U64, item: int) -> int:
    """The least item greater than ``item`` if it is in the same word, else -1."""
    bit = item & 63
    if bit < 63:
        rest = words[item >> 6] & (_ALL << np.uint64(bit + 1))
        if rest != 0:
            return (item & ~63) | _trailing_zeros(rest)
    return -1
