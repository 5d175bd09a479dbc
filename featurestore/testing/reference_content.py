"""The oracle's content hash: canonical bytes of a row and their MurmurHash3 x64 128, in plain Python.

No rule about time: whoever names the columns leaves ``available_at`` out, so a late copy is the same content.
"""

from __future__ import annotations

import datetime
import math
import struct
from collections.abc import Mapping
from decimal import Decimal

from featurestore.dtypes import DType

_MASK = 2**64 - 1
_C1 = 0x87C37B91114253D5
_C2 = 0x4CF5AD432745937F
_NAN_BITS = 0x7FF8000000000000


def content_hash(row: Mapping[str, object], columns: Mapping[str, DType]) -> tuple[int, int]:
    """The 128-bit hash of a row's ``columns``, as two unsigned halves that compare like the whole.

    Null columns are skipped, so a column that a log gains later changes no older row's hash.
    """
    state = bytes(16)
    for name in sorted(columns):
        value = row.get(name)
        if value is not None:
            state = _bytes(_murmur(state + _digest_of(name.encode()) + _digest(value, columns[name])))
    h1, h2 = struct.unpack("<QQ", state)
    return h1, h2


def canonical_bytes(value: object, dtype: DType) -> bytes:
    """A tag byte for the type, then the value: equal values have equal bytes, and no two types share any."""
    match dtype.kind:
        case "bool":
            return b"\x01" + (b"\x01" if value else b"\x00")
        case "int64":
            return b"\x02" + struct.pack("<q", value)
        case "float64":
            assert isinstance(value, float)
            bits = _NAN_BITS if math.isnan(value) else struct.unpack("<Q", struct.pack("<d", value + 0.0))[0]
            return b"\x03" + struct.pack("<Q", bits)
        case "string" | "uuid":
            assert isinstance(value, str)
            return b"\x04" + value.encode()
        case "binary":
            assert isinstance(value, bytes)
            return b"\x05" + value
        case "timestamp":
            return b"\x06" + struct.pack("<q", value)
        case "date":
            assert isinstance(value, datetime.date)
            return b"\x07" + struct.pack("<q", value.toordinal() - datetime.date(1970, 1, 1).toordinal())
        case "decimal":
            assert isinstance(value, Decimal)
            return b"\x08" + unscaled(value, dtype.scale).to_bytes(16, "little", signed=True)
        case "list":
            assert isinstance(value, list)
            assert dtype.item is not None
            item = dtype.item
            return b"\x09" + b"".join(b"\x00" if e is None else b"\x01" + _digest(e, item) for e in value)
    raise AssertionError(dtype.kind)


def unscaled(value: Decimal, scale: int) -> int:
    """The whole number of units of 10^-scale in a finite decimal that has no finer digits."""
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    whole: int = int("".join(map(str, digits)) or "0")
    shift = exponent + scale
    if shift < 0:
        finer: int = 10 ** (-shift)
        assert whole % finer == 0, f"{value} has more than {scale} digits behind the point"
        units = whole // finer
    else:
        units = whole * int(10**shift)
    return -units if sign else units


def decimal_of(units: int, scale: int) -> Decimal:
    """The inverse of ``unscaled``; no context rounds it, and there is no -0."""
    return Decimal((int(units < 0), tuple(map(int, str(abs(units)))), -scale))


def _digest(value: object, dtype: DType) -> bytes:
    return _digest_of(canonical_bytes(value, dtype))


def _digest_of(data: bytes) -> bytes:
    return _bytes(_murmur(data))


def _bytes(halves: tuple[int, int]) -> bytes:
    return struct.pack("<QQ", *halves)


def _rotate(x: int, by: int) -> int:
    return ((x << by) | (x >> (64 - by))) & _MASK


def _mixed(k: int) -> int:
    k ^= k >> 33
    k = k * 0xFF51AFD7ED558CCD & _MASK
    k ^= k >> 33
    k = k * 0xC4CEB9FE1A85EC53 & _MASK
    return k ^ (k >> 33)


def _murmur(data: bytes) -> tuple[int, int]:
    """MurmurHash3_x64_128 by Austin Appleby (public domain), seed 0."""
    h1 = h2 = 0
    whole = len(data) // 16 * 16
    for start in range(0, whole, 16):
        k1, k2 = struct.unpack_from("<QQ", data, start)
        h1 ^= _rotate(k1 * _C1 & _MASK, 31) * _C2 & _MASK
        h1 = ((_rotate(h1, 27) + h2) * 5 + 0x52DCE729) & _MASK
        h2 ^= _rotate(k2 * _C2 & _MASK, 33) * _C1 & _MASK
        h2 = ((_rotate(h2, 31) + h1) * 5 + 0x38495AB5) & _MASK
    rest = data[whole:]
    if len(rest) > 8:
        h2 ^= _rotate(int.from_bytes(rest[8:], "little") * _C2 & _MASK, 33) * _C1 & _MASK
    if rest:
        h1 ^= _rotate(int.from_bytes(rest[:8], "little") * _C1 & _MASK, 31) * _C2 & _MASK
    h1 ^= len(data)
    h2 ^= len(data)
    h1 = (h1 + h2) & _MASK
    h2 = (h2 + h1) & _MASK
    h1, h2 = _mixed(h1), _mixed(h2)
    h1 = (h1 + h2) & _MASK
    return h1, (h2 + h1) & _MASK
