"""Exact integers inside compiled loops, rounded once to float64 at the very end. Knows no time.

A float64 is an integer times 2^-1074, so a sum of floats is an integer too: kept whole, it is the same in
whatever order items are added, and subtracting an item that leaves a window undoes adding it. Integers are
kept as

- *words*: two or three uint64 in two's complement, while an entity's values lie close enough together, or
- *lanes*: int64, the lane at index i worth 2^(32 i). Every item adds less than 2^32 to a lane and takes the
  same away when it leaves, so a lane is the sum over the live items alone and holds for 2^31 of them without
  a carry, or
- *limbs*: what lanes settle to, uint64 below 2^32, least first, beside a length and a sign.

A *position* is the power of two that a unit stands for, counted from 2^-1074: that of the integer 1 is 1074.
"""

# Compiled loops are typed by their signatures and by what calls them.
# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from featurestore.kernel.compiled import inlined
from featurestore.kernel.edges import I64, Edges

U64 = NDArray[np.uint64]

# Arguments as signatures spell them. Read-only, so that a view of an Arrow buffer is taken as well as an
# array.
WORDS = "Array(uint64, 1, 'C', readonly=True)"
TABLE = "Array(uint64, 2, 'C', readonly=True)"
INDEX = "Array(int64, 1, 'C', readonly=True)"
EDGES = f"{INDEX}, {INDEX}, {INDEX}, {INDEX}, {INDEX}, {INDEX}, boolean"

ZERO, ONE = np.uint64(0), np.uint64(1)
BITS_32, BITS_63 = np.uint64(32), np.uint64(63)
LOW_32 = np.uint64(0xFFFFFFFF)
SIGN = np.uint64(1 << 63)
FRACTION = np.uint64((1 << 52) - 1)
HIDDEN = np.uint64(1 << 52)
MAGNITUDE = np.uint64((1 << 63) - 1)
SPECIAL = np.uint64(0x7FF)
EXPONENT_SHIFT = np.uint64(52)
INFINITY = np.uint64(0x7FF0000000000000)
NAN = np.uint64(0x7FF8000000000000)
UNIT = 1074  # the position of the integer 1

# Below this many items and questions a call is over before a second thread has started.
SHARED_FROM = 1 << 16
# More ranges than threads, so that uneven entities even out.
RANGES = 16


def entity_ranges(offsets: I64, questions: I64, parts: int) -> Iterator[tuple[int, int]]:
    """At most ``parts`` ranges [e0, e1) that cover all entities, alike in items and questions."""
    load = offsets + questions
    shares = load[0] + (load[-1] - load[0]) * np.arange(1, parts) // parts
    cuts = np.searchsorted(load, shares).tolist()
    e0 = 0
    for e1 in [*cuts, offsets.size - 1]:
        if e1 > e0:
            yield e0, e1
            e0 = e1


def share_out(
    sweep: Callable[..., Any], edges: Edges, threads: ThreadPoolExecutor | None, values: Any, *rest: Any
) -> None:
    """Call ``sweep(values, <edges>, e0, e1, *rest)`` for all entities: here, or in ranges by ``threads``.

    Every question is answered from its own items alone, so the ranges change no value.
    """
    # 2^31 live items is what a lane, and a division by their number, can hold.
    entries = int(edges.offsets[-1])
    assert entries < 1 << 31
    lists = (edges.enter, edges.leave, edges.offsets, edges.questions, edges.hi, edges.lo, edges.ordered)
    if threads is None or entries + edges.hi.size < SHARED_FROM:
        sweep(values, *lists, 0, edges.offsets.size - 1, *rest)
        return
    ranges = entity_ranges(edges.offsets, edges.questions, RANGES)
    runs = [threads.submit(sweep, values, *lists, e0, e1, *rest) for e0, e1 in ranges]
    for run in runs:
        run.result()


@inlined
def begins_again(ordered, hi, lo, entered, left):
    """True where adding the live run from nothing takes no more steps than moving both edges on."""
    return ordered and hi - lo <= (hi - entered) + (lo - left)


def instruction(build: Callable[..., Any]) -> Any:
    """An LLVM instruction as a function of compiled loops."""
    return intrinsic(build)


@instruction
def leading_zeros(_typing, word):
    """Zero bits above the highest one of a uint64; 64 for 0."""

    def build(_context, builder, _signature, arguments):
        return builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), build


@instruction
def trailing_zeros(_typing, word):
    """Zero bits below the lowest one of a uint64; 64 for 0."""

    def build(_context, builder, _signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), build


@instruction
def multiply(_typing, a, b):
    """The 128-bit product of two uint64 as (high word, low word)."""
    pair = types.UniTuple(types.uint64, 2)

    def build(context, builder, _signature, arguments):
        wide = ir.IntType(128)
        product = builder.mul(*(builder.zext(argument, wide) for argument in arguments))
        high = builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))
        return context.make_tuple(builder, pair, (high, builder.trunc(product, ir.IntType(64))))

    return pair(types.uint64, types.uint64), build


@inlined
def rounded(negative, high, low, sticky, position):
    """The float64 nearest to ±high:low * 2^(position - 1074), ties to even, as bits; zero has no sign.

    ``sticky`` says that the number exceeds high:low, by less than one; then at least 55 bits are in use.
    """
    if high == ZERO and low == ZERO:
        return ZERO
    length = 128 - leading_zeros(high) if high != ZERO else 64 - leading_zeros(low)
    drop = max(length - 53, -position)
    if drop > length:  # below half of the least subnormal
        return ZERO
    place = position + drop
    if drop <= 0:
        kept = low << np.uint64(-drop)
    else:
        if drop < 64:
            kept = (low >> np.uint64(drop)) | ((high << ONE) << np.uint64(63 - drop))
        elif drop < 128:
            kept = high >> np.uint64(drop - 64)
        else:
            kept = ZERO
        if drop <= 64:
            half = (low >> np.uint64(drop - 1)) & ONE
            rest = low & ((ONE << np.uint64(drop - 1)) - ONE)
        else:
            half = (high >> np.uint64(drop - 65)) & ONE
            rest = low | (high & ((ONE << np.uint64(drop - 65)) - ONE))
        if half != ZERO and (sticky or rest != ZERO or (kept & ONE) != ZERO):
            kept += ONE
    # 2^52 in ``kept`` is the hidden bit: it lifts the exponent's field by one, as does a carry to 2^53.
    bits = INFINITY if place >= 2046 else (np.uint64(place) << EXPONENT_SHIFT) + kept
    return bits | SIGN if negative and bits != ZERO else bits


@inlined
def settle(lanes, first, count, limbs):
    """Carry ``lanes[first:first + count]``, which stay as they are, into ``limbs``: (length, negative)."""
    carry = np.int64(0)
    for i in range(count):
        lane = lanes[first + i] + carry
        limbs[i] = np.uint64(lane) & LOW_32
        carry = lane >> 32
    limbs[count] = np.uint64(carry) & LOW_32
    negative = carry < 0
    if negative:
        borrow = ONE
        for i in range(count + 1):
            limb = (limbs[i] ^ LOW_32) + borrow
            limbs[i] = limb & LOW_32
            borrow = limb >> BITS_32
    return trimmed(limbs, count + 1), negative


@inlined
def trimmed(limbs, length):
    """The length without leading zero limbs."""
    while length > 0 and limbs[length - 1] == ZERO:
        length -= 1
    return length


@inlined
def product(a, a_length, b, b_length, out):
    """out = a * b in limbs; its length. ``out`` is neither of them."""
    for i in range(a_length + b_length):
        out[i] = ZERO
    for i in range(a_length):
        carry, factor = ZERO, a[i]
        for j in range(b_length):
            term = factor * b[j] + out[i + j] + carry  # at most (2^32 - 1)^2 + 2 (2^32 - 1) = 2^64 - 1
            out[i + j] = term & LOW_32
            carry = term >> BITS_32
        out[i + b_length] = carry
    return trimmed(out, a_length + b_length)


@inlined
def multiple(a, length, factor, out):
    """out = a * factor, a factor below 2^32; its length. ``out`` may be a."""
    carry = ZERO
    for i in range(length):
        term = a[i] * factor + carry
        out[i] = term & LOW_32
        carry = term >> BITS_32
    if carry != ZERO:
        out[length] = carry
        length += 1
    return length


@inlined
def add(a, a_length, a_negative, b, b_length, b_negative):
    """a += b, both with a sign; (length, negative) of a."""
    for i in range(a_length, b_length):
        a[i] = ZERO
    length = max(a_length, b_length)
    carry = ZERO
    if a_negative == b_negative:
        for i in range(length):
            limb = a[i] + carry + (b[i] if i < b_length else ZERO)
            a[i] = limb & LOW_32
            carry = limb >> BITS_32
        if carry != ZERO:
            a[length] = carry
            length += 1
        return length, a_negative
    # The difference of the magnitudes modulo 2^(32 length); a borrow at the end says that b was the greater.
    for i in range(length):
        limb = a[i] - carry - (b[i] if i < b_length else ZERO)
        a[i] = limb & LOW_32
        carry = (limb >> BITS_32) & ONE
    if carry != ZERO:
        for i in range(length):
            limb = (a[i] ^ LOW_32) + carry
            a[i] = limb & LOW_32
            carry = limb >> BITS_32
        return trimmed(a, length), b_negative
    return trimmed(a, length), a_negative


@inlined
def powers_of_ten(digits, divisors, count):
    """Append divisors below 2^32 whose product is 10^digits; their new count."""
    while digits > 0:
        step, divisor = min(digits, 9), ONE
        for _ in range(step):
            divisor *= np.uint64(10)
        divisors[count] = divisor
        count += 1
        digits -= step
    return count


@inlined
def quotient(limbs, length, negative, divisors, count, position, work):
    """limbs * 2^(position - 1074) / the product of ``divisors[:count]``, rounded once; float64 bits.

    Dividing the floor of a quotient again gives the floor of the whole quotient, and what any step leaves
    behind only says that the true value lies strictly above it. A divisor is below 2^32.
    """
    if length == 0:
        return ZERO
    bits = 0
    for d in range(count):
        bits += 64 - leading_zeros(divisors[d])
    # The number is cut or extended to so many limbs that 64 bits of the quotient are left.
    width = bits // 32 + 4
    skipped = length - width
    sticky = False
    for i in range(skipped):
        sticky = sticky or limbs[i] != ZERO
    for i in range(width):
        work[i] = limbs[i + skipped] if i + skipped >= 0 else ZERO
    top = width
    for d in range(count):
        rest, divisor = ZERO, divisors[d]
        for i in range(top - 1, -1, -1):
            part = (rest << BITS_32) | work[i]
            work[i] = part // divisor
            rest = part - work[i] * divisor
        sticky = sticky or rest != ZERO
        top = trimmed(work, top)
    return nearest(work, top, negative, sticky, position + 32 * skipped)


@inlined
def nearest(limbs, length, negative, sticky, position):
    """limbs * 2^(position - 1074), and less than a unit more if ``sticky``, rounded once; float64 bits."""
    skipped = max(length - 4, 0)
    for i in range(skipped):
        sticky = sticky or limbs[i] != ZERO
    high, low = ZERO, ZERO
    for i in range(length - 1, skipped - 1, -1):
        high = (high << BITS_32) | (low >> BITS_32)
        low = (low << BITS_32) | limbs[i]
    return rounded(negative, high, low, sticky, position + 32 * skipped)
