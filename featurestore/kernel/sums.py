"""Exact sums and means over what each question sees, by one sweep along an entity's items (see ``Edges``).

Items that entered are added, items that left are subtracted, and at each question the sum, an exact integer,
is rounded once. Every function takes the values by item and the edges, and answers each question; ``threads``
share the entities.
"""

# Compiled loops are typed by their signatures and by what calls them.
# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from featurestore.kernel.compiled import compiled, inlined
from featurestore.kernel.edges import I64, Edges
from featurestore.kernel.exact import (
    BITS_32,
    BITS_63,
    EDGES,
    EXPONENT_SHIFT,
    FRACTION,
    HIDDEN,
    INFINITY,
    LOW_32,
    MAGNITUDE,
    NAN,
    ONE,
    SIGN,
    SPECIAL,
    TABLE,
    U64,
    UNIT,
    WORDS,
    ZERO,
    begins_again,
    leading_zeros,
    nearest,
    powers_of_ten,
    quotient,
    rounded,
    settle,
    share_out,
    trimmed,
)

F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

# Positions reach 2045 and a significand spans three limbs: 63 + 3, and one more for the sign of the settled
# number.
LANES = 67
SUM, MEAN = 0, 1
LIMIT_HIGH, LIMIT_LOW = np.uint64(10**38 >> 64), np.uint64(10**38 & (1 << 64) - 1)


def float_sum(values: F64, edges: Edges, *, threads: ThreadPoolExecutor | None = None) -> tuple[F64, Mask]:
    """The exact sum rounded once to float64, and whether there was anything to sum (0.0 where not)."""
    return _floats(SUM, values, edges, threads)


def float_mean(values: F64, edges: Edges, *, threads: ThreadPoolExecutor | None = None) -> tuple[F64, Mask]:
    """The exact sum rounded once to float64, divided by the number of items; and whether there were any."""
    return _floats(MEAN, values, edges, threads)


def integer_sum(
    values: I64, edges: Edges, *, threads: ThreadPoolExecutor | None = None
) -> tuple[I64, Mask, Mask]:
    """The exact sum, whether it is a value, and whether it is none as it lies beyond int64 (0 where none)."""
    sums, valid, flagged = _integers(SUM, values.view(np.uint64).reshape(-1, 1), 0, edges, threads)
    return sums.view(np.int64)[:, 0], valid, flagged


def integer_mean(values: I64, edges: Edges, *, threads: ThreadPoolExecutor | None = None) -> tuple[F64, Mask]:
    """The exact sum rounded once to float64, divided by the number of items; and whether there were any."""
    means, valid, _ = _integers(MEAN, values.view(np.uint64).reshape(-1, 1), 0, edges, threads)
    return means.view(np.float64)[:, 0], valid


def decimal_sum(
    values: I64 | U64, edges: Edges, *, threads: ThreadPoolExecutor | None = None
) -> tuple[U64, Mask, Mask]:
    """The exact sum, whether it is a value, and whether it is none because it needs more than 38 digits.

    ``values`` are the unscaled integers in [n, 2] words, low word first, as in an Arrow decimal128 buffer;
    the sums are too, at the same scale (0 where none).
    """
    return _integers(SUM, values.view(np.uint64), 0, edges, threads)


def decimal_mean(
    values: I64 | U64, scale: int, edges: Edges, *, threads: ThreadPoolExecutor | None = None
) -> tuple[F64, Mask]:
    """The exact sum of ``values`` / 10^scale rounded once to float64, divided by the number of items."""
    means, valid, _ = _integers(MEAN, values.view(np.uint64), scale, edges, threads)
    return means.view(np.float64)[:, 0], valid


def _floats(result: int, values: F64, edges: Edges, threads: ThreadPoolExecutor | None) -> tuple[F64, Mask]:
    bits = np.empty(edges.hi.size, np.uint64)
    valid = np.empty(edges.hi.size, np.bool_)
    share_out(_sweep_floats, edges, threads, values.view(np.uint64), result, bits, valid)
    return bits.view(np.float64), valid


def _integers(
    result: int, words: U64, scale: int, edges: Edges, threads: ThreadPoolExecutor | None
) -> tuple[U64, Mask, Mask]:
    out = np.empty((edges.hi.size, words.shape[1] if result == SUM else 1), np.uint64)
    valid = np.empty(edges.hi.size, np.bool_)
    flagged = np.empty(edges.hi.size, np.bool_)
    share_out(_sweep_integers, edges, threads, words, result, scale, out, valid, flagged)
    return out, valid, flagged


@inlined
def _span(bits, enter, ordered, begin, end):
    """Least and greatest position of a last bit; zeros, infinities and NaN have none."""
    least, greatest = SPECIAL, ZERO
    for k in range(begin, end):
        magnitude = bits[k if ordered else enter[k]] & MAGNITUDE
        exponent = max(magnitude >> EXPONENT_SHIFT, ONE)
        if magnitude < INFINITY:
            greatest = max(greatest, exponent)
            if magnitude != ZERO:
                least = min(least, exponent)
    return np.int64(least) - 1, np.int64(greatest) - 1


@inlined
def _ieee(nans, plus, minus):
    """The bits of a sum with so many NaN, +inf and -inf in it."""
    if nans > 0 or (plus > 0 and minus > 0):
        return NAN
    return INFINITY if plus > 0 else INFINITY | SIGN


@inlined
def _answer(result, bits, count, out, valid, q):
    valid[q] = count > 0
    out[q] = bits if count > 0 else ZERO
    if result == MEAN and count > 0:
        floats = out.view(np.float64)
        floats[q] = floats[q] / count
        if bits == NAN:
            out[q] = NAN
        elif floats[q] == 0.0:
            out[q] = ZERO


@inlined
def _sweep_near(bits, enter, leave, hi, lo, ordered, begin, q0, q1, least, result, out, valid):
    """One entity whose items fit, shifted to the least position, in two words together with their sums."""
    high, low = ZERO, ZERO
    nans, plus, minus = 0, 0, 0
    entered = left = begin
    for q in range(q0, q1):
        if begins_again(ordered, hi[q], lo[q], entered, left):
            high, low = ZERO, ZERO
            nans, plus, minus = 0, 0, 0
            entered = left = lo[q]
        for turn in range(2):
            start, stop, step = (entered, hi[q], 1) if turn == 0 else (left, lo[q], -1)
            flip = ZERO if turn == 0 else ONE
            for k in range(start, stop):
                item = bits[k if ordered else (enter[k] if turn == 0 else leave[k])]
                exponent = (item >> EXPONENT_SHIFT) & SPECIAL
                if exponent == SPECIAL:
                    nans += step if (item & FRACTION) != ZERO else 0
                    plus += step if item == INFINITY else 0
                    minus += step if item == INFINITY | SIGN else 0
                    continue
                significand = (item & FRACTION) | (HIDDEN if exponent != ZERO else ZERO)
                # A zero may stand below the least position: masked, its shift is still defined.
                shift = (max(exponent, ONE) - ONE - np.uint64(least)) & BITS_63
                negative = (item >> BITS_63) ^ flip
                mask = ZERO - negative
                word = ((significand << shift) ^ mask) + negative
                carry = ONE if word < negative else ZERO
                high += (((significand >> ONE) >> (BITS_63 - shift)) ^ mask) + carry
                low += word
                high += ONE if low < word else ZERO
        entered, left = hi[q], lo[q]
        if nans + plus + minus > 0:
            total = _ieee(nans, plus, minus)
        else:
            negative = high >> BITS_63
            mask = ZERO - negative
            low_magnitude = (low ^ mask) + negative
            carry = ONE if low_magnitude < negative else ZERO
            total = rounded(negative != ZERO, (high ^ mask) + carry, low_magnitude, False, least)
        _answer(result, total, hi[q] - lo[q], out, valid, q)


@inlined
def _sweep_far(
    bits, enter, leave, hi, lo, ordered, begin, q0, q1, least, greatest, result, out, valid, lanes, limbs
):
    """One entity whose items lie far apart: the sum is in lanes, from the least to the greatest position."""
    first, count = least >> 5, (greatest >> 5) + 3 - (least >> 5)
    lanes[first : first + count] = 0
    nans, plus, minus = 0, 0, 0
    entered = left = begin
    for q in range(q0, q1):
        if begins_again(ordered, hi[q], lo[q], entered, left):
            lanes[first : first + count] = 0
            nans, plus, minus = 0, 0, 0
            entered = left = lo[q]
        for turn in range(2):
            start, stop, step = (entered, hi[q], 1) if turn == 0 else (left, lo[q], -1)
            for k in range(start, stop):
                item = bits[k if ordered else (enter[k] if turn == 0 else leave[k])]
                exponent = (item >> EXPONENT_SHIFT) & SPECIAL
                if exponent == SPECIAL:
                    nans += step if (item & FRACTION) != ZERO else 0
                    plus += step if item == INFINITY else 0
                    minus += step if item == INFINITY | SIGN else 0
                    continue
                significand = (item & FRACTION) | (HIDDEN if exponent != ZERO else ZERO)
                if significand == ZERO:
                    continue
                position = max(exponent, ONE) - ONE
                lane, shift = np.int64(position >> np.uint64(5)), position & np.uint64(31)
                sign = -step if item >> BITS_63 != ZERO else step
                part = (significand & LOW_32) << shift
                rest = ((significand >> BITS_32) << shift) + (part >> BITS_32)
                lanes[lane] += sign * np.int64(part & LOW_32)
                lanes[lane + 1] += sign * np.int64(rest & LOW_32)
                lanes[lane + 2] += sign * np.int64(rest >> BITS_32)
        entered, left = hi[q], lo[q]
        if nans + plus + minus > 0:
            total = _ieee(nans, plus, minus)
        else:
            length, negative = settle(lanes, first, count, limbs)
            total = nearest(limbs, length, negative, False, 32 * first)
        _answer(result, total, hi[q] - lo[q], out, valid, q)


@compiled(f"void({WORDS}, {EDGES}, int64, int64, int64, uint64[::1], boolean[::1])")
def _sweep_floats(bits, enter, leave, offsets, questions, hi, lo, ordered, e0, e1, result, out, valid):
    lanes = np.empty(LANES, np.int64)
    limbs = np.empty(LANES + 1, np.uint64)
    for e in range(e0, e1):
        q0, q1 = questions[e], questions[e + 1]
        if q0 == q1:
            continue
        begin, end = (lo[q0] if ordered else offsets[e]), hi[q1 - 1]
        least, greatest = _span(bits, enter, ordered, begin, end)
        least = min(least, greatest)
        # The shift stays within a word, and the sum of all items within 127 bits and a sign.
        if greatest - least < 64 and greatest - least + 53 + 64 - leading_zeros(np.uint64(end - begin)) < 128:
            _sweep_near(bits, enter, leave, hi, lo, ordered, begin, q0, q1, least, result, out, valid)
        else:
            _sweep_far(
                bits,
                enter,
                leave,
                hi,
                lo,
                ordered,
                begin,
                q0,
                q1,
                least,
                greatest,
                result,
                out,
                valid,
                lanes,
                limbs,
            )


@compiled(f"void({TABLE}, {EDGES}, int64, int64, int64, int64, uint64[:, ::1], boolean[::1], boolean[::1])")
def _sweep_integers(
    words, enter, leave, offsets, questions, hi, lo, ordered, e0, e1, result, scale, out, valid, flagged
):
    """Integers of one or two words; the sum has three, which 2^31 items cannot overflow."""
    wide = words.shape[1] == 2
    divisors = np.empty(8, np.uint64)
    limbs, work = np.empty(6, np.uint64), np.empty(16, np.uint64)
    tens = powers_of_ten(scale, divisors, 0)
    for e in range(e0, e1):
        high, middle, low = ZERO, ZERO, ZERO
        q0, q1 = questions[e], questions[e + 1]
        entered = left = offsets[e]
        for q in range(q0, q1):
            if begins_again(ordered, hi[q], lo[q], entered, left):
                high, middle, low = ZERO, ZERO, ZERO
                entered = left = lo[q]
            for k in range(entered, hi[q]):
                i = k if ordered else enter[k]
                word = words[i, 0]
                above = words[i, 1] if wide else ZERO - (word >> BITS_63)
                low += word
                carry = ONE if low < word else ZERO
                middle += above
                carry_above = ONE if middle < above else ZERO
                middle += carry
                carry_above += ONE if middle < carry else ZERO
                high += carry_above - (above >> BITS_63)
            for k in range(left, lo[q]):
                i = k if ordered else leave[k]
                word = words[i, 0]
                above = words[i, 1] if wide else ZERO - (word >> BITS_63)
                borrow = ONE if low < word else ZERO
                low -= word
                borrow_above = ONE if middle < above else ZERO
                middle -= above
                borrow_above += ONE if middle < borrow else ZERO
                middle -= borrow
                high -= borrow_above - (above >> BITS_63)
            entered, left = hi[q], lo[q]

            count = hi[q] - lo[q]
            negative = high >> BITS_63 != ZERO
            a, b, c = low, middle, high
            if negative:
                a = ~low + ONE
                b = ~middle + (ONE if a == ZERO else ZERO)
                c = ~high + (ONE if a == ZERO and b == ZERO else ZERO)
            if result == SUM:
                if wide:
                    fits = c == ZERO and (b < LIMIT_HIGH or (b == LIMIT_HIGH and a < LIMIT_LOW))
                    out[q, 1] = middle if fits else ZERO
                else:
                    fits = c == ZERO and b == ZERO and a <= (SIGN if negative else MAGNITUDE)
                out[q, 0] = low if fits else ZERO
                valid[q], flagged[q] = count > 0 and fits, not fits
                continue
            flagged[q] = False
            valid[q] = count > 0
            if tens == 0 and c == ZERO:
                bits = rounded(negative, b, a, False, UNIT)
            else:
                limbs[0], limbs[1], limbs[2] = a & LOW_32, a >> BITS_32, b & LOW_32
                limbs[3], limbs[4], limbs[5] = b >> BITS_32, c & LOW_32, c >> BITS_32
                bits = quotient(limbs, trimmed(limbs, 6), negative, divisors, tens, UNIT, work)
            out[q, 0] = bits
            if count > 0:
                floats = out.view(np.float64)
                floats[q, 0] = floats[q, 0] / count
