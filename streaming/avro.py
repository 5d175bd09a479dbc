"""Avro with a schema registry: before each value stands the id of the schema that wrote it, which says what
the bytes mean. There is no reader's schema: a column that the writer didn't know is null.

Time: an Avro timestamp is an instant, a local timestamp a time on the wall in the source's zone; nanoseconds
are floored to microseconds. In a Debezium envelope, Kafka Connect's own time types have no zone, as in JSON.
"""

from __future__ import annotations

import datetime
import math
import uuid
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any, Protocol

import fastavro
import msgspec
from fastavro.read import LOGICAL_READERS
from fastavro.schema import SchemaParseException, UnknownType, parse_schema

from featurestore.dtypes import date_text, instant_text
from streaming.codec import JsonCodec, UndecodableError
from streaming.schema_registry import Registered

MAGIC = b"\0"
HEADER_BYTES = 5
# No decimal that we hold has a tenth of it; a schema that says so is not taken at its word.
MOST_SCALE = 1_000

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_UNITS_US = {"ms": (1_000, 1), "us": (1, 1), "ns": (1, 1_000)}

# What fastavro and our readers of logical types raise for bytes that a schema didn't write.
_NO_VALUE = (EOFError, IndexError, ValueError, OverflowError, MemoryError)
# What is raised for a schema that is none of Avro's.
_NO_SCHEMA = (SchemaParseException, UnknownType, KeyError, TypeError, AttributeError, RecursionError)


class Schemas(Protocol):
    """Where the schema of an id is had from; SchemaRegistry is one."""

    def schema(self, number: int) -> Registered: ...


class AvroCodec:
    """Avro in Confluent's wire format: a zero byte, the schema's id in four, the value."""

    what = "Avro record"

    def __init__(self, schemas: Schemas, *, enveloped: bool) -> None:
        self._schemas = schemas
        self._enveloped = enveloped
        # By id: how it is read, or why it can't be.
        self._read: dict[int, Callable[[bytes], object] | str] = {}

    def text(self, value: bytes) -> bytes:
        if value[:1] != MAGIC or len(value) < HEADER_BYTES:
            raise UndecodableError(
                "no Avro of a schema registry: it doesn't begin with a zero byte and a schema's id"
            )
        number = int.from_bytes(value[1:HEADER_BYTES], "big")
        read = self._reader(number)
        if isinstance(read, str):
            raise UndecodableError(f"schema {number} can't be used: {read}")
        try:
            return msgspec.json.encode(read(value[HEADER_BYTES:]))
        except _NO_VALUE as error:
            why = "it ends too early, or another schema wrote it"
            raise UndecodableError(
                f"no value of schema {number}: {why if isinstance(error, (EOFError, IndexError)) else error}"
            ) from None

    def key(self, key: bytes) -> bytes | None:
        """Keys are Avro, too, or text."""
        if key[:1] != MAGIC:
            return JsonCodec().key(key)
        try:
            return self.text(key)
        except UndecodableError:
            return None

    def _reader(self, number: int) -> Callable[[bytes], object] | str:
        if number not in self._read:
            # What is unknown today may be registered tomorrow: it is not kept.
            registered = self._schemas.schema(number)
            try:
                self._read[number] = reader(registered, enveloped=self._enveloped)
            except _NO_SCHEMA:
                self._read[number] = "it is none of Avro's"
            except ValueError as error:
                self._read[number] = str(error)
        return self._read[number]


def reader(registered: Registered, *, enveloped: bool) -> Callable[[bytes], object]:
    """What reads the values that a schema wrote, as what JSON can say of them. ValueError for a schema whose
    values can't be read safely, one of ``_NO_SCHEMA`` for what is no schema."""
    named: dict[str, Any] = {}

    def parsed(one: Registered) -> Any:
        for reference in one.references:
            parsed(reference)
        return parse_schema(_said(one.schema, enveloped), named)

    schema = parsed(registered)
    _least_bytes(schema, named, ())

    def read(data: bytes) -> object:
        stream = BytesIO(data)
        found = fastavro.schemaless_reader(stream, schema, None)
        if stream.tell() < len(data):
            raise ValueError(f"{len(data) - stream.tell():,} bytes are left over")
        return found

    return read


# Schemas: what says more than its type is marked with a logical type of ours, whose readers are below.


def _said(schema: Any, enveloped: bool) -> Any:
    """A schema with our logical types, and without defaults and aliases, which are a reader's."""
    if isinstance(schema, str):
        return {"type": schema, "logicalType": _FLOAT} if schema in ("float", "double") else schema
    if isinstance(schema, list):
        return [_said(one, enveloped) for one in schema]
    kind = schema["type"]
    if not isinstance(kind, str):  # {"type": {"type": "string"}}, which some write
        return _said(kind, enveloped)
    made = {name: part for name, part in schema.items() if name not in ("logicalType", "default", "aliases")}
    ours = _logical(kind, schema, enveloped)
    if ours is not None:
        made["logicalType"] = ours
    if kind in ("record", "error"):
        made["fields"] = [
            {"name": field["name"], "type": _said(field["type"], enveloped)} for field in schema["fields"]
        ]
    elif kind == "array":
        made["items"] = _said(schema["items"], enveloped)
    elif kind == "map":
        made["values"] = _said(schema["values"], enveloped)
    return made


def _logical(kind: str, schema: Mapping[str, Any], enveloped: bool) -> str | None:
    """Which of our logical types a schema's values have; None for none, as where Avro's is not one that its
    type can have."""
    connect = schema.get("connect.name")
    if isinstance(connect, str) and (enveloped or not connect.startswith("org.apache.kafka.")):
        ours = _CONNECT.get((kind, connect))
        if ours is not None:
            return ours
    logical = schema.get("logicalType")
    if kind in ("float", "double"):
        return _FLOAT
    if logical == "decimal" and kind in ("bytes", "fixed"):
        scale = schema.get("scale", 0)
        return _DECIMAL if isinstance(scale, int) and 0 <= scale <= MOST_SCALE else None
    if logical == "uuid" and kind == "fixed":
        return _UUID if schema.get("size") == 16 else None
    return _AVRO.get((kind, logical)) if isinstance(logical, str) else None


def _least_bytes(schema: Any, named: Mapping[str, Any], inside: tuple[str, ...]) -> int:
    """How many bytes a value has at least. ValueError for items without bytes, of which an array of a few
    bytes may claim any number, and for a type inside itself, which a value may nest beyond any stack."""
    if isinstance(schema, list):
        for one in schema:
            _least_bytes(one, named, inside)
        return 1
    kind = schema if isinstance(schema, str) else schema["type"]
    if kind == "null":
        return 0
    if kind in named:
        return _least_bytes(named[kind], named, inside)
    if kind == "fixed":
        return int(schema["size"])
    if kind in ("array", "map"):
        least = _least_bytes(schema["items" if kind == "array" else "values"], named, inside)
        if kind == "array" and least == 0:
            raise ValueError("it has an array whose items have no bytes")
        return 1
    if kind in ("record", "error"):
        name = schema["name"]
        if name in inside:
            raise ValueError(f'type "{name}" is inside itself')
        return sum(_least_bytes(field["type"], named, (*inside, name)) for field in schema["fields"])
    return {"float": 4, "double": 8}.get(kind, 1)


# Readers of our logical types: what a value is in JSON.

_FLOAT = "featurestore-float"
_DECIMAL = "featurestore-decimal"
_UUID = "featurestore-uuid"
_ANY_SCALE = "featurestore-decimal-of-any-scale"
_DATE = "featurestore-date"


def _float(value: float, *_: object) -> object:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _decimal(value: bytes, schema: dict[Any, Any] | None, *_: object) -> msgspec.Raw:
    assert schema is not None
    return _number(int.from_bytes(value, "big", signed=True), schema.get("scale", 0))


def _decimal_of_any_scale(value: Mapping[str, Any], *_: object) -> msgspec.Raw:
    scale = value["scale"]
    if abs(scale) > MOST_SCALE:
        raise ValueError(f"a decimal of scale {scale}")
    return _number(int.from_bytes(value["value"], "big", signed=True), scale)


def _number(unscaled: int, scale: int) -> msgspec.Raw:
    if scale <= 0:
        return msgspec.Raw(str(unscaled * 10**-scale).encode())
    digits = str(abs(unscaled)).zfill(scale + 1)
    return msgspec.Raw(f"{'-' if unscaled < 0 else ''}{digits[:-scale]}.{digits[-scale:]}".encode())


def _uuid(value: bytes, *_: object) -> str:
    return str(uuid.UUID(bytes=value))


def _date(value: int, *_: object) -> str:
    return date_text(value)


def _time(unit: str, *, zoned: bool) -> Callable[..., str]:
    times, parts = _UNITS_US[unit]

    def read(value: int, *_: object) -> str:
        us = value * times // parts
        try:
            text = (_EPOCH + datetime.timedelta(microseconds=us)).isoformat()[:-6] + "Z"
        except OverflowError:  # beyond the calendar: for the cast to judge, by the years that it shows
            text = instant_text(us)
        return text if zoned else text[:-1]

    return read


def _named(unit: str, *, zoned: bool) -> str:
    return f"featurestore-{'instant' if zoned else 'wall'}-{unit}"


_AVRO: dict[tuple[str, str], str] = {
    ("int", "date"): _DATE,
    **{("long", f"timestamp-{name}"): _named(unit, zoned=True)
       for name, unit in (("millis", "ms"), ("micros", "us"), ("nanos", "ns"))},
    **{("long", f"local-timestamp-{name}"): _named(unit, zoned=False)
       for name, unit in (("millis", "ms"), ("micros", "us"), ("nanos", "ns"))},
}  # fmt: skip
_CONNECT: dict[tuple[str, str], str] = {
    ("int", "io.debezium.time.Date"): _DATE,
    ("long", "io.debezium.time.Timestamp"): _named("ms", zoned=False),
    ("long", "io.debezium.time.MicroTimestamp"): _named("us", zoned=False),
    ("long", "io.debezium.time.NanoTimestamp"): _named("ns", zoned=False),
    ("long", "org.apache.kafka.connect.data.Timestamp"): _named("ms", zoned=False),
    ("record", "io.debezium.data.VariableScaleDecimal"): _ANY_SCALE,
}
# fastavro's own register of readers; the names are ours, so what others read is as it was.
LOGICAL_READERS.update(
    {
        f"float-{_FLOAT}": _float,
        f"double-{_FLOAT}": _float,
        f"bytes-{_DECIMAL}": _decimal,
        f"fixed-{_DECIMAL}": _decimal,
        f"fixed-{_UUID}": _uuid,
        f"record-{_ANY_SCALE}": _decimal_of_any_scale,
        f"int-{_DATE}": _date,
        **{f"long-{_named(unit, zoned=zoned)}": _time(unit, zoned=zoned)
           for unit in _UNITS_US for zoned in (True, False)},
    }
)  # fmt: skip
