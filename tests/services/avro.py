"""Avro's binary encoding, written from its specification with the standard library only: what producers in
tests write, independent of the library that reads it.

Values are as the bytes hold them: a logical type is its integer or its bytes. Of a union, None is its null
and anything else its one other branch; ``Branch`` names one of several.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class Branch(NamedTuple):
    """A value of a union's branch, by its number."""

    number: int
    value: object


def message(number: int, schema: Any, value: object, *others: Any) -> bytes:
    """A value behind its schema's id, as producers of a schema registry write it; ``others`` are schemas that
    it refers to."""
    named = {name: one for part in (schema, *others) for name, one in _named(part)}
    return b"\0" + struct.pack(">I", number) + encoded(schema, value, named)


def _named(schema: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(schema, list):
        for one in schema:
            yield from _named(one)
    if isinstance(schema, dict):
        if "name" in schema:
            yield schema["name"], schema
        for part in (
            schema.get("items"),
            schema.get("values"),
            *(one["type"] for one in schema.get("fields", ())),
        ):
            yield from _named(part)


def encoded(schema: Any, value: Any, named: Mapping[str, Any]) -> bytes:
    """A value under its schema, given the types that have names."""
    if isinstance(schema, list):
        if not isinstance(value, Branch):
            wanted = [i for i, one in enumerate(schema) if (one == "null") == (value is None)]
            value = Branch(wanted[0], value)
        return integer(value.number) + encoded(schema[value.number], value.value, named)
    if isinstance(schema, str) and schema in named:
        return encoded(named[schema], value, named)
    kind = schema if isinstance(schema, str) else schema["type"]
    match kind:
        case "null":
            return b""
        case "boolean":
            return b"\1" if value else b"\0"
        case "int" | "long":
            return integer(value)
        case "float":
            return struct.pack("<f", value)
        case "double":
            return struct.pack("<d", value)
        case "bytes":
            return integer(len(value)) + value
        case "string":
            text = value.encode()
            return integer(len(text)) + text
        case "fixed":
            assert len(value) == schema["size"]
            return bytes(value)
        case "enum":
            return integer(schema["symbols"].index(value))
        case "array":
            items = b"".join(encoded(schema["items"], one, named) for one in value)
            return (integer(len(value)) + items if value else b"") + b"\0"
        case "map":
            pairs = b"".join(
                encoded("string", name, named) + encoded(schema["values"], one, named)
                for name, one in value.items()
            )
            return (integer(len(value)) + pairs if value else b"") + b"\0"
        case "record":
            return b"".join(encoded(field["type"], value[field["name"]], named) for field in schema["fields"])
    raise AssertionError(kind)


def integer(value: int) -> bytes:
    """Zig-zag, then seven bits a byte, the least first."""
    left = (value << 1) ^ (value >> 63)
    made = bytearray()
    while left > 0x7F:
        made.append(left & 0x7F | 0x80)
        left >>= 7
    return bytes([*made, left])
