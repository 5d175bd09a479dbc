"""What the tests of Avro share: schemas, a source's plan, and messages read into rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from featurestore.dsl.source import EventSource, KafkaTopic
from featurestore.dtypes import parse
from featurestore.plan.compile import source_plan
from featurestore.plan.nodes import SourcePlan
from streaming.avro import AvroCodec
from streaming.codec import Codec, UndecodableError
from streaming.processor import Decoded, decode
from streaming.schema_registry import Registered


class Record(NamedTuple):
    value: bytes | None
    key: bytes | None = None
    timestamp: int = -1


class Schemas:
    """Schemas by id from 1 on, as a registry knows them."""

    def __init__(self, *schemas: Any) -> None:
        self._schemas = [one if isinstance(one, Registered) else Registered(one) for one in schemas]

    def schema(self, number: int) -> Registered:
        if not 1 <= number <= len(self._schemas):
            raise UndecodableError(f"schema {number} is unknown to the schema registry")
        return self._schemas[number - 1]


def record(name: str = "row", **fields: Any) -> dict[str, Any]:
    return {
        "type": "record",
        "name": name,
        "fields": [{"name": field, "type": schema} for field, schema in fields.items()],
    }


def plan(format: str = "avro", *, timezone: str = "UTC", **columns: str) -> SourcePlan:
    columns = {"id": "string", "ts": "timestamp", **columns}
    source = EventSource(
        "events", topic=KafkaTopic("t", format=format), event_time="ts", id="id", columns=columns,
        timezone=timezone,
    )  # fmt: skip
    return source_plan(source, {name: parse(text) for name, text in columns.items()})


def read(values: Sequence[bytes | None], of: SourcePlan, codec: Codec) -> Decoded:
    return decode([Record(value) for value in values], of, codec, max_value_bytes=1_000_000)


def avro(*schemas: Any, enveloped: bool = False) -> AvroCodec:
    return AvroCodec(Schemas(*schemas), enveloped=enveloped)


def long(logical: str) -> dict[str, Any]:
    return {"type": "long", "logicalType": logical}


def decimal(scale: int, size: int | None = None) -> dict[str, Any]:
    held = {"type": "bytes"} if size is None else {"type": "fixed", "size": size, "name": "amount"}
    return {**held, "logicalType": "decimal", "precision": 18, "scale": scale}


def bits(table: pa.Table) -> bytes:
    """A table's bytes, NaN and all."""
    sink = pa.BufferOutputStream()
    whole = table.combine_chunks()
    # Slots of nulls may hold anything.
    whole = pa.table(
        {name: whole.column(name).to_pylist() for name in whole.column_names}, schema=whole.schema
    )
    with pa.ipc.new_stream(sink, whole.schema) as writer:
        writer.write_table(whole)
    return bytes(sink.getvalue())
