"""An entity's key as bytes: two different keys never meet, and the bytes sort as the values do.

A key is its columns' encodings, one after another. Each says by itself where it ends, so ("a", "bc") and
("ab", "c") differ. Instants and dates are numbers here like any other: microseconds and days since 1970.

    int64, timestamp   8 bytes, big-endian, the sign bit flipped
    date               4 bytes, likewise
    decimal            16 bytes of the unscaled value, likewise (the scale is the column's)
    bool               1 byte
    uuid               16 bytes
    string, binary     the (UTF-8) bytes, each 00 as 00 ff, then 00 01
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from uuid import UUID

import numpy as np
import pyarrow as pa

from featurestore.dtypes import DType

KEY_KINDS = ("int64", "string", "uuid", "bool", "timestamp", "date", "binary", "decimal")

_SIGN = 1 << 63
_END = b"\x00\x01"


def encode_key(values: Sequence[object], dtypes: Sequence[DType]) -> bytes:
    """The bytes of one key. No value is null: a null key belongs to no timeline.

    A value has its type's canonical form: int, str, bool, bytes or Decimal; a timestamp is an int of
    microseconds or an aware datetime, a date an int of days or a ``datetime.date``.
    """
    return b"".join([_encode(value, dtype) for value, dtype in zip(values, dtypes, strict=True)])


def encode_keys(columns: Sequence[pa.Array | pa.ChunkedArray], dtypes: Sequence[DType]) -> list[bytes]:
    """The bytes of many keys, a column of values for each column of the key; no value is null."""
    parts = [_encode_column(column, dtype) for column, dtype in zip(columns, dtypes, strict=True)]
    return parts[0] if len(parts) == 1 else list(map(b"".join, zip(*parts, strict=True)))


def decode_key(key: bytes, dtypes: Sequence[DType]) -> tuple[object, ...]:
    """The values of a key; a timestamp is an int of microseconds, a date an int of days."""
    values: list[object] = []
    at = 0
    for dtype in dtypes:
        value, at = _DECODERS[dtype.kind](key, at, dtype)
        values.append(value)
    assert at == len(key), "a key of other columns"
    return tuple(values)


def _encode(value: object, dtype: DType) -> bytes:
    match dtype.kind, value:
        case "int64" | "timestamp", int():
            return (value + _SIGN).to_bytes(8, "big")
        case "string", str():
            return value.encode().replace(b"\x00", b"\x00\xff") + _END
        case "uuid", str():
            return bytes.fromhex(value.replace("-", ""))
        case _:
            return _encode_column(pa.array([value], dtype.arrow), dtype)[0]


def _encode_column(column: pa.Array | pa.ChunkedArray, dtype: DType) -> list[bytes]:
    if isinstance(column, pa.ChunkedArray):
        return [part for chunk in column.chunks for part in _encode_column(chunk, dtype)]
    assert column.null_count == 0, "a null key belongs to no timeline"
    match dtype.kind:
        case "int64" | "timestamp":
            lanes = column.cast(pa.int64()).to_numpy().view(np.uint64) ^ np.uint64(_SIGN)
            return _rows(lanes.astype(">u8"))
        case "date":
            days = column.cast(pa.int32()).to_numpy().view(np.uint32) ^ np.uint32(1 << 31)
            return _rows(days.astype(">u4"))
        case "decimal":
            raw = np.frombuffer(
                column.buffers()[1], np.uint8, offset=16 * column.offset, count=16 * len(column)
            )
            digits = raw.reshape(-1, 16)[:, ::-1].copy()
            digits[:, 0] ^= 0x80
            return _rows(digits.reshape(-1), 16)
        case "bool":
            return [b"\x01" if value else b"\x00" for value in column.to_pylist()]
        case "uuid":
            return _from_hex(column.to_pylist())
        case "string" | "binary":
            return _terminated(column.cast(pa.binary()).to_pylist())
    raise AssertionError(f"{dtype} is no type of a key")


def _rows(lanes: np.ndarray[tuple[int, ...], np.dtype[np.generic]], width: int = 0) -> list[bytes]:
    width = width or lanes.dtype.itemsize
    data = lanes.tobytes()
    return [data[at : at + width] for at in range(0, len(data), width)]


def _from_hex(texts: Iterable[str]) -> list[bytes]:
    return [bytes.fromhex(text.replace("-", "")) for text in texts]


def _terminated(values: Iterable[bytes]) -> list[bytes]:
    return [value.replace(b"\x00", b"\x00\xff") + _END for value in values]


def _decode_integer(key: bytes, at: int, _: DType) -> tuple[int, int]:
    return int.from_bytes(key[at : at + 8], "big") - _SIGN, at + 8


def _decode_date(key: bytes, at: int, _: DType) -> tuple[int, int]:
    return int.from_bytes(key[at : at + 4], "big") - (1 << 31), at + 4


def _decode_decimal(key: bytes, at: int, dtype: DType) -> tuple[Decimal, int]:
    unscaled = int.from_bytes(key[at : at + 16], "big") - (1 << 127)
    # From digits, because arithmetic on Decimals rounds to the context's precision.
    digits = tuple(int(digit) for digit in str(abs(unscaled)))
    return Decimal((int(unscaled < 0), digits, -dtype.scale)), at + 16


def _decode_bool(key: bytes, at: int, _: DType) -> tuple[bool, int]:
    return key[at] == 1, at + 1


def _decode_uuid(key: bytes, at: int, _: DType) -> tuple[str, int]:
    return str(UUID(bytes=key[at : at + 16])), at + 16


def _decode_binary(key: bytes, at: int, _: DType) -> tuple[bytes, int]:
    # A 00 inside the value is followed by ff, so the first 00 01 is the end.
    end = key.index(_END, at)
    return key[at:end].replace(b"\x00\xff", b"\x00"), end + 2


def _decode_string(key: bytes, at: int, dtype: DType) -> tuple[str, int]:
    value, end = _decode_binary(key, at, dtype)
    return value.decode(), end


_DECODERS: dict[str, Callable[[bytes, int, DType], tuple[object, int]]] = {
    "int64": _decode_integer,
    "timestamp": _decode_integer,
    "date": _decode_date,
    "decimal": _decode_decimal,
    "bool": _decode_bool,
    "uuid": _decode_uuid,
    "binary": _decode_binary,
    "string": _decode_string,
}
