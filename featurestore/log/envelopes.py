"""Debezium's envelopes as they lie in a log: JSON lines, or rows of any log whose columns hold their parts.

Time: none is interpreted here.

A message is an envelope (``before, after, source, op``), one inside ``payload`` beside its ``schema``, or
either of them inside ``value``, as JSON or as text of JSON. A null is a tombstone. Beside it the message's
``key`` may stand, in the same forms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import msgspec
from msgspec import UNSET, Raw, UnsetType

from featurestore.dsl.log import JSONLines, Log
from featurestore.errors import DefinitionError, LogError
from featurestore.log import json_lines
from featurestore.log.files import LogFile, list_files
from featurestore.log.scan import scan
from featurestore.log.schema import raw_schema

Row: TypeAlias = dict[str, Raw]

CLOCKS = ("ts_ms", "ts_us", "ts_ns")
PARTS = ("value", "schema", "payload", "before", "after", "source", "op", *CLOCKS)
KEY = "key"
_NULL = Raw(b"null")
_WAY_OUT = (
    'one envelope a line, {"before": ..., "after": ..., "source": ..., "op": ...}, alone or in "payload"; '
    'rows with an operation column are format="flat"'
)


class Envelope(msgspec.Struct, gc=False):
    """One change: what the row was, what it is, where that was written, which operation did it, when the
    connector saw it, and the message's key."""

    before: Row | None = None
    after: Row | None = None
    source: Row | None = None
    op: str | None = None
    ts_ms: Raw = _NULL
    ts_us: Raw = _NULL
    ts_ns: Raw = _NULL
    key: Raw | UnsetType = UNSET

    @property
    def clock(self) -> Row:
        """The connector's clock, in the units that it gives."""
        return {"ts_ms": self.ts_ms, "ts_us": self.ts_us, "ts_ns": self.ts_ns}


class _Message(Envelope, gc=False):
    schema: Raw = _NULL
    payload: Envelope | str | UnsetType | None = UNSET
    value: Raw | UnsetType = UNSET


class Delivered(msgspec.Struct, frozen=True, gc=False):
    """An envelope, None for a tombstone, and the JSON of its schema, None where it has none."""

    envelope: Envelope | None
    schema: bytes | None = None


_MESSAGE = msgspec.json.Decoder(_Message | None)
_TEXT = msgspec.json.Decoder(str)
_KEY = msgspec.json.Decoder(dict[str, Raw])


def envelopes(
    log: Log, root: Path, files: Sequence[LogFile] | None = None
) -> Iterator[tuple[LogFile, int, list[Delivered]]]:
    """The log's messages in order, some at a time: the file, the row in it of the first, and they."""
    files = list_files(log, root) if files is None else files
    if isinstance(log, JSONLines):
        for file in files:
            yield from _of_lines(file)
    else:
        yield from _of_columns(log, root, files)


def delivered(text: bytes) -> Delivered:
    """One message. Raises msgspec.DecodeError (RecursionError where it is nested beyond reason) for what is
    none."""
    return _delivered(_MESSAGE.decode(text))


def _of_lines(file: LogFile) -> Iterator[tuple[LogFile, int, list[Delivered]]]:
    if file.size == 0:
        raise LogError(
            f'log file "{file.shown}" is empty (0 bytes)',
            hint="move it out of the log's path, or write its messages",
        )
    line, row = 1, 0
    for block in json_lines._blocks(file):
        try:
            found = [_delivered(message) for message in _MESSAGE.decode_lines(block)]
        except (msgspec.DecodeError, RecursionError):
            raise _malformed(file, block, line) from None
        line += block.count(b"\n")
        if found:
            yield file, row, found
        row += len(found)


def _of_columns(
    log: Log, root: Path, files: Sequence[LogFile]
) -> Iterator[tuple[LogFile, int, list[Delivered]]]:
    present = [name for name in (*PARTS, KEY) if name in raw_schema(log, root, files=files, needed=())]
    if not {"value", "payload", "op"} & set(present):
        raise DefinitionError(
            f'log "{files[0].shown}" holds no Debezium envelopes',
            hint=f"columns that hold them are {', '.join(PARTS)}; rows with an operation column are "
            'format="flat"',
        )
    for batch in scan(log, root, present, files):
        found = []
        for row, parts in enumerate(batch.table.to_pylist(), batch.first_row):
            try:
                found.append(_of_parts(parts))
            except (msgspec.DecodeError, RecursionError) as error:
                raise LogError(
                    f'log file "{batch.file.shown}", row {row + 1:,}: no Debezium envelope ({error})',
                    hint=_WAY_OUT,
                ) from error
        if found:
            yield batch.file, batch.first_row, found


def _of_parts(parts: dict[str, object]) -> Delivered:
    """A message from the columns of a row: text is the JSON of a part, structs are the part."""
    held = {name: part for name, part in parts.items() if part is not None}
    if not held.keys() - {*CLOCKS, KEY}:  # a tombstone, which may say when it was written and of what
        return Delivered(None)
    for name, part in held.items():
        if name == KEY and isinstance(part, str):
            held[name] = Raw(msgspec.json.encode(part))  # its text need not be JSON
        elif name != "op" and isinstance(part, (str, bytes)):
            held[name] = Raw(part if isinstance(part, bytes) else part.encode())
    message = _MESSAGE.decode(msgspec.json.encode(held))
    return _delivered(message)


def _delivered(message: _Message | None) -> Delivered:
    if message is None:
        return Delivered(None)
    if not isinstance(message.value, UnsetType):
        inner = bytes(message.value)
        found = _delivered(_MESSAGE.decode(_TEXT.decode(inner) if inner[:1] == b'"' else inner))
        return _keyed(found, message)
    if isinstance(message.payload, UnsetType):
        return Delivered(message)
    if isinstance(message.payload, str):
        return _keyed(_delivered(_MESSAGE.decode(message.payload)), message)
    schema = bytes(message.schema)
    return _keyed(Delivered(message.payload, None if schema == b"null" else schema), message)


def _keyed(delivered: Delivered, message: _Message) -> Delivered:
    envelope = delivered.envelope
    if envelope is not None and isinstance(envelope.key, UnsetType):
        envelope.key = message.key
    return delivered


def key_of(envelope: Envelope, names: Sequence[str]) -> Row:
    """The columns ``names`` as far as the message's key has them; a key that is one value is that of the one
    name."""
    if isinstance(envelope.key, UnsetType):
        return {}
    text = bytes(envelope.key)
    try:
        found = _KEY.decode(_TEXT.decode(text) if text[:1] == b'"' else text)
        if {"schema", "payload"} <= found.keys():
            text = bytes(found["payload"])
            found = _KEY.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return {names[0]: Raw(text)} if len(names) == 1 and text != b"null" else {}
    return {name: found[name] for name in names if name in found}


def _malformed(file: LogFile, block: bytes, first_line: int) -> LogError:
    for number, line in enumerate(block.split(b"\n"), first_line):
        try:
            for message in _MESSAGE.decode_lines(line):
                _delivered(message)
        except (msgspec.DecodeError, RecursionError) as error:
            return LogError(
                f'log file "{file.shown}", line {number}: no Debezium envelope ({error})', hint=_WAY_OUT
            )
    return LogError(f'log file "{file.shown}" from line {first_line} on holds no envelopes', hint=_WAY_OUT)
