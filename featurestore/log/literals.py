"""Literals in text, read in compiled loops over Arrow's buffers: a value is the literal when all of it,
trimmed, is.

Time: ISO 8601 with ``T`` or a blank, seconds and fraction optional, then nothing (local time) or ``Z``,
``UTC``, ``+hh``, ``+hhmm``, ``+hh:mm``; a date alone is its midnight. Digits beyond the microsecond are
dropped, which floors the instant. Years are 0001 to 9999.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.kernel.compiled import compiled, inlined

Bools = NDArray[np.bool_]
Codes = NDArray[np.uint8]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

NOT_A_NUMBER_LITERAL, NUMBER, NAN, INFINITY, MINUS_INFINITY = range(5)
NOT_A_TIME, LOCAL, UTC = range(3)

# Arrow's buffers are often read-only: a signature that says so takes writable ones too.
_SOURCES = "Array(int32, 1, 'C', True), Array(uint8, 1, 'C', True)"
_BITS = "Array(uint64, 1, 'C', True)"


def buffers(text: pa.Array) -> tuple[I32, Codes]:
    """The offsets (n + 1 of them) and the bytes of a string or binary array; a null's slot may hold
    anything."""
    _, offsets, data = text.buffers()
    starts = np.zeros(1, np.int32) if offsets is None or len(text) == 0 else np.frombuffer(offsets, np.int32)
    held = np.zeros(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
    return starts[text.offset : text.offset + len(text) + 1] if len(text) else starts[:1], held


def integers(text: pa.Array) -> tuple[I64, Bools]:
    """Each value as an int64, and whether it is one: digits with an optional sign, within int64."""
    out, ok = np.zeros(len(text), np.int64), np.zeros(len(text), np.bool_)
    _integers(*buffers(text), out, ok)
    return out, ok


def number_kinds(text: pa.Array) -> Codes:
    """What each value is: a decimal number (``12``, ``-.5``, ``1e3``), one of the words nan, inf, infinity,
    or neither."""
    out = np.zeros(len(text), np.uint8)
    _number_kinds(*buffers(text), out)
    return out


def instants(text: pa.Array) -> tuple[I64, Codes]:
    """Each value in microseconds since 1970, and whether that is on the wall (LOCAL), UTC, or NOT_A_TIME."""
    out, kinds = np.zeros(len(text), np.int64), np.zeros(len(text), np.uint8)
    _instants(*buffers(text), out, kinds)
    return out, kinds


def dates(text: pa.Array) -> tuple[I32, Bools]:
    """Each ``YYYY-MM-DD`` in days since 1970, and whether it is one."""
    out, ok = np.zeros(len(text), np.int32), np.zeros(len(text), np.bool_)
    _dates(*buffers(text), out, ok)
    return out, ok


def uuids(text: pa.Array) -> tuple[pa.Array, Bools]:
    """Each UUID as lower-case ``8-4-4-4-12`` text, and whether it is one: any case, in braces or not, after
    ``urn:uuid:`` or not, with its four hyphens or without any."""
    out, ok = np.full(36 * len(text), 48, np.uint8), np.zeros(len(text), np.bool_)
    _uuids(*buffers(text), out, ok)
    return _fixed_text(out, 36), ok


def uuids_of_bytes(data: pa.Array) -> tuple[pa.Array, Bools]:
    """Each 16-byte value as a UUID's text, and whether it has 16 bytes."""
    out, ok = np.full(36 * len(data), 48, np.uint8), np.zeros(len(data), np.bool_)
    _uuids_of_bytes(*buffers(data), out, ok)
    return _fixed_text(out, 36), ok


def canonical_floats(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """``values`` with -0.0 as 0.0 and every NaN as the one quiet NaN; the same array when nothing needs a
    change."""
    bits = values.view(np.uint64)
    return values if _floats_are_canonical(bits) else _canonical_floats(bits).view(np.float64)


def _fixed_text(data: Codes, width: int) -> pa.Array:
    count = len(data) // width
    offsets = np.arange(0, len(data) + 1, width, dtype=np.int32)
    return pa.Array.from_buffers(pa.string(), count, [None, pa.py_buffer(offsets), pa.py_buffer(data)])


@inlined
def _trimmed(data: Codes, low: int, high: int) -> tuple[int, int]:
    while low < high and (data[low] == 32 or 9 <= data[low] <= 13):
        low += 1
    while low < high and (data[high - 1] == 32 or 9 <= data[high - 1] <= 13):
        high -= 1
    return low, high


@inlined
def _digits(data: Codes, low: int, high: int, count: int) -> int:
    # The value of exactly ``count`` digits at low, or -1.
    if low + count > high:
        return -1
    value = 0
    for k in range(low, low + count):
        if not 48 <= data[k] <= 57:
            return -1
        value = value * 10 + (data[k] - 48)
    return value


@inlined
def _is_word(data: Codes, low: int, high: int, word: bytes) -> bool:
    same = high - low == len(word)
    for k in range(len(word)):
        same = same and (data[low + k] | 32) == word[k]
    return same


@inlined
def _days(year: int, month: int, day: int) -> int:
    # Days since 1970-01-01 in the Gregorian calendar; H. Hinnant, "chrono-compatible low-level date
    # algorithms", 2013.
    y = year - 1 if month <= 2 else year
    era = y // 400
    of_era = y - era * 400
    of_year = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 + day - 1
    return era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719468


@inlined
def _date(data: Codes, low: int, high: int) -> tuple[int, bool]:
    # (days, True) for YYYY-MM-DD at low.
    if high - low < 10 or data[low + 4] != 45 or data[low + 7] != 45:
        return 0, False
    year, month, day = (
        _digits(data, low, high, 4),
        _digits(data, low + 5, high, 2),
        _digits(data, low + 8, high, 2),
    )
    if year < 1 or not 1 <= month <= 12 or day < 1:
        return 0, False
    length = 31
    if month == 4 or month == 6 or month == 9 or month == 11:
        length = 30
    elif month == 2:
        length = 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    if day > length:
        return 0, False
    return _days(year, month, day), True


@compiled(f"void({_SOURCES}, int64[::1], boolean[::1])")
def _integers(offsets: I32, data: Codes, out: I64, ok: Bools) -> None:
    limit = np.uint64(9223372036854775807)
    for i in range(len(out)):
        low, high = _trimmed(data, offsets[i], offsets[i + 1])
        negative = False
        if low < high and (data[low] == 45 or data[low] == 43):
            negative = data[low] == 45
            low += 1
        value, good = np.uint64(0), low < high
        bound = limit + np.uint64(1) if negative else limit
        for k in range(low, high):
            digit = np.uint64(data[k]) - np.uint64(48)
            if data[k] < 48 or data[k] > 57 or value > (bound - digit) // np.uint64(10):
                good = False
                break
            value = value * np.uint64(10) + digit
        if good:
            out[i] = np.int64(np.uint64(0) - value) if negative else np.int64(value)
            ok[i] = True


@compiled(f"void({_SOURCES}, uint8[::1])")
def _number_kinds(offsets: I32, data: Codes, out: Codes) -> None:
    nan, inf, infinity = b"nan", b"inf", b"infinity"
    for i in range(len(out)):
        low, high = _trimmed(data, offsets[i], offsets[i + 1])
        negative = False
        if low < high and (data[low] == 45 or data[low] == 43):
            negative = data[low] == 45
            low += 1
        if low == high:
            continue
        if data[low] > 57:
            if _is_word(data, low, high, nan):
                out[i] = 2
            elif _is_word(data, low, high, inf) or _is_word(data, low, high, infinity):
                out[i] = 4 if negative else 3
            continue
        digits = 0
        while low < high and 48 <= data[low] <= 57:
            low += 1
            digits += 1
        if low < high and data[low] == 46:
            low += 1
            while low < high and 48 <= data[low] <= 57:
                low += 1
                digits += 1
        if digits == 0:
            continue
        if low < high and (data[low] | 32) == 101:
            low += 1
            if low < high and (data[low] == 45 or data[low] == 43):
                low += 1
            exponent = low
            while low < high and 48 <= data[low] <= 57:
                low += 1
            if low == exponent:
                continue
        if low == high:
            out[i] = 1


@inlined
def _clock(data: Codes, at: int, high: int) -> tuple[int, int, bool]:
    # (microseconds of the day, position behind, True) for HH:MM[:SS[.fraction]] at ``at``.
    hour, minute = _digits(data, at, high, 2), _digits(data, at + 3, high, 2)
    if not 0 <= hour <= 23 or not 0 <= minute <= 59 or data[at + 2] != 58:
        return 0, at, False
    at += 5
    second, fraction = 0, 0
    if at < high and data[at] == 58:
        second = _digits(data, at + 1, high, 2)
        if not 0 <= second <= 59:
            return 0, at, False
        at += 3
        if at < high and data[at] == 46:
            start = at + 1
            at = start
            scale = 100000
            while at < high and 48 <= data[at] <= 57:
                fraction += (data[at] - 48) * scale
                scale //= 10
                at += 1
            if at == start:
                return 0, at, False
    return (hour * 3600 + minute * 60 + second) * 1000000 + fraction, at, True


@inlined
def _offset(data: Codes, at: int, high: int) -> tuple[int, bool]:
    # (seconds east of UTC, True) for what stands behind the clock.
    if high - at == 1 and (data[at] | 32) == 122:
        return 0, True
    if at < high and data[at] == 32:
        at += 1
    if _is_word(data, at, high, b"utc"):
        return 0, True
    if at == high or (data[at] != 43 and data[at] != 45):
        return 0, False
    sign = 1 if data[at] == 43 else -1
    hour, minute = _digits(data, at + 1, high, 2), 0
    at += 3
    if at < high:
        if data[at] == 58:
            at += 1
        minute = _digits(data, at, high, 2)
        at += 2
    if at != high or not 0 <= hour <= 23 or not 0 <= minute <= 59:
        return 0, False
    return sign * (hour * 3600 + minute * 60), True


@compiled(f"void({_SOURCES}, int64[::1], uint8[::1])")
def _instants(offsets: I32, data: Codes, out: I64, kinds: Codes) -> None:
    for i in range(len(out)):
        low, high = _trimmed(data, offsets[i], offsets[i + 1])
        days, good = _date(data, low, high)
        if not good:
            continue
        if high - low == 10:
            out[i], kinds[i] = days * 86400000000, 1
            continue
        if (data[low + 10] | 32) != 116 and data[low + 10] != 32:
            continue
        clock, at, good = _clock(data, low + 11, high)
        if not good:
            continue
        if at == high:
            out[i], kinds[i] = days * 86400000000 + clock, 1
            continue
        east, good = _offset(data, at, high)
        if good:
            out[i], kinds[i] = days * 86400000000 + clock - east * 1000000, 2


@compiled(f"void({_SOURCES}, int32[::1], boolean[::1])")
def _dates(offsets: I32, data: Codes, out: I32, ok: Bools) -> None:
    for i in range(len(out)):
        low, high = _trimmed(data, offsets[i], offsets[i + 1])
        if high - low == 10:
            days, good = _date(data, low, high)
            out[i], ok[i] = days, good


@inlined
def _after_hyphen(k: int) -> bool:
    return k == 8 or k == 12 or k == 16 or k == 20


@compiled(f"void({_SOURCES}, uint8[::1], boolean[::1])")
def _uuids(offsets: I32, data: Codes, out: Codes, ok: Bools) -> None:
    for i in range(len(ok)):
        low, high = _trimmed(data, offsets[i], offsets[i + 1])
        if high - low > 9 and _is_word(data, low, low + 9, b"urn:uuid:"):
            low += 9
        elif high - low > 2 and data[low] == 123 and data[high - 1] == 125:
            low += 1
            high -= 1
        hyphens = high - low == 36
        if not hyphens and high - low != 32:
            continue
        at, good = 36 * i, True
        for k in range(32):
            if _after_hyphen(k):
                out[at] = 45
                at += 1
                if hyphens:
                    good = good and data[low] == 45
                    low += 1
            digit = data[low]
            low += 1
            if 65 <= digit <= 70:
                digit += 32
            good = good and (48 <= digit <= 57 or 97 <= digit <= 102)
            out[at] = digit
            at += 1
        ok[i] = good
        if not good:
            out[36 * i : 36 * i + 36] = 48


@compiled(f"void({_SOURCES}, uint8[::1], boolean[::1])")
def _uuids_of_bytes(offsets: I32, data: Codes, out: Codes, ok: Bools) -> None:
    for i in range(len(ok)):
        if offsets[i + 1] - offsets[i] != 16:
            continue
        ok[i] = True
        at = 36 * i
        for k in range(32):
            if _after_hyphen(k):
                out[at] = 45
                at += 1
            byte = data[offsets[i] + k // 2]
            digit = byte >> 4 if k % 2 == 0 else byte & 15
            out[at] = digit + 48 if digit < 10 else digit + 87
            at += 1


@compiled(f"boolean({_BITS})")
def _floats_are_canonical(bits: NDArray[np.uint64]) -> bool:
    minus_zero, infinity, quiet = np.uint64(1 << 63), np.uint64(0x7FF0 << 48), np.uint64(0x7FF8 << 48)
    without_sign = np.uint64((1 << 63) - 1)
    strange = False
    for i in range(len(bits)):  # no early exit: the loop is then one pass of vector instructions
        b = bits[i]
        strange |= (b == minus_zero) | ((b & without_sign > infinity) & (b != quiet))
    return not strange


@compiled(f"uint64[::1]({_BITS})")
def _canonical_floats(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    minus_zero, infinity, quiet = np.uint64(1 << 63), np.uint64(0x7FF0 << 48), np.uint64(0x7FF8 << 48)
    without_sign = np.uint64((1 << 63) - 1)
    out = bits.copy()
    for i in range(len(out)):
        if out[i] == minus_zero:
            out[i] = 0
        elif out[i] & without_sign > infinity:
            out[i] = quiet
    return out
