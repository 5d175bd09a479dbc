"""Changes of a table's rows on their way into one timeline version, with what is there already.

Time: every known change of a row stands in each timeline that the row has ever been in: with its content
where it gives the row to that entity, elsewhere as a *marker* that only says when and at what position it
ends the change before it. So liveness is decided inside one timeline, for every horizon of knowledge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.dtypes import DType, parse
from featurestore.kernel.changes import DELETE, OPERATION_COLUMN, TRUNCATE, UPSERT
from featurestore.kernel.content import content_hash
from featurestore.kernel.versions import HASH_COLUMN, NEVER, instants, single
from featurestore.plan.nodes import SourcePlan
from featurestore.store.entity_key import encode_keys
from featurestore.store.payload import reader
from featurestore.store.records import TimelineVersion, Truncate

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]

NO_ENTITY = b""
"""The timeline of rows that have been in none: changes with a null entity key, deletes of rows never seen."""

HASH = pa.binary(16)


def is_table(timeline: TimelineVersion) -> bool:
    """Whether a timeline version holds the changes of a table, not events."""
    return "primary_key" in timeline.roles


@dataclass(frozen=True)
class ChangeLayout:
    """How a timeline version holds changes. ``stored``: all declared columns, but entity keys that play no
    other part, then the operation and the content's hash. A marker keeps the columns of ``identifying``."""

    keys: tuple[str, ...]
    stored: pa.Schema
    primary_key: tuple[str, ...]
    changed_at: str
    position: tuple[str, ...]
    available_at: str | None
    identifying: frozenset[str]

    @classmethod
    def of(cls, timeline: TimelineVersion) -> ChangeLayout:
        roles = timeline.roles
        keys, primary_key, position = (_names(roles[part]) for part in ("keys", "primary_key", "position"))
        changed_at, available_at = roles["changed_at"], roles["available_at"]
        assert isinstance(changed_at, str)
        assert available_at is None or isinstance(available_at, str)
        others = (roles["event_time"], roles["order_by"])
        identifying = frozenset((*primary_key, changed_at, *position, *_names(available_at)))
        fields = [
            pa.field(name, parse(text).arrow)
            for name, text in timeline.columns.items()
            if name not in keys or name in identifying or name in others
        ]
        fields += [pa.field(OPERATION_COLUMN, pa.int64()), pa.field(HASH_COLUMN, HASH)]
        return cls(
            keys,
            pa.schema(fields),
            primary_key,
            changed_at,
            position,
            available_at,
            identifying | {OPERATION_COLUMN, HASH_COLUMN},
        )

    def available(self, table: pa.Table) -> I64:
        """When each change could first have been known; NEVER for null."""
        return instants(single(table, self.available_at or self.changed_at), null=NEVER)


def _names(value: str | Sequence[str] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


@dataclass(frozen=True)
class RowChanges:
    """Changes of some rows of a changes table, truncates aside: FixedSizeBinary(16) ``row_key`` names each
    one's row, uint64[n, 2] ``hashes`` its content, ``entity`` int64[n] its own entity in ``entities`` (-1:
    it gives its row to none). ``forgotten`` bool[n]: those that would give it to a key that is forgotten."""

    table: pa.Table
    row_key: pa.Array
    hashes: U64
    entity: I64
    entities: Sequence[bytes]
    forgotten: NDArray[np.bool_] | None = None

    @cached_property
    def operation(self) -> I64:
        return instants(single(self.table, OPERATION_COLUMN), null=UPSERT)

    def take(self, rows: I64) -> RowChanges:
        index = pa.array(rows)
        return RowChanges(
            self.table.take(index),
            self.row_key.take(index),
            self.hashes[rows],
            self.entity[rows],
            self.entities,
            None if self.forgotten is None else self.forgotten[rows],
        )


@dataclass(frozen=True)
class Delivered:
    """A changes table taken apart for one timeline version: ``rows`` int64 and ``truncate`` int64 say where
    in it the changes of rows and the truncates stand."""

    changes: RowChanges
    rows: I64
    truncate: I64
    truncates: Sequence[Truncate]


def taken_apart(
    table: pa.Table,
    hashes: U64,
    plan: SourcePlan,
    layout: ChangeLayout,
    forgotten: NDArray[np.bool_] | None = None,
) -> Delivered:
    """A changes table (the source's declared columns and the operation) as changes of rows and truncates.

    ``forgotten`` bool[rows]: changes that only end what stood before them, to be counted on their own.
    """
    operation = instants(single(table, OPERATION_COLUMN), null=UPSERT)
    truncate, rows = np.flatnonzero(operation == TRUNCATE), np.flatnonzero(operation != TRUNCATE)
    truncates = _truncates(table.take(pa.array(truncate)), layout)
    if len(truncate):
        table, hashes = table.take(pa.array(rows)), hashes[rows]
        forgotten = None if forgotten is None else forgotten[rows]
    entity, entities = _entities(table, plan.schema, layout.keys)
    row_key = hash_array(content_hash(table, layout.primary_key))
    changes = RowChanges(table, row_key, hashes, entity, entities, forgotten)
    return Delivered(changes, rows, truncate, truncates)


def _truncates(table: pa.Table, layout: ChangeLayout) -> list[Truncate]:
    positions = [single(table, name).to_pylist() for name in layout.position]
    changed_at = single(table, layout.changed_at).cast(pa.int64()).to_pylist()
    available: list[int | None] = [None] * table.num_rows
    if layout.available_at is not None:
        available = single(table, layout.available_at).cast(pa.int64()).to_pylist()
    return [
        Truncate(position, changed, known)
        for position, changed, known in zip(zip(*positions, strict=True), changed_at, available, strict=True)
    ]


def _entities(table: pa.Table, schema: Mapping[str, DType], keys: Sequence[str]) -> tuple[I64, list[bytes]]:
    """Each change's own entity: that of an upsert without a null in its key."""
    codes = np.full(table.num_rows, -1, np.int64)
    if not all(name in schema for name in keys):
        return codes, []
    own = instants(single(table, OPERATION_COLUMN), null=UPSERT) == UPSERT
    columns = [single(table, name) for name in keys]
    for column in columns:
        if column.null_count:
            own &= column.is_valid().to_numpy(zero_copy_only=False)
    mask = pa.array(own)
    encoded = encode_keys([column.filter(mask) for column in columns], [schema[name] for name in keys])
    found = pa.array(encoded, pa.binary()).dictionary_encode()
    codes[own] = found.indices.to_numpy(zero_copy_only=False)
    return codes, found.dictionary.to_pylist()


def hash_array(hashes: U64) -> pa.Array:
    """Hashes uint64[n, 2] as an Arrow array of 16 bytes each."""
    data = pa.py_buffer(np.ascontiguousarray(hashes))
    return pa.Array.from_buffers(HASH, len(hashes), [None, data])


def hashes_of(array: pa.Array) -> U64:
    """The other way."""
    flat = np.frombuffer(array.buffers()[1] or b"", np.uint64)
    made: U64 = flat[2 * array.offset : 2 * (array.offset + len(array))].reshape(-1, 2)
    return made


class Known(Protocol):
    """What a snapshot and an open commit both say of a timeline version."""

    def read(self, timeline_version_id: int, entity_keys: Sequence[bytes]) -> dict[bytes, list[bytes]]: ...

    def identities(self, timeline_version_id: int, row_keys: Sequence[bytes]) -> dict[bytes, list[bytes]]: ...

    def truncates(self, timeline_version_id: int) -> list[Truncate]: ...


@dataclass(frozen=True)
class Standing:
    """What stands of some rows: ``timelines`` by row key, and the changes of each, read from one of them;
    their own entities are not told, nor needed: a timeline that a row joins takes them as markers."""

    timelines: Mapping[bytes, Sequence[bytes]] = field(default_factory=dict)
    table: pa.Table | None = None


def standing(known: Known, timeline_version_id: int, layout: ChangeLayout, row_keys: pa.Array) -> Standing:
    """What stands of the rows ``row_keys`` (distinct)."""
    timelines = known.identities(timeline_version_id, row_keys.to_pylist())
    if not timelines:
        return Standing()
    # The last one is that of an entity wherever the row has been in any: b"" comes first.
    chosen = {row: entities[-1] for row, entities in timelines.items()}
    payloads = known.read(timeline_version_id, sorted(set(chosen.values())))
    number = {entity: i for i, entity in enumerate(payloads)}
    table, counts = reader(layout.stored).read([one for some in payloads.values() for one in some])
    owner = np.repeat(np.repeat(np.arange(len(payloads)), [len(some) for some in payloads.values()]), counts)
    of_row = pa.array(list(chosen), HASH)
    # A row may be in a timeline that holds nothing yet.
    expected = np.array([number.get(entity, -1) for entity in chosen.values()], np.int64)
    ids = hash_array(content_hash(table, layout.primary_key))
    place = pc.fill_null(pc.index_in(ids, value_set=of_row), -1).to_numpy(zero_copy_only=False)
    wanted = (place >= 0) & (expected[place] == owner)
    return Standing(timelines, table.filter(pa.array(wanted)))


def markers(table: pa.Table, layout: ChangeLayout, ends: NDArray[np.bool_]) -> pa.Table:
    """``table``, of the stored columns, with those rows that only ``ends`` what stands before them as
    markers."""
    if not ends.any():
        return table
    mask = pa.array(ends)
    columns = []
    for name in layout.stored.names:
        column = single(table, name)
        if name == OPERATION_COLUMN:
            column = pc.if_else(mask, pa.scalar(DELETE, pa.int64()), column)
        elif name not in layout.identifying:
            index = pa.array(np.arange(table.num_rows), mask=ends)
            column = column.take(index)
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=layout.stored)
