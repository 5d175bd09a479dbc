"""Cells: values of JSON, or of Python, as text with its kind; the form in which rows wait for their declared
types.

Time: a time is ISO 8601 text, or a number where the source declares a ``time_unit``.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import json
import uuid
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.kernel.compiled import compiled

KINDS = NULL, NUMBER, TEXT, BOOLEAN, LIST, OTHER = tuple(range(6))


class CellType(pa.ExtensionType):  # type: ignore[misc]
    """Arrow's type of an array of cells: structs of ``kind`` and ``text``."""

    def __init__(self) -> None:
        storage = pa.struct([pa.field("kind", pa.uint8()), pa.field("text", pa.string())])
        super().__init__(storage, "featurestore.cell")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> CellType:
        return cls()


CELL = CellType()


class Number(str):
    """A number of JSON as its digits, from a parser's ``parse_int`` and ``parse_float``."""

    __slots__ = ()


def cells_of(values: Sequence[object]) -> pa.Array:
    """``values`` as an array of cells."""
    kinds = np.zeros(len(values), np.uint8)
    texts: list[str | None] = []
    for i, value in enumerate(values):
        kinds[i], text = _cell(value)
        texts.append(text)
    return cells(pa.array(_encodable(texts, kinds), pa.string()), kinds)


def cells(text: pa.Array, kinds: NDArray[np.uint8]) -> pa.Array:
    """Text and its kinds as one array; null is where the kind is NULL."""
    storage = pa.StructArray.from_arrays(
        [pa.array(kinds), text], fields=list(CELL.storage_type), mask=pa.array(kinds == NULL)
    )
    return pa.ExtensionArray.from_storage(CELL, storage)


def cells_of_json(values: Sequence[object | None]) -> pa.Array:
    """JSON texts (anything with a buffer, None for null), each known to be well-formed, as an array of
    cells."""
    texts = [b"" if value is None else bytes(value) for value in values]  # type: ignore[call-overload]
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)), out=offsets[1:])
    data = np.frombuffer(b"".join(texts), np.uint8)
    kinds, escaped = np.zeros(len(texts), np.uint8), np.zeros(len(texts), np.bool_)
    out, ends = np.empty(len(data), np.uint8), np.zeros(len(texts) + 1, np.int32)
    _unquoted(offsets, data, kinds, escaped, out, ends)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(out)]
    text = pa.Array.from_buffers(pa.string(), len(texts), buffers)
    if escaped.any():
        plain = [_unescaped(texts[i]) for i in np.flatnonzero(escaped).tolist()]
        text = pc.replace_with_mask(text, pa.array(escaped), pa.array(plain, pa.string()))
    return cells(text, kinds)


def _unescaped(literal: bytes) -> str | None:
    try:
        return json.loads(literal)  # type: ignore[no-any-return]
    except UnicodeDecodeError:
        return None


def parse_json(text: str) -> object:
    """A JSON value whose numbers keep their digits. Raises ValueError (RecursionError if nested beyond
    reason)."""
    return json.loads(text, parse_int=Number, parse_float=Number, parse_constant=_refuse)


def _refuse(word: str) -> object:
    raise ValueError(f'{word} is not JSON; write it as text: "{word}"')


def _cell(value: object) -> tuple[int, str | None]:
    match value:
        case None:
            return NULL, None
        case bool() | np.bool_():
            return BOOLEAN, "true" if value else "false"
        case Number():
            return NUMBER, value
        case str():
            return TEXT, value
        case int() | float() | np.integer() | np.floating() | decimal.Decimal():
            return _number(value)
        case list() | tuple():
            return LIST, "[" + ", ".join(map(_json, value)) + "]"
        case datetime.datetime() | datetime.date():
            return TEXT, value.isoformat()
        case uuid.UUID():
            return TEXT, str(value)
        case bytes():
            return TEXT, base64.b64encode(value).decode("ascii")
    return OTHER, None


def _number(value: int | float | np.integer | np.floating | decimal.Decimal) -> tuple[int, str | None]:
    if isinstance(value, (float, np.floating)):
        return NUMBER, repr(float(value))
    try:
        text = str(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return OTHER, None
    # 1.5e16 may be Decimal("15000000000000000") by now, but it was not written as an integer.
    whole = isinstance(value, decimal.Decimal) and text.removeprefix("-").isdigit()
    return NUMBER, text + "e0" if whole else text


def _json(item: object) -> str:
    """An item of a list as JSON, numbers by their digits."""
    kind, text = _cell(item)
    if text is None:
        return "null" if kind == NULL else "{}"
    is_word = kind == NUMBER and text.strip("+-").isalpha()
    return json.dumps(text) if kind == TEXT or is_word else text


def json_text(value: object) -> str:
    """A value of JSON, objects included, as its text, numbers by their digits."""
    if not isinstance(value, Mapping):
        return _json(value)
    return (
        "{" + ", ".join(f"{json.dumps(str(name))}: {json_text(part)}" for name, part in value.items()) + "}"
    )


def _encodable(texts: list[str | None], kinds: NDArray[np.uint8]) -> list[str | None]:
    """``texts`` with those that are no UTF-8 (lone surrogates) left out and marked OTHER."""
    try:
        "".join(text for text in texts if text is not None).encode("utf-8")
    except UnicodeEncodeError:
        for i, text in enumerate(texts):
            if text is not None and any(0xD800 <= ord(character) <= 0xDFFF for character in text):
                texts[i], kinds[i] = None, OTHER
    return texts


@compiled(
    "void(Array(int64, 1, 'C', True), Array(uint8, 1, 'C', True), "
    "uint8[::1], boolean[::1], uint8[::1], int32[::1])"
)
def _unquoted(
    offsets: NDArray[np.int64],
    data: NDArray[np.uint8],
    kinds: NDArray[np.uint8],
    escaped: NDArray[np.bool_],
    out: NDArray[np.uint8],
    ends: NDArray[np.int32],
) -> None:
    # The kind is in the first byte: " text, t or f boolean, n null, [ list, { object, else a number.
    at = 0
    for i in range(len(kinds)):
        low, high = offsets[i], offsets[i + 1]
        first = data[low] if low < high else 110
        if first == 34:
            kinds[i] = 2
            low += 1
            high -= 1
        elif first == 110:
            high = low
        elif first == 116 or first == 102:
            kinds[i] = 3
        elif first == 91:
            kinds[i] = 4
        elif first == 123:
            kinds[i] = 5
        else:
            kinds[i] = 1
        for k in range(low, high):
            out[at] = data[k]
            at += 1
            if kinds[i] == 2 and data[k] == 92:
                escaped[i] = True
        ends[i + 1] = at
