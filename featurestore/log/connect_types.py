"""The types that a Kafka Connect schema declares, Debezium's among them, and how JSON writes their values.

Time: Debezium counts days, milliseconds, microseconds or nanoseconds since 1970 for times that have no zone;
they are naive here. A ``ZonedTimestamp`` is ISO 8601 text with its offset.
"""

from __future__ import annotations

import base64
import binascii
import decimal
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.dtypes import INT64
from featurestore.errors import LogError
from featurestore.log.arrays import converted
from featurestore.log.cells import NULL, TEXT, cells, parse_json
from featurestore.log.zones import zone

Reader: TypeAlias = Callable[[pa.Array], pa.Array]

_OPAQUE = pa.struct([])
# No type of ours until one is declared.
_ANY_SCALE = pa.decimal256(76, 38)
_PLAIN = {
    "int8": pa.int64(), "int16": pa.int64(), "int32": pa.int64(), "int64": pa.int64(), "float": pa.float64(),
    "double": pa.float64(), "float32": pa.float64(), "float64": pa.float64(), "boolean": pa.bool_(),
    "string": pa.string(), "bytes": pa.binary(),
}  # fmt: skip
_COUNTED = {
    "io.debezium.time.Date": pa.date32(),
    "io.debezium.time.Timestamp": pa.timestamp("ms"),
    "io.debezium.time.MicroTimestamp": pa.timestamp("us"),
    "io.debezium.time.NanoTimestamp": pa.timestamp("ns"),
    "org.apache.kafka.connect.data.Date": pa.date32(),
    "org.apache.kafka.connect.data.Timestamp": pa.timestamp("ms"),
}
_DECIMAL = "org.apache.kafka.connect.data.Decimal"
_ANY_DECIMAL = "io.debezium.data.VariableScaleDecimal"
_WRITTEN = {
    "io.debezium.time.ZonedTimestamp": pa.timestamp("us", "UTC"),
    "io.debezium.data.Uuid": pa.uuid(),
}
_NUMBERS = decimal.Context(prec=decimal.MAX_PREC, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)


@dataclass(frozen=True)
class ConnectType:
    """``arrow`` says what a column holds; ``read`` makes an array of such values from cells, None where the
    cells say it already."""

    arrow: pa.DataType
    read: Reader | None = None


RowSchema: TypeAlias = Mapping[str, ConnectType]


def row_schema(envelope_schema: bytes) -> dict[str, ConnectType]:
    """The columns of a table's row from the schema of its envelopes, in order; none where it declares
    none. A schema that is none of Kafka Connect's is a LogError."""
    try:
        parsed = json.loads(envelope_schema)
        parts = parsed.get("fields") if isinstance(parsed, dict) else None
        rows = {part.get("field"): part for part in parts or ()}
        row = rows.get("after") or rows.get("before") or {}
        return {str(spec["field"]): _type(spec) for spec in row.get("fields") or ()}
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        shown = envelope_schema[:100].decode(errors="replace")
        raise LogError(
            f"the schema of an envelope is none of Kafka Connect's: {shown}",
            hint="repair it, or leave the schema out: values are then read as JSON",
        ) from None


def _type(spec: Mapping[str, object]) -> ConnectType:
    name, kind = str(spec.get("name")), str(spec.get("type"))
    if name in _COUNTED:
        return ConnectType(_COUNTED[name], lambda values: _counted(values, _COUNTED[name]))
    if name == _DECIMAL:
        return _decimal(spec)
    if name == _ANY_DECIMAL:
        return ConnectType(_ANY_SCALE, _decimals_of_any_scale)
    if name in _WRITTEN:
        return ConnectType(_WRITTEN[name])
    items = spec.get("items")
    if kind == "array" and isinstance(items, dict):
        item = _type(items)
        return ConnectType(_OPAQUE if item.read else pa.list_(item.arrow))
    return ConnectType(_PLAIN.get(kind, _OPAQUE))


def _counted(values: pa.Array, arrow: pa.DataType) -> pa.Array:
    """Integers as what they count. Where one is none, or beyond what counts it, all become text, and that one
    stays as it is: the cast judges it."""
    numbers, bad = converted(values, INT64, zone("UTC"), None)
    held = np.asarray(numbers.fill_null(0))
    odd = np.zeros(len(held), np.bool_) if bad is None else bad
    if pa.types.is_date(arrow):
        odd = odd | (held < -(2**31)) | (held >= 2**31)
        numbers = pa.array(np.where(odd, 0, held), pa.int32(), mask=np.asarray(numbers.is_null()))
    if not odd.any():
        return numbers.view(arrow)
    kinds = np.asarray(values.storage.field(0).fill_null(NULL))
    kinds = np.where(np.asarray(values.storage.is_null()), NULL, np.where(odd, kinds, TEXT)).astype(np.uint8)
    text = pc.if_else(pa.array(odd), values.storage.field(1), pc.cast(numbers.view(arrow), pa.string()))
    return cells(text, kinds)


def _decimal(spec: Mapping[str, object]) -> ConnectType:
    parameters = spec.get("parameters")
    given = parameters if isinstance(parameters, dict) else {}
    scale = int(given.get("scale", 0))
    precision = int(given.get("connect.decimal.precision", 38))
    fits = 0 <= scale <= precision <= 38 and precision > 0

    def read(values: pa.Array) -> pa.Array:
        return _texts(values, lambda kind, text: _number(text, scale) if kind == TEXT else text)

    return ConnectType(pa.decimal128(precision, scale) if fits else _OPAQUE, read)


def _decimals_of_any_scale(values: pa.Array) -> pa.Array:
    def number(_: int, text: str) -> str:
        parts = parse_json(text)
        assert isinstance(parts, dict)
        return _number(str(parts["value"]), int(str(parts["scale"])))

    return _texts(values, number)


def _texts(values: pa.Array, read: Callable[[int, str], str]) -> pa.Array:
    """Cells with their text replaced; one that can't be read stays, for the cast to judge."""
    kinds = np.asarray(values.storage.field(0)).copy()
    kinds[np.asarray(values.storage.is_null())] = NULL
    out: list[str | None] = []
    for i, text in enumerate(values.storage.field(1).to_pylist()):
        if kinds[i] == NULL:
            out.append(None)
            continue
        try:
            out.append(read(int(kinds[i]), text))
            kinds[i] = TEXT
        except (ValueError, KeyError, AssertionError, RecursionError):
            out.append(text)
    return cells(pa.array(out, pa.string()), kinds)


def _number(text: str, scale: int) -> str:
    """An unscaled big-endian integer in base64 as the digits of a decimal."""
    try:
        unscaled = int.from_bytes(base64.b64decode(text, validate=True), "big", signed=True)
    except binascii.Error as error:
        raise ValueError(text) from error
    return format(_NUMBERS.scaleb(decimal.Decimal(unscaled), -scale), "f")
