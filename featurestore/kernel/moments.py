"""Variance, standard deviation, skewness and kurtosis of what each question sees (time: see ``Edges``).

With S1..S4 the exact sums of x, x^2, x^3 and x^4 of the n items, the central moments are

    m2 = (n S2 - S1^2) / n^2
    m3 = (n^2 S3 - 3 n S1 S2 + 2 S1^3) / n^3
    m4 = (n^3 S4 - 4 n^2 S1 S3 + 6 n S1^2 S2 - 3 S1^4) / n^4

S1..S4 are kept along an entity's items as in ``sums``; numerator and division are exact too, so each is the
rational one rounded once. From there on it is float64: stddev = sqrt(m2), skew = m3 / (m2 sqrt(m2)),
kurtosis = m4 / (m2 m2) - 3. "m2 = 0" means the rounded one. A moment beyond float64 is an infinity, and
IEEE 754 goes on with it.
"""

# Compiled loops are typed by their signatures and by what calls them.
# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

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
    INDEX,
    LOW_32,
    NAN,
    ONE,
    SPECIAL,
    TABLE,
    U64,
    UNIT,
    ZERO,
    add,
    begins_again,
    leading_zeros,
    multiple,
    multiply,
    powers_of_ten,
    product,
    quotient,
    settle,
    share_out,
    trailing_zeros,
    trimmed,
)

F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]
Statistic = Literal["variance", "sample_variance", "stddev", "sample_stddev", "skew", "kurtosis"]

VARIANCE, SAMPLE_VARIANCE, STDDEV, SAMPLE_STDDEV, SKEW, KURTOSIS = range(6)
CODES = {
    "variance": VARIANCE,
    "sample_variance": SAMPLE_VARIANCE,
    "stddev": STDDEV,
    "sample_stddev": SAMPLE_STDDEV,
    "skew": SKEW,
    "kurtosis": KURTOSIS,
}
SAMPLE = 1  # where the second moment of a sample stands among the moments by order
LEAST_COUNT = np.array([1, 2, 1, 2, 3, 4])
HIGHEST_POWER = np.array([2, 2, 2, 2, 3, 4])

# The fourth powers of 5e-324 and the largest float lie 4 * 2098 bits apart: 263 lanes, and two that stay 0.
ROW = 266
# A numerator has 4 * (2098 + 31) + 4 bits, 267 limbs; a product on its way one or two more.
LIMBS = 272
# 10^(4 * 38) takes 17 divisors and n four.
DIVISORS = 24


def float_moments(
    values: F64, statistics: Sequence[Statistic], edges: Edges, *, threads: ThreadPoolExecutor | None = None
) -> list[tuple[F64, Mask]]:
    """For each of ``statistics`` the answers, and whether they are values (0.0 where not).

    Where a NaN or an infinity is seen, the answer is NaN.
    """
    return _moments(values.view(np.uint64).reshape(-1, 1), True, 0, statistics, edges, threads)


def integer_moments(
    values: I64, statistics: Sequence[Statistic], edges: Edges, *, threads: ThreadPoolExecutor | None = None
) -> list[tuple[F64, Mask]]:
    """For each of ``statistics`` the answers, and whether they are values (0.0 where not)."""
    return _moments(values.view(np.uint64).reshape(-1, 1), False, 0, statistics, edges, threads)


def decimal_moments(
    values: I64 | U64,
    scale: int,
    statistics: Sequence[Statistic],
    edges: Edges,
    *,
    threads: ThreadPoolExecutor | None = None,
) -> list[tuple[F64, Mask]]:
    """For each of ``statistics`` the answers, and whether they are values (0.0 where not).

    ``values`` are the unscaled integers in [n, 2] words, low word first, as in an Arrow decimal128 buffer.
    """
    return _moments(values.view(np.uint64), False, scale, statistics, edges, threads)


def _moments(
    words: U64,
    floats: bool,
    scale: int,
    statistics: Sequence[Statistic],
    edges: Edges,
    threads: ThreadPoolExecutor | None,
) -> list[tuple[F64, Mask]]:
    codes = np.array([CODES[statistic] for statistic in statistics])
    bits = np.empty((codes.size, edges.hi.size), np.uint64)
    valid = np.empty((codes.size, edges.hi.size), np.bool_)
    share_out(_sweep, edges, threads, words, floats, scale, codes, bits, valid)
    return list(zip(bits.view(np.float64), valid, strict=True))


@inlined
def _item(words, i, floats):
    """Item i as (special, negative, high, low, position): ±high:low * 2^position, of 2^-1074 for floats."""
    low = words[i, 0]
    if floats:
        exponent = (low >> EXPONENT_SHIFT) & SPECIAL
        significand = (low & FRACTION) | (HIDDEN if exponent != ZERO else ZERO)
        position = np.int64(max(exponent, ONE)) - 1
        return exponent == SPECIAL, low >> BITS_63 != ZERO, ZERO, significand, position
    if words.shape[1] == 1:
        negative = low >> BITS_63 != ZERO
        return False, negative, ZERO, (ZERO - low if negative else low), np.int64(0)
    high = words[i, 1]
    negative = high >> BITS_63 != ZERO
    if negative:
        low = ZERO - low
        high = ~high + (ONE if low == ZERO else ZERO)
    return False, negative, high, low, np.int64(0)


@inlined
def _span(words, floats, enter, ordered, begin, end):
    """The positions of the least bit in use and of the one above the greatest; (0, 0) if there are none."""
    least, top = 1 << 30, 0
    for k in range(begin, end):
        special, _, high, low, position = _item(words, k if ordered else enter[k], floats)
        if special or (high == ZERO and low == ZERO):
            continue
        if high != ZERO:
            least = 0  # two words are not shifted
            top = max(top, 128 - leading_zeros(high))
        else:
            least = min(least, position + trailing_zeros(low))
            top = max(top, position + 64 - leading_zeros(low))
    return min(least, top), top


@inlined
def _add_word(lanes, at, word, shift, carry, sign):
    """Add ±(word * 2^shift + carry), carry < 2^shift <= 2^31, to two lanes; what is left for the next."""
    part = ((word & LOW_32) << shift) + carry
    rest = ((word >> BITS_32) << shift) + (part >> BITS_32)
    lanes[at] += sign * np.int64(part & LOW_32)
    lanes[at + 1] += sign * np.int64(rest & LOW_32)
    return rest >> BITS_32


@inlined
def _add_power(lanes, power, offset, a, b, c, d, sign):
    """Add ±d:c:b:a * 2^offset to the lanes of a power."""
    at, shift = (power - 1) * ROW + (offset >> 5), np.uint64(offset & 31)
    carry = _add_word(lanes, at, a, shift, ZERO, sign)
    if (b | c | d | carry) != ZERO:
        carry = _add_word(lanes, at + 2, b, shift, carry, sign)
        if (c | d | carry) != ZERO:
            carry = _add_word(lanes, at + 4, c, shift, carry, sign)
            if (d | carry) != ZERO:
                carry = _add_word(lanes, at + 6, d, shift, carry, sign)
                if carry != ZERO:
                    lanes[at + 8] += sign * np.int64(carry)


@inlined
def _add_item(lanes, highest, negative, m, shift, step):
    """Add (step 1) or take away (step -1) the powers of ±m * 2^shift."""
    sign = -step if negative else step
    _add_power(lanes, 1, shift, m, ZERO, ZERO, ZERO, sign)
    b, a = multiply(m, m)
    _add_power(lanes, 2, 2 * shift, a, b, ZERO, ZERO, step)
    if highest >= 3:
        am_high, am_low = multiply(a, m)
        bm_high, bm_low = multiply(b, m)
        middle = am_high + bm_low
        bm_high += ONE if middle < bm_low else ZERO
        _add_power(lanes, 3, 3 * shift, am_low, middle, bm_high, ZERO, sign)
    if highest >= 4:
        aa_high, aa_low = multiply(a, a)
        ab_high, ab_low = multiply(a, b)
        bb_high, bb_low = multiply(b, b)
        second = aa_high + (ab_low << ONE)
        carry = ONE if second < aa_high else ZERO
        third = bb_low + carry  # no square ends in all ones, so this does not overflow
        doubled = (ab_high << ONE) | (ab_low >> BITS_63)
        third += doubled
        fourth = bb_high + (ab_high >> BITS_63) + (ONE if third < doubled else ZERO)
        _add_power(lanes, 4, 4 * shift, aa_low, second, third, fourth, step)


@inlined
def _add_wide_item(lanes, highest, negative, high, low, step, x, power, next_power):
    """The same for an item of two words, through limbs."""
    x[0], x[1], x[2], x[3] = low & LOW_32, low >> BITS_32, high & LOW_32, high >> BITS_32
    length = trimmed(x, 4)
    power[0] = ONE
    reached = 1
    for k in range(1, highest + 1):
        reached = product(power, reached, x, length, next_power)
        sign = -step if negative and k % 2 == 1 else step
        for i in range(reached):
            power[i] = next_power[i]
            lanes[(k - 1) * ROW + i] += sign * np.int64(power[i])


@inlined
def _numerator(order, n, sums, lengths, negatives, u, t, v):
    """n^order times the central moment, in limbs of ``u``; (length, negative)."""
    s1, s2, s3, s4 = sums
    l1, l2, l3, l4 = lengths[0], lengths[1], lengths[2], lengths[3]
    if order == 2:
        at_u = multiple(s2, l2, n, u)
        at_t = product(s1, l1, s1, l1, t)
        return add(u, at_u, False, t, at_t, True)
    if order == 3:
        at_u = multiple(s3, l3, n, u)
        at_t = product(s1, l1, s2, l2, t)
        at_t = multiple(t, at_t, np.uint64(3), t)
        at_u, negative = add(u, at_u, negatives[2], t, at_t, not negatives[0])
        at_u = multiple(u, at_u, n, u)
        at_t = product(s1, l1, s1, l1, t)
        at_v = product(t, at_t, s1, l1, v)
        at_v = multiple(v, at_v, np.uint64(2), v)
        return add(u, at_u, negative, v, at_v, negatives[0])
    at_u = multiple(s4, l4, n, u)
    at_t = product(s1, l1, s3, l3, t)
    at_t = multiple(t, at_t, np.uint64(4), t)
    at_u, negative = add(u, at_u, False, t, at_t, negatives[0] == negatives[2])
    at_u = multiple(u, at_u, n, u)
    at_t = product(s1, l1, s1, l1, t)
    at_v = product(t, at_t, s2, l2, v)
    at_v = multiple(v, at_v, np.uint64(6), v)
    at_u, negative = add(u, at_u, negative, v, at_v, False)
    at_u = multiple(u, at_u, n, u)
    at_v = product(t, at_t, t, at_t, v)
    at_v = multiple(v, at_v, np.uint64(3), v)
    return add(u, at_u, negative, v, at_v, True)


@inlined
def _moment(order, sample, count, unit, scale, sums, lengths, negatives, u, t, v, divisors):
    """The central moment rounded once, as bits; a unit of S1 stands for 2^(unit - 1074) / 10^scale."""
    n = np.uint64(count)
    length, negative = _numerator(order, n, sums, lengths, negatives, u, t, v)
    if sample:
        divisors[0], divisors[1] = n, n - ONE
        made = 2
    elif count < 1 << 16:  # two at once are below 2^32
        made = order // 2
        divisors[:made] = n * n
        if order % 2 == 1:
            divisors[made] = n
            made += 1
    else:
        made = order
        divisors[:made] = n
    made = powers_of_ten(scale * order, divisors, made)
    return quotient(u, length, negative, divisors, made, order * (unit - UNIT) + UNIT, t)


@inlined
def _answers(codes, count, specials, central, moments, out, valid, q):
    """Every statistic of question q from the moments ``central`` (floats over the bits in ``moments``)."""
    for row in range(codes.size):
        code = codes[row]
        of_sample = code in (SAMPLE_VARIANCE, SAMPLE_STDDEV)
        m2 = central[SAMPLE] if of_sample else central[2]
        valid[row, q] = count >= LEAST_COUNT[code]
        out[row, q] = ZERO
        if not valid[row, q]:
            continue
        if specials > 0:
            answer = math.nan
        elif code in (VARIANCE, SAMPLE_VARIANCE):
            answer = m2
        elif code in (STDDEV, SAMPLE_STDDEV):
            answer = math.sqrt(m2)
        elif m2 == 0.0:
            valid[row, q] = False
            continue
        elif code == SKEW:
            answer = central[3] / (m2 * math.sqrt(m2))
        else:
            answer = central[4] / (m2 * m2) - 3.0
        # There is one NaN, and no -0.0.
        if answer != answer:
            out[row, q] = NAN
        elif answer != 0.0:
            central[0] = answer
            out[row, q] = moments[0]


@compiled(f"void({TABLE}, {EDGES}, int64, int64, boolean, int64, {INDEX}, uint64[:, ::1], boolean[:, ::1])")
def _sweep(
    words, enter, leave, offsets, questions, hi, lo, ordered, e0, e1, floats, scale, codes, out, valid
):
    wanted = np.zeros(5, np.bool_)
    for code in codes:
        wanted[SAMPLE if code in (SAMPLE_VARIANCE, SAMPLE_STDDEV) else 2] = True
        wanted[HIGHEST_POWER[code]] = wanted[HIGHEST_POWER[code]] or code >= SKEW
    highest = 4 if wanted[4] else 3 if wanted[3] else 2
    lanes = np.empty(4 * ROW, np.int64)
    s1, s2 = np.empty(LIMBS, np.uint64), np.empty(LIMBS, np.uint64)
    s3, s4 = np.empty(LIMBS, np.uint64), np.empty(LIMBS, np.uint64)
    u, t, v = np.empty(LIMBS, np.uint64), np.empty(LIMBS, np.uint64), np.empty(LIMBS, np.uint64)
    sums = (s1, s2, s3, s4)
    divisors = np.empty(DIVISORS, np.uint64)
    lengths, negatives = np.zeros(4, np.int64), np.zeros(4, np.bool_)
    moments = np.zeros(5, np.uint64)  # by order, that of a sample at SAMPLE
    central = moments.view(np.float64)
    for e in range(e0, e1):
        q0, q1 = questions[e], questions[e + 1]
        if q0 == q1:
            continue
        entered = left = lo[q0] if ordered else offsets[e]
        least, top = _span(words, floats, enter, ordered, entered, hi[q1 - 1])
        unit = least if floats else least + UNIT
        specials = 0
        for q in range(q0, q1):
            if q == q0 or begins_again(ordered, hi[q], lo[q], entered, left):
                for k in range(1, highest + 1):
                    # A word that is added ends at most two lanes beyond what is in use.
                    lanes[(k - 1) * ROW : (k - 1) * ROW + k * (top - least) // 32 + 3] = 0
                specials = 0
                if ordered:
                    entered = left = lo[q]
            for turn in range(2):
                start, stop, step = (entered, hi[q], 1) if turn == 0 else (left, lo[q], -1)
                for k in range(start, stop):
                    i = k if ordered else (enter[k] if turn == 0 else leave[k])
                    special, negative, high, low, position = _item(words, i, floats)
                    if special:
                        specials += step
                    elif high != ZERO:
                        _add_wide_item(lanes, highest, negative, high, low, step, s1, t, v)
                    elif low != ZERO:
                        shift = position - least
                        if shift < 0:
                            low >>= np.uint64(-shift)
                            shift = 0
                        _add_item(lanes, highest, negative, low, shift, step)
            entered, left = hi[q], lo[q]

            count = hi[q] - lo[q]
            if specials == 0 and count > 0:
                for k in range(1, highest + 1):
                    used = k * (top - least) // 32 + 1
                    lengths[k - 1], negatives[k - 1] = settle(lanes, (k - 1) * ROW, used, sums[k - 1])
                for slot in range(1, highest + 1):
                    if wanted[slot] and (slot != SAMPLE or count > 1):
                        order = 2 if slot == SAMPLE else slot
                        moments[slot] = _moment(
                            order,
                            slot == SAMPLE,
                            count,
                            unit,
                            scale,
                            sums,
                            lengths,
                            negatives,
                            u,
                            t,
                            v,
                            divisors,
                        )
            _answers(codes, count, specials, central, moments, out, valid, q)
