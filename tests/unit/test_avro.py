"""Avro messages: what each type says, what is poison, schemas that change, keys, and what may be missing."""

from __future__ import annotations

import base64
import json
import math
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.dsl.source import KafkaTopic
from featurestore.dsl.table_source import TableSource
from featurestore.errors import DefinitionError, StreamError
from featurestore.settings import StreamingSettings
from streaming.codec import Codecs, JsonCodec
from streaming.schema_registry import Registered
from tests.services.avro import Branch, integer, message
from tests.unit.avro_rows import avro, bits, decimal, long, plan, read, record


def text_of(schema: Any, value: object, *, enveloped: bool = False) -> Any:
    """A field's value as the codec writes it, parsed with the digits of its numbers kept."""
    schema = record(x=schema)
    text = avro(schema, enveloped=enveloped).text(message(1, schema, {"x": value}))
    return json.loads(text, parse_float="#{}".format, parse_int="#{}".format)["x"]


# What each type says

TYPES: list[tuple[Any, object, object]] = [
    ("boolean", True, True),
    ("int", -(2**31), "#-2147483648"),
    ("long", 2**63 - 1, "#9223372036854775807"),
    ("float", 0.1, "#0.10000000149011612"),
    ("double", 0.1, "#0.1"),
    ("double", math.inf, "Infinity"),
    ("float", -math.inf, "-Infinity"),
    ("double", math.nan, "NaN"),
    ("string", 'ü "quoted" \0', 'ü "quoted" \0'),
    ("bytes", b"\xff\0", base64.b64encode(b"\xff\0").decode()),
    ({"type": "fixed", "name": "f", "size": 2}, b"ab", "YWI="),
    ({"type": "enum", "name": "e", "symbols": ["A", "B"]}, "B", "B"),
    ({"type": "array", "items": ["null", "long"]}, [1, None, -2], ["#1", None, "#-2"]),
    (["null", "string"], None, None),
    (["string", "null"], "x", "x"),
    (["null", "string", "long"], Branch(2, 7), "#7"),
    ({"type": "long", "logicalType": "timestamp-millis"}, 1_767_225_600_001, "2026-01-01T00:00:00.001000Z"),
    (
        {"type": "long", "logicalType": "timestamp-micros"},
        1_767_225_600_000_001,
        "2026-01-01T00:00:00.000001Z",
    ),
    ({"type": "long", "logicalType": "timestamp-nanos"}, -1, "1969-12-31T23:59:59.999999Z"),
    ({"type": "long", "logicalType": "local-timestamp-millis"}, 0, "1970-01-01T00:00:00"),
    ({"type": "long", "logicalType": "local-timestamp-micros"}, -1, "1969-12-31T23:59:59.999999"),
    ({"type": "long", "logicalType": "timestamp-millis"}, 2**62, "+146140482-04-24T15:36:27.904000Z"),
    ({"type": "int", "logicalType": "date"}, -1, "1969-12-31"),
    ({"type": "int", "logicalType": "time-millis"}, 5, "#5"),
    ({"type": "string", "logicalType": "uuid"}, "6f7b...", "6f7b..."),
    (
        {"type": "fixed", "name": "u", "size": 16, "logicalType": "uuid"},
        bytes(range(16)),
        "00010203-0405-0607-0809-0a0b0c0d0e0f",
    ),
    ({"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}, b"\xff", "#-0.01"),
    ({"type": "bytes", "logicalType": "decimal", "precision": 9}, b"\x01\x00", "#256"),
    ({"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 3}, b"", "#0.000"),
    (
        {"type": "fixed", "name": "d", "size": 16, "logicalType": "decimal", "precision": 38, "scale": 38},
        (10**38 - 1).to_bytes(16, "big", signed=True),
        "#0." + "9" * 38,
    ),
    # What is no decimal stays bytes, as Avro wants it.
    ({"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": -1}, b"\x01", "AQ=="),
    # Debezium's own types, by the name that Kafka Connect leaves in the schema.
    ({"type": "long", "connect.name": "io.debezium.time.Timestamp"}, 1, "1970-01-01T00:00:00.001000"),
    ({"type": "long", "connect.name": "io.debezium.time.MicroTimestamp"}, 1, "1970-01-01T00:00:00.000001"),
    ({"type": "long", "connect.name": "io.debezium.time.NanoTimestamp"}, 1_999, "1970-01-01T00:00:00.000001"),
    ({"type": "int", "connect.name": "io.debezium.time.Date"}, 1, "1970-01-02"),
    (
        {
            "type": "record",
            "name": "VariableScaleDecimal",
            "connect.name": "io.debezium.data.VariableScaleDecimal",
            "fields": [{"name": "scale", "type": "int"}, {"name": "value", "type": "bytes"}],
        },
        {"scale": 1, "value": b"\x0f"},
        "#1.5",
    ),
]


@pytest.mark.parametrize(("schema", "value", "told"), TYPES)
def test_each_type_is_written_as_json_says_it(schema: Any, value: object, told: object):
    assert text_of(schema, value) == told
    assert text_of(["null", schema] if not isinstance(schema, list) else schema, value) == told


def test_connects_own_timestamp_is_an_instant_in_a_row_and_a_time_on_the_wall_in_an_envelope():
    schema = {
        "type": "long",
        "connect.name": "org.apache.kafka.connect.data.Timestamp",
        "logicalType": "timestamp-millis",
    }
    assert text_of(schema, 1_500) == "1970-01-01T00:00:01.500000Z"
    assert text_of(schema, 1_500, enveloped=True) == "1970-01-01T00:00:01.500000"


# Poison

ROW = record(id="string", ts=long("timestamp-millis"), amount=["null", "double"])
OTHER = record(id="long", flag="boolean")
GOOD = message(1, ROW, {"id": "t1", "ts": 1_000, "amount": 1.5})
NO_WIRE = "no Avro of a schema registry"

POISON: list[tuple[str, bytes, str]] = [
    ("empty", b"", NO_WIRE),
    ("an id cut off", GOOD[:4], NO_WIRE),
    ("JSON", b'{"id": "t1"}', NO_WIRE),
    ("another magic byte", b"\1" + GOOD[1:], NO_WIRE),
    ("nothing behind the id", GOOD[:5], "no value of schema 1: it ends too early"),
    ("cut off", GOOD[:-1], "no value of schema 1: it ends too early"),
    ("trailing bytes", GOOD + b"\0\0", "no value of schema 1: 2 bytes are left over"),
    (
        "written by another schema",
        message(2, ROW, {"id": "t1", "ts": 1_000, "amount": 1.5}),
        "no value of schema 2",
    ),
    ("an unknown schema", b"\0\0\0\0\x63" + GOOD[5:], "schema 99 is unknown to the schema registry"),
    ("no UTF-8", message(1, ROW, {"id": "tt", "ts": 1, "amount": None}).replace(b"tt", b"\xff\xfe"), "utf-8"),
    ("a branch that is none", GOOD[:-9] + b"\x04" + GOOD[-8:], "no value of schema 1"),
    ("no row", message(3, "string", "text"), "no Avro record"),
    ("no id", message(4, record(ts="long"), {"ts": 1}), 'column "ts" holds no timestamp'),
    ("an id of nothing", message(5, record(ts=long("timestamp-millis")), {"ts": 1}), "no id"),
    ("a type inside itself", b"\0\0\0\0\6" + b"\2" * 100_000 + b"\0", 'type "list" is inside itself'),
    ("items without bytes", b"\0\0\0\0\7" + integer(2**62) + b"\0", "items have no bytes"),
    ("a schema of nothing", b"\0\0\0\0\x08", "schema 8 can't be used: it is none of Avro's"),
    (
        "a schema that names what is not there",
        b"\0\0\0\0\x09",
        "schema 9 can't be used: it is none of Avro's",
    ),
]
SCHEMAS: list[Any] = [
    ROW, OTHER, "string", record(ts="long"), record(ts=long("timestamp-millis")),
    record("list", next=["null", "list"]), record(xs={"type": "array", "items": "null"}),
    {"type": "record"}, record(x="Nobody"),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "reason"), [one[1:] for one in POISON], ids=[one[0] for one in POISON])
def test_what_is_no_message_is_a_dead_letter_and_says_why(bad: bytes, reason: str):
    found = read([GOOD, bad, GOOD, None], plan(amount="float64"), avro(*SCHEMAS))
    assert found.dead.keys() == {1} and reason in found.dead[1]
    assert found.table.column("id").to_pylist() == ["t1", "t1"]
    assert found.ignored.tolist() == [False, False, False, True]


@settings(max_examples=300)
@given(st.data())
def test_bytes_of_any_kind_are_a_row_or_a_dead_letter(data: st.DataObject):
    schema = record(
        id="string", ts=long("timestamp-millis"), d=decimal(2), n=["null", "long"],
        xs={"type": "array", "items": "int"},
        m={"type": "map", "values": "double"}, day={"type": "int", "logicalType": "date"},
        u={"type": "fixed", "name": "u", "size": 16, "logicalType": "uuid"}, r=record("inner", x="float"),
    )  # fmt: skip
    row = {
        "id": "t",
        "ts": 1,
        "d": b"\1",
        "n": 5,
        "xs": [1, 2],
        "m": {"a": 1.0},
        "day": 3,
        "u": bytes(16),
        "r": {"x": 1.0},
    }
    value = bytearray(message(1, schema, row))
    for at, byte in data.draw(
        st.lists(st.tuples(st.integers(5, len(value) - 1), st.integers(0, 255)), max_size=4)
    ):
        value[at] = byte
    value = value[: data.draw(st.integers(5, len(value)))] + bytearray(data.draw(st.binary(max_size=4)))
    of = plan(d="decimal(9, 2)", n="int64", xs="list<int64>", day="date", u="uuid")
    found = read([bytes(value), GOOD], of, avro(schema))
    assert len(found.dead) + found.table.num_rows == 2
    again = read([bytes(value), GOOD], of, avro(schema))
    assert bits(again.table) == bits(found.table) and again.dead == found.dead


# Schemas that change, and what they refer to


def test_a_column_that_came_or_went_is_null_where_its_writer_did_not_know_it():
    first = record(id="string", ts=long("timestamp-millis"), old="string")
    second = record(id="string", ts=long("timestamp-millis"), new="int")
    second["fields"][2]["default"] = 7
    values = [
        message(1, first, {"id": "a", "ts": 1, "old": "x"}),
        message(2, second, {"id": "b", "ts": 2, "new": 5}),
        message(1, first, {"id": "c", "ts": 3, "old": "y"}),
    ]
    found = read(values, plan(old="string", new="int64"), avro(first, second))
    assert found.table.column("old").to_pylist() == ["x", None, "y"]
    assert found.table.column("new").to_pylist() == [None, 5, None]
    assert not found.dead


def test_a_schema_may_refer_to_types_of_others():
    money = record("shop.money", amount=decimal(2))
    inner = record("shop.line", price="shop.money", twice="shop.money")
    outer = Registered(
        record("shop.row", id="string", ts=long("timestamp-millis"), line="shop.line"),
        (Registered(inner, (Registered(money),)),),
    )
    row = {"id": "a", "ts": 1, "line": {"price": {"amount": b"\x01"}, "twice": {"amount": b"\x02"}}}
    assert avro(outer).text(message(1, outer.schema, row, inner, money)) == (
        b'{"id":"a","ts":"1970-01-01T00:00:00.001000Z","line":{"price":{"amount":0.01},"twice":{"amount":0.02}}}'
    )


# Envelopes and keys


def test_an_envelope_of_an_event_source_has_the_event_in_its_after():
    row = record(
        "orders.Value", id="string", ts={"type": "long", "connect.name": "io.debezium.time.MicroTimestamp"}
    )
    envelope = record(
        "orders.Envelope",
        before=["null", row],
        after=["null", "orders.Value"],
        op="string",
        ts_ms=["null", "long"],
    )
    codec = avro(envelope, enveloped=True)
    values = [
        message(1, envelope, {"before": None, "after": {"id": "a", "ts": 5}, "op": "c", "ts_ms": 1}),
        message(1, envelope, {"before": {"id": "a", "ts": 5}, "after": None, "op": "d", "ts_ms": None}),
    ]
    found = read(values, plan("debezium-avro"), codec)
    assert found.table.column("id").to_pylist() == ["a"]
    assert "operation 'd'" in found.dead[1]


def test_a_key_is_avro_or_text_or_nothing_to_go_by():
    codec = avro(record(id="long"), "string")
    assert codec.key(message(1, record(id="long"), {"id": 7})) == b'{"id":7}'
    assert codec.key(message(2, "string", "k")) == b'"k"'
    assert codec.key(b"k1") == b'"k1"'
    assert codec.key(b'{"id": 7}') == b'{"id": 7}'
    assert codec.key(b"\0\0\0\0\1") is None
    assert codec.key(b"\0\0\0\0\0\0\0\5") is None
    assert codec.key(b"\xff") is None


# What is missing


def test_without_fastavro_a_worker_says_which_extra_has_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "streaming.avro")
    monkeypatch.setitem(sys.modules, "fastavro", None)
    codecs = Codecs(StreamingSettings(schema_registry="http://localhost:8081"))
    with pytest.raises(StreamError, match='"t" is Avro, which needs fastavro') as raised:
        codecs.of(plan())
    assert raised.value.hint == 'pip install "featurestore[avro]"'
    assert isinstance(codecs.of(plan("json")), JsonCodec)


def test_without_a_registry_a_worker_says_which_setting_names_it():
    with pytest.raises(StreamError, match="no schema registry is named") as raised:
        Codecs(StreamingSettings()).of(plan())
    assert "[streaming] schema_registry" in str(raised.value.hint)


def test_a_table_source_takes_avro_and_says_itself_that_it_has_envelopes():
    def source(format: str) -> TableSource:
        return TableSource(
            "orders",
            topic=KafkaTopic("t", format=format),
            primary_key="id",
            format="debezium",
            columns={"id": "int64"},
        )

    assert source("avro").topic == KafkaTopic("t", format="avro")
    with pytest.raises(DefinitionError, match='its topic has format "debezium-avro"'):
        source("debezium-avro")
