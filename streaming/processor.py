"""The processor: messages in, canonical rows and dead letters out. A pure function; Kafka and the store are
elsewhere.

Time: a row's times are its columns', read as in its source's log; the column that a topic declares as
``timestamp_column`` is the record's own timestamp. The wall clock is never asked, so a message read again
gives the same row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.dtypes import TIMESTAMP
from featurestore.errors import FeatureStoreError
from featurestore.kernel.changes import CLAIM_COLUMN, OPERATION_COLUMN
from featurestore.log.cast import cast_table
from featurestore.log.cells import cells_of_json
from featurestore.log.change_rows import RawChanges, settled
from featurestore.log.changes import flat_changes
from featurestore.log.debezium import changes_of
from featurestore.log.envelopes import Delivered, delivered
from featurestore.log.versions import event_versions
from featurestore.plan.nodes import SourcePlan
from streaming.codec import Codec, UndecodableError

I64 = NDArray[np.int64]
Row: TypeAlias = Mapping[str, msgspec.Raw]

# Casting and rejecting name the first thousand faults: of as many rows, all.
PIECE_MESSAGES = 1_000

_ROW = msgspec.json.Decoder(dict[str, msgspec.Raw] | None)
_WRAPPED = {"schema", "payload"}


class Message(Protocol):
    """What is asked of a record of a topic; ``timestamp`` is in milliseconds, negative for none."""

    @property
    def key(self) -> bytes | None: ...

    @property
    def value(self) -> bytes | None: ...

    @property
    def timestamp(self) -> int: ...


@dataclass(frozen=True)
class Decoded:
    """Messages of one topic as rows. ``table`` has canonical rows, ``message`` int64[rows] the message that
    each is from; ``dead`` maps a message that can't be read to the reason. Every other message is ignored: a
    tombstone, or an image of what was."""

    table: pa.Table
    message: I64
    dead: Mapping[int, str]
    messages: int

    @property
    def ignored(self) -> NDArray[np.bool_]:
        """bool[messages]."""
        ignored = np.ones(self.messages, np.bool_)
        ignored[self.message] = False
        ignored[list(self.dead)] = False
        return ignored


def decode(messages: Sequence[Message], plan: SourcePlan, codec: Codec, *, max_value_bytes: int) -> Decoded:
    """Read messages of a source's topic."""
    pieces = [
        _piece(messages[first : first + PIECE_MESSAGES], plan, codec, max_value_bytes)
        for first in range(0, len(messages), PIECE_MESSAGES)
    ]
    if len(pieces) == 1:
        return pieces[0]
    starts = range(0, len(messages), PIECE_MESSAGES)
    dead = {
        first + number: reason
        for first, piece in zip(starts, pieces, strict=True)
        for number, reason in piece.dead.items()
    }
    tables = [piece.table for piece in pieces] or [_nothing(plan)]
    numbers = [first + piece.message for first, piece in zip(starts, pieces, strict=True)]
    return Decoded(
        pa.concat_tables(tables).combine_chunks(),
        np.concatenate([np.empty(0, np.int64), *numbers]),
        dead,
        len(messages),
    )


def _piece(messages: Sequence[Message], plan: SourcePlan, codec: Codec, max_value_bytes: int) -> Decoded:
    enveloped = plan.changes is not None and plan.changes.format == "debezium"
    dead: dict[int, str] = {}
    found: list[tuple[int, Row | Delivered]] = []
    for number, message in enumerate(messages):
        try:
            one = _held(message, codec, max_value_bytes, enveloped=enveloped, plan=plan)
        except UndecodableError as error:
            dead[number] = str(error)
        else:
            if one is not None:
                found.append((number, one))
    numbers = np.array([number for number, _ in found], np.int64)
    stamps = np.array([messages[number].timestamp for number, _ in found], np.int64)
    if enveloped:
        envelopes = [one for _, one in found if isinstance(one, Delivered)]
        table, rows, refused = _changes_of_messages(envelopes, plan, stamps)
    else:
        flat = [one for _, one in found if not isinstance(one, Delivered)]
        table, rows, refused = (_events if plan.changes is None else _flat_changes)(flat, plan, stamps)
    kept = set(rows.tolist())
    dead |= {int(numbers[row]): reason for row, reason in refused.items() if row not in kept}
    return Decoded(table, numbers[rows], dead, len(messages))


def _held(
    message: Message, codec: Codec, max_value_bytes: int, *, enveloped: bool, plan: SourcePlan
) -> Row | Delivered | None:
    """What a message holds, None for a tombstone."""
    value = message.value
    if value is None:
        return None
    if len(value) > max_value_bytes:
        raise UndecodableError(
            f"its value has {len(value):,} bytes, more than the {max_value_bytes:,} allowed"
        )
    text = codec.text(value)
    try:
        if enveloped:
            found = delivered(text)
            if found.envelope is not None and found.envelope.key is msgspec.UNSET:
                key = None if message.key is None else codec.key(message.key)
                found.envelope.key = msgspec.UNSET if key is None else msgspec.Raw(key)
            return None if found.envelope is None else found
        if plan.topic is not None and plan.topic.enveloped:
            return _event_of_envelope(delivered(text))
        row: Row | None = _ROW.decode(text)
        if row is not None and row.keys() == _WRAPPED:
            row = _ROW.decode(bytes(row["payload"]))
        return row
    except (msgspec.DecodeError, RecursionError) as error:
        what = "Debezium envelope" if enveloped else codec.what
        raise UndecodableError(f"no {what}: {error}") from None


def _event_of_envelope(message: Delivered) -> Row | None:
    envelope = message.envelope
    if envelope is None:
        return None
    if envelope.after is None or envelope.op not in ("c", "r", "u"):
        raise UndecodableError(
            f"an envelope of operation {envelope.op!r} is no event: rows that are deleted are a table source"
        )
    return envelope.after


# Each returns the good rows, which of the given ones they are from, and why others are refused.


def _events(rows: Sequence[Row], plan: SourcePlan, stamps: I64) -> tuple[pa.Table, I64, dict[int, str]]:
    raw = _stamped(_columns(rows, plan.schema), plan, stamps)
    cast = cast_table(raw, plan.schema, timezone=plan.timezone, time_unit=plan.time_unit)
    # Without entity keys: a row may be keyless for one entity of the source and not for another.
    made = event_versions(cast, plan, ())
    refused = dict(made.rejected)
    kept = np.ones(len(rows), np.bool_)
    kept[list(refused)] = False
    return made.table, np.flatnonzero(kept), refused


def _flat_changes(rows: Sequence[Row], plan: SourcePlan, stamps: I64) -> tuple[pa.Table, I64, dict[int, str]]:
    assert plan.changes is not None
    raw = _stamped(_columns(rows, (*plan.schema, plan.changes.op)), plan, stamps)
    made = flat_changes(raw, plan.changes.declared, (), plan.schema)
    numbers = np.arange(made.table.num_rows) if made.rows is None else made.rows
    return made.with_claims(), numbers, dict(made.rejected)


def _changes_of_messages(
    envelopes: Sequence[Delivered], plan: SourcePlan, stamps: I64
) -> tuple[pa.Table, I64, dict[int, str]]:
    try:
        return _changes_of_envelopes(envelopes, plan, stamps)
    except (
        FeatureStoreError
    ) as error:  # one message is at fault, a schema of no rows say: it alone is refused
        if len(envelopes) == 1:
            return _nothing(plan), np.empty(0, np.int64), {0: error.fact}
    half = len(envelopes) // 2
    first, second = (
        _changes_of_messages(envelopes[part], plan, stamps[part])
        for part in (slice(0, half), slice(half, None))
    )
    refused = first[2] | {half + row: reason for row, reason in second[2].items()}
    return (
        pa.concat_tables([first[0], second[0]]).combine_chunks(),
        np.concatenate([first[1], half + second[1]]),
        refused,
    )


def _changes_of_envelopes(
    envelopes: Sequence[Delivered], plan: SourcePlan, stamps: I64
) -> tuple[pa.Table, I64, dict[int, str]]:
    assert plan.changes is not None
    source, tables, rows = plan.changes.declared, [_nothing(plan)], [np.empty(0, np.int64)]
    refused: dict[int, str] = {}
    for raw in changes_of(envelopes, source, plan.schema):
        assert raw.rows is not None
        stamped: RawChanges = replace(raw, table=_stamped(raw.table, plan, stamps[raw.rows]))
        made = settled(stamped, source, (), plan.schema)
        assert made.rows is not None
        tables.append(made.with_claims())
        rows.append(made.rows)
        refused |= dict(made.rejected)
    return pa.concat_tables(tables).combine_chunks(), np.concatenate(rows), refused


def _columns(rows: Sequence[Row], names: Sequence[str] | Mapping[str, object]) -> pa.Table:
    return pa.table({name: cells_of_json([row.get(name) for row in rows]) for name in names})


def _stamped(raw: pa.Table, plan: SourcePlan, stamps: I64) -> pa.Table:
    """With the records' timestamps as the column that the topic declares them to be."""
    name = None if plan.topic is None else plan.topic.timestamp_column
    if name is None:
        return raw
    times = pa.array(stamps * 1_000, pa.int64(), mask=stamps < 0).cast(TIMESTAMP.arrow)
    at = raw.schema.get_field_index(name)
    return raw.append_column(name, times) if at < 0 else raw.set_column(at, name, times)


def _nothing(plan: SourcePlan) -> pa.Table:
    operation = [] if plan.changes is None else [(OPERATION_COLUMN, pa.int64()), (CLAIM_COLUMN, pa.bool_())]
    return pa.schema([*((name, dtype.arrow) for name, dtype in plan.columns), *operation]).empty_table()
