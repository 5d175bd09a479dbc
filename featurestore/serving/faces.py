"""The JSON face of values: every bit of a value survives the trip.

Floats are shortest round-trip numbers, or "NaN", "Infinity", "-Infinity"; decimals and map keys are text;
instants are ISO 8601 with Z; bytes are base64.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.dtypes import DType, date_text, instant_text

# 0001-01-01 and 10000-01-01: between them NumPy writes the calendar as ISO 8601 does.
_FIRST_DAY_US = -62_135_596_800_000_000
_END_OF_DAYS_US = 253_402_300_800_000_000


def instant_texts(us: NDArray[np.int64]) -> list[str]:
    """Instants as ISO 8601 with Z, as ``instant_text`` writes each."""
    if len(us) < 4 or us.min() < _FIRST_DAY_US or us.max() >= _END_OF_DAYS_US:
        return [instant_text(one) for one in us.tolist()]
    texts: list[str] = np.datetime_as_string(us.view("datetime64[us]")).tolist()
    # Digits of a second only where there are any: ".000000" is seven characters.
    return [f"{text[:-7]}Z" if text.endswith(".000000") else f"{text}Z" for text in texts]


def json_values(array: pa.Array, dtype: DType) -> list[object]:
    """An array's values as JSON types, None for null."""
    match dtype.kind:
        case "int64" | "bool" | "string" | "uuid":
            made: list[object] = array.to_pylist()
            return made
        case "float64":
            return [
                value if value is None or math.isfinite(value) else _named(value)
                for value in array.to_pylist()
            ]
        case "decimal":
            return [None if value is None else format(value, "f") for value in array.to_pylist()]
        case "timestamp":
            return _or_null(instant_texts(_numbers(array.cast(pa.int64()))), array)
        case "date":
            return [
                None if value is None else date_text(value) for value in array.cast(pa.int32()).to_pylist()
            ]
        case "binary":
            return [
                None if value is None else base64.b64encode(value).decode() for value in array.to_pylist()
            ]
    offsets = array.offsets.to_pylist()
    valid = array.is_valid().to_pylist()
    assert dtype.item is not None
    if dtype.kind == "map":
        assert dtype.key is not None
        keys = [_key(key) for key in json_values(array.keys, dtype.key)]
        items = json_values(array.items, dtype.item)
        return [
            dict(zip(keys[begin:end], items[begin:end], strict=True)) if there else None
            for begin, end, there in zip(offsets, offsets[1:], valid, strict=False)
        ]
    items = json_values(array.values, dtype.item)
    return [
        items[begin:end] if there else None
        for begin, end, there in zip(offsets, offsets[1:], valid, strict=False)
    ]


def _numbers(array: pa.Array) -> NDArray[np.int64]:
    """Integers, 0 for null."""
    made: NDArray[np.int64] = pc.fill_null(array, 0).to_numpy(zero_copy_only=False)
    return made


def _or_null(faces: Sequence[object], array: pa.Array) -> list[object]:
    if not array.null_count:
        return list(faces)
    return [face if there else None for face, there in zip(faces, array.is_valid().to_pylist(), strict=True)]


def _named(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _key(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else repr(value)
