"""The JSON face of values: every bit of a value survives the trip.

Floats are shortest round-trip numbers, or "NaN", "Infinity", "-Infinity"; decimals and map keys are text;
instants are ISO 8601 with Z; bytes are base64.
"""

from __future__ import annotations

import base64
import math

import pyarrow as pa

from featurestore.dtypes import DType, date_text, instant_text


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
            return [
                None if value is None else instant_text(value) for value in array.cast(pa.int64()).to_pylist()
            ]
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


def _named(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _key(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else repr(value)
