"""MurmurHash3 x64 128 with seed 0, in parts: loops hash fixed shapes from words, others from bytes.

Nothing here knows of time. Source: the public domain reference of Austin Appleby (SMHasher, MurmurHash3.cpp).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featurestore.kernel.compiled import inlined

Word = np.uint64
Bytes = NDArray[np.uint8]

_C1 = np.uint64(0x87C37B91114253D5)
_C2 = np.uint64(0x4CF5AD432745937F)


@inlined
def _rotate(word: Word, bits: int) -> Word:
    return (word << np.uint64(bits)) | (word >> np.uint64(64 - bits))


@inlined
def fmix(word: Word) -> Word:
    word = (word ^ (word >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    word = (word ^ (word >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return word ^ (word >> np.uint64(33))


@inlined
def mix1(k1: Word) -> Word:
    return _rotate(k1 * _C1, 31) * _C2


@inlined
def mix2(k2: Word) -> Word:
    return _rotate(k2 * _C2, 33) * _C1


@inlined
def block(h1: Word, h2: Word, k1: Word, k2: Word) -> tuple[Word, Word]:
    """The state after 16 more bytes: k1, then k2."""
    h1 = (_rotate(h1 ^ mix1(k1), 27) + h2) * np.uint64(5) + np.uint64(0x52DCE729)
    h2 = (_rotate(h2 ^ mix2(k2), 31) + h1) * np.uint64(5) + np.uint64(0x38495AB5)
    return h1, h2


@inlined
def finish(h1: Word, h2: Word, length: int) -> tuple[Word, Word]:
    h1, h2 = h1 ^ np.uint64(length), h2 ^ np.uint64(length)
    h1 += h2
    h2 += h1
    h1, h2 = fmix(h1), fmix(h2)
    h1 += h2
    h2 += h1
    return h1, h2


@inlined
def _little_endian(data: Bytes, start: int, count: int) -> Word:
    word = np.uint64(0)
    for i in range(count):
        word |= np.uint64(data[start + i]) << np.uint64(8 * i)
    return word


@inlined
def tagged(data: Bytes, start: int, length: int, tag: int) -> tuple[Word, Word]:
    """The hash of one byte ``tag`` and ``length`` bytes of ``data``; of the bytes alone when ``tag`` is 0."""
    h1, h2 = np.uint64(0), np.uint64(0)
    total, end, at = length, start + length, start
    carry = np.uint64(tag)  # The byte that the tag pushes from each word into the next.
    shift = np.uint64(0)
    if tag != 0:
        total += 1
        shift = np.uint64(8)
    pushed = total - length
    while end - at >= 16 - pushed:
        k1 = carry | (_little_endian(data, at, 8 - pushed) << shift)
        k2 = _little_endian(data, at + 8 - pushed, 8)
        h1, h2 = block(h1, h2, k1, k2)
        at += 16 - pushed
        pushed, shift, carry = 0, np.uint64(0), np.uint64(0)
    rest = end - at
    k1 = carry | (_little_endian(data, at, min(rest, 8 - pushed)) << shift)
    k2 = _little_endian(data, at + 8 - pushed, max(rest - (8 - pushed), 0))
    # A zero word mixes to zero, so an absent tail changes nothing.
    return finish(h1 ^ mix1(k1), h2 ^ mix2(k2), total)
