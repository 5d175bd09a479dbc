"""Generated rows give the same bits, and the same reasons where they can't be held, in Avro and in JSON."""

from __future__ import annotations

import base64
import datetime
import json
import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.codec import JsonCodec
from tests.services.avro import message
from tests.unit.avro_rows import avro, bits, decimal, long, plan, read, record

EPOCH = datetime.datetime(1970, 1, 1)  # noqa: DTZ001 - written with a zone and without
US = datetime.timedelta(microseconds=1)


class Written(NamedTuple):
    """A way to write a column: Avro's schema, what it makes of a value, and what JSON makes of it."""

    schema: Any
    avro: Callable[[Any], Any]
    json: Callable[[Any], Any]


def same(value: Any) -> Any:
    return value


def as_float(value: Any) -> Any:
    """Of a float in JSON."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def array(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


def digits(scale: int) -> Callable[[int], msgspec.Raw]:
    return lambda unscaled: msgspec.Raw(format(Decimal(unscaled).scaleb(-scale), "f").encode())


def big_endian(size: int | None = None) -> Callable[[int], bytes]:
    return lambda value: value.to_bytes(size or value.bit_length() // 8 + 1, "big", signed=True)


def instant(zone: str, times: int = 1, parts: int = 1) -> Callable[[int], str]:
    return lambda value: (EPOCH + US * (value * times // parts)).isoformat() + zone


def day(value: int) -> str:
    return (EPOCH + datetime.timedelta(days=value)).date().isoformat()


def in_base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


LONGS = st.integers(-(2**63), 2**63 - 1)
MILLIS = st.integers(-(10**13), 10**13)
MICROS = st.integers(-(10**16), 10**16)
THREE_BYTES = st.binary(min_size=3, max_size=3)
UUID_BYTES = {"type": "fixed", "name": "uuid", "size": 16, "logicalType": "uuid"}
DAYS = st.integers(-20_000, 40_000)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
FLOATS = st.floats() | st.sampled_from([math.nan, -0.0, math.inf])
UNSCALED = st.integers(-(10**17), 10**17)

WAYS: Mapping[str, list[tuple[Written, st.SearchStrategy[Any]]]] = {
    "bool": [(Written("boolean", same, same), st.booleans())],
    "int64": [
        (Written("long", same, same), LONGS),
        (Written("int", same, same), st.integers(-(2**31), 2**31 - 1)),
        (Written("string", same, same), st.sampled_from(["12", "-7", "many"])),
        (Written(decimal(1), big_endian(), digits(1)), UNSCALED),
    ],
    "float64": [
        (Written("double", same, as_float), FLOATS),
        (Written("float", same, as_float), st.floats(width=32)),
        (Written("long", same, same), LONGS),
        (Written(decimal(3), big_endian(), digits(3)), UNSCALED),
    ],
    "decimal(12, 2)": [
        (Written(decimal(2), big_endian(), digits(2)), UNSCALED),
        (Written(decimal(2, 9), big_endian(9), digits(2)), UNSCALED),
        (Written("double", same, as_float), FLOATS),
        (Written("int", same, same), st.integers(-(2**31), 2**31 - 1)),
    ],
    "string": [
        (Written("string", same, same), TEXTS),
        (Written({"type": "enum", "name": "kind", "symbols": ["A", "B"]}, same, same), st.sampled_from("AB")),
        (Written("long", same, same), LONGS),
    ],
    "timestamp": [
        (Written(long("timestamp-millis"), same, instant("Z", 1_000)), MILLIS),
        (Written(long("timestamp-micros"), same, instant("Z")), MICROS),
        (Written(long("timestamp-nanos"), same, instant("Z", 1, 1_000)), LONGS),
        (Written(long("local-timestamp-millis"), same, instant("", 1_000)), MILLIS),
        (Written(long("local-timestamp-micros"), same, instant("")), MICROS),
        (Written({"type": "int", "logicalType": "date"}, same, day), DAYS),
        (Written("long", same, same), LONGS),  # a number says nothing without the source's time_unit
        (Written("string", same, same), st.sampled_from(["2026-03-29T02:30:00", "soon"])),
    ],
    "date": [(Written({"type": "int", "logicalType": "date"}, same, day), DAYS)],
    "binary": [
        (Written("bytes", same, in_base64), st.binary(max_size=6)),
        (Written({"type": "fixed", "name": "raw", "size": 3}, same, in_base64), THREE_BYTES),
    ],
    "uuid": [
        (Written({"type": "string", "logicalType": "uuid"}, same, same), st.uuids().map(str)),
        (Written({"type": "string", "logicalType": "uuid"}, same, same), st.just("none")),
        (Written(UUID_BYTES, lambda one: one.bytes, str), st.uuids()),
    ],
    "list<int64>": [(Written(array("long"), same, same), st.lists(LONGS, max_size=3))],
    "list<float64>": [
        (
            Written(array(["null", "double"]), same, lambda xs: [x and as_float(x) for x in xs]),
            st.lists(st.none() | FLOATS, max_size=3),
        )
    ],
    "list<string>": [(Written(array("string"), same, same), st.lists(TEXTS, max_size=3))],
}  # fmt: skip
COLUMNS = {f"c{number}": kind for number, kind in enumerate(WAYS)}
OPTIONAL = {
    "required": lambda schema: schema,
    "null first": lambda schema: ["null", schema],
    "null last": lambda schema: [schema, "null"],
}


@st.composite
def writers(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, tuple[Written, st.SearchStrategy[Any]]]]:
    """A producer: its schema, and how it writes each column that it has."""
    ways: dict[str, tuple[Written, st.SearchStrategy[Any]]] = {}
    schemas: dict[str, Any] = {
        "id": "string",
        "ts": long("timestamp-millis"),
        "unread": {"type": "map", "values": "int"},
    }
    for column, kind in COLUMNS.items():
        if draw(st.integers(0, 9)) == 0:
            continue  # this version of the schema lacks it
        way, values = draw(st.sampled_from(WAYS[kind]))
        how = draw(st.sampled_from(sorted(OPTIONAL)))
        schemas[column] = OPTIONAL[how](way.schema)
        ways[column] = (way, values if how == "required" else st.none() | values)
    # A name is defined once in a schema; here each is some one column's own.
    for name, schema in schemas.items():
        for one in schema if isinstance(schema, list) else [schema]:
            if isinstance(one, dict) and "name" in one:
                schemas[name] = json.loads(
                    json.dumps(schema).replace(f'"name": "{one["name"]}"', f'"name": "{name}"')
                )
    return record(**schemas), ways


@settings(max_examples=60)
@given(st.data())
def test_generated_rows_give_the_same_bits_and_the_same_reasons_in_avro_and_in_json(data: st.DataObject):
    producers = data.draw(st.lists(writers(), min_size=1, max_size=3))
    in_avro, in_json = [], []
    for number in range(data.draw(st.integers(1, 12))):
        which = data.draw(st.integers(0, len(producers) - 1))
        schema, ways = producers[which]
        row: dict[str, Any] = {"id": f"t{number}", "ts": number, "unread": {"a": 1}}
        told: dict[str, Any] = {"id": f"t{number}", "ts": instant("Z", 1_000)(number)}
        for column, (way, values) in ways.items():
            value = data.draw(values)
            row[column] = None if value is None else way.avro(value)
            told[column] = None if value is None else way.json(value)
        in_avro.append(message(which + 1, schema, row))
        in_json.append(msgspec.json.encode(told))
    of = plan(timezone="Europe/Berlin", **COLUMNS)
    left = read(in_avro, of, avro(*(schema for schema, _ in producers)))
    right = read(in_json, of, JsonCodec())
    assert bits(left.table) == bits(right.table)
    assert left.message.tolist() == right.message.tolist()
    assert left.dead == right.dead
    assert not left.ignored.any()
