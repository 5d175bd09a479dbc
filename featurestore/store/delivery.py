"""A delivery: versions on their way into one timeline version, entity by entity in key order, then by event
time.

Time: a run's ``start`` is its least event time. A retraction may lack its event time; it comes last in its
entity.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.dtypes import parse
from featurestore.kernel.blocks import grouped, sort_blocks
from featurestore.kernel.compiled import compiled
from featurestore.kernel.content import content_hash, hash64
from featurestore.kernel.versions import HASH_COLUMN, NEVER, instants, single
from featurestore.store.records import TimelineVersion

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]

# A segment of 10,000 versions is some 300 KB: small beside a commit, large beside what a row of it costs.
RUN_VERSIONS = 10_000


@dataclass(frozen=True)
class Layout:
    """How a timeline version holds its facts: the entity's key columns, the stored ones, who plays which
    part, and before which event time it may hold none."""

    keys: tuple[str, ...]
    stored: pa.Schema
    event_time: str
    available_at: str | None
    id: tuple[str, ...]
    has_id: bool
    floor_us: int | None = None

    @classmethod
    def of(cls, timeline: TimelineVersion) -> Layout:
        roles = timeline.roles
        keys, ids = _names(roles["keys"]), _names(roles["id"])
        event_time, available_at = roles["event_time"], roles["available_at"]
        assert isinstance(event_time, str) and not isinstance(available_at, list)
        fields = [
            pa.field(name, parse(text).arrow) for name, text in timeline.columns.items() if name not in keys
        ]
        return cls(
            keys,
            pa.schema([*fields, pa.field(HASH_COLUMN, pa.binary(16))]),
            event_time,
            available_at if available_at is None else str(available_at),
            tuple(name for name in ids if name not in keys),
            bool(ids),
            timeline.floor_us,
        )

    @property
    def roles(self) -> pa.Schema:
        """The stored columns that tell a version's identity, content and knowledge."""
        names = {self.event_time, self.available_at, *self.id, HASH_COLUMN}
        return pa.schema([field for field in self.stored if field.name in names])


def _names(value: str | Sequence[str] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


@dataclass(frozen=True)
class Facts:
    """What of some versions decides whether they are new: uint64 ``identity`` within the entity, the
    content's hash uint64[n, 2], int64 ``available`` (NEVER for null)."""

    identity: U64
    hashes: U64
    available: I64

    def slice(self, first: int, end: int) -> Facts:
        return Facts(self.identity[first:end], self.hashes[first:end], self.available[first:end])

    def those(self, which: NDArray[np.bool_]) -> Facts:
        return Facts(self.identity[which], self.hashes[which], self.available[which])


def identities(entity: I64, identity: U64) -> NDArray[np.void]:
    """Entity and identity of some versions as one array, to be compared with others."""
    pairs = np.empty(len(entity), np.dtype([("entity", np.int64), ("identity", np.uint64)]))
    pairs["entity"], pairs["identity"] = entity, identity
    return pairs


def facts_of(table: pa.Table, layout: Layout) -> Facts:
    """The facts of stored versions."""
    stored = single(table, HASH_COLUMN)
    hashes = np.frombuffer(stored.buffers()[1] or b"", np.uint64)
    hashes = hashes[2 * stored.offset : 2 * (stored.offset + len(stored))].reshape(-1, 2)
    known = layout.available_at if layout.available_at is not None else layout.event_time
    return Facts(_identity(table, layout.id), hashes, instants(single(table, known), null=NEVER))


def _identity(table: pa.Table, ids: Sequence[str]) -> U64:
    if not ids:
        return np.zeros(table.num_rows, np.uint64)
    if len(ids) == 1:
        return hash64(table.column(ids[0]))
    return np.ascontiguousarray(content_hash(table, ids)[:, 0])


@dataclass(frozen=True)
class Delivery:
    """Versions in key order, then by event time. ``row`` says where each was in the table that was handed in.

    The versions of entity ``keys[e]`` are the rows ``[offsets[e], offsets[e + 1])`` of ``table``, which has
    the stored columns. ``bounds`` int64[runs + 1] cuts them into runs, ``run_entity`` int64[runs] names each
    run's entity: versions of one entity and one event time are never in two runs, so neither are two
    deliveries of one content. ``forgotten`` bool[rows] are never written (None: there are none): cut into
    runs like the others, so that a run's number stays what it was before a key was forgotten.
    """

    layout: Layout
    keys: Sequence[bytes]
    offsets: I64
    table: pa.Table
    event_time: I64
    bounds: I64
    run_entity: I64
    row: I64
    forgotten: NDArray[np.bool_] | None = None

    @property
    def runs(self) -> int:
        return len(self.run_entity)

    def goes_on(self, run: int) -> bool:
        """Whether a run belongs to the entity of the run before it."""
        return 0 < run < self.runs and bool(self.run_entity[run] == self.run_entity[run - 1])

    @cached_property
    def facts(self) -> Facts:
        return facts_of(self.table, self.layout)

    def outlived_of(self, first: int, end: int) -> NDArray[np.bool_] | None:
        """``outlived`` of the versions ``[first, end)``."""
        return None if self.outlived is None else self.outlived[first:end]

    @cached_property
    def outlived(self) -> NDArray[np.bool_] | None:
        """The versions of identities all of whose versions here happened before the floor; None for none."""
        floor_us = self.layout.floor_us
        if floor_us is None or not len(self.event_time) or self.event_time.min() >= floor_us:
            return None
        old = self.event_time < floor_us
        if self.layout.has_id:
            entity = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
            pairs = identities(entity, self.facts.identity)
            old &= ~np.isin(pairs, pairs[~old])
        return old


def deliver(
    versions: pa.Table,
    hashes: U64,
    codes: I64,
    keys: Sequence[bytes],
    layout: Layout,
    *,
    threads: ThreadPoolExecutor | None = None,
    run_versions: int = RUN_VERSIONS,
    forgotten: NDArray[np.bool_] | None = None,
) -> Delivery:
    """Put versions in order. ``codes`` int64[rows] number each version's key in ``keys``, which ascend; a
    negative code belongs to no timeline and is left out. A stored column that ``versions`` lacks, or has
    in another type, is null. ``forgotten`` bool[rows]: see Delivery."""
    event_time = instants(_column(versions, layout.event_time, layout.stored), null=NEVER)
    offsets, order = grouped(codes, len(keys))
    sort_blocks(offsets, order, event_time, threads=threads)
    event_time = event_time[order]
    index = pa.array(order)

    def column(name: str) -> pa.Array:
        if name == HASH_COLUMN:
            return _hash_array(hashes[order])
        return _column(versions, name, layout.stored).take(index)

    names = layout.stored.names
    # A few rows are not worth handing over.
    columns = list(threads.map(column, names) if threads and len(order) > 50_000 else map(column, names))
    bounds, run_entity = cut(offsets, event_time, run_versions)
    return Delivery(
        layout,
        keys,
        offsets,
        pa.Table.from_arrays(columns, schema=layout.stored),
        event_time,
        bounds,
        run_entity,
        order,
        None if forgotten is None else forgotten[order],
    )


def _column(versions: pa.Table, name: str, stored: pa.Schema) -> pa.Array:
    arrow = stored.field(name).type
    index = versions.schema.get_field_index(name)
    if index < 0 or versions.schema.field(index).type != arrow:
        return pa.nulls(versions.num_rows, arrow)
    return single(versions, name)


def _hash_array(hashes: U64) -> pa.Array:
    data = pa.py_buffer(np.ascontiguousarray(hashes))
    return pa.Array.from_buffers(pa.binary(16), len(hashes), [None, data])


def sorted_keys(keys: Sequence[bytes]) -> tuple[list[bytes], I64]:
    """Distinct keys in order, and each one's place among them."""
    order = sorted(range(len(keys)), key=keys.__getitem__)
    place = np.empty(len(keys), np.int64)
    place[order] = np.arange(len(keys))
    return [keys[i] for i in order], place


@compiled("Tuple((i8[::1], i8[::1]))(i8[::1], i8[::1], i8)")
def cut(offsets: I64, event_time: I64, most: int) -> tuple[I64, I64]:
    # A cut lies where the event time changes, so a run may be longer than ``most``.
    bounds = np.empty(len(event_time) + 1, np.int64)
    entity = np.empty(len(event_time), np.int64)
    runs = 0
    for e in range(len(offsets) - 1):
        first = offsets[e]
        for i in range(offsets[e], offsets[e + 1]):
            if i - first >= most and event_time[i] != event_time[i - 1]:
                bounds[runs], entity[runs] = first, e
                runs += 1
                first = i
        if first < offsets[e + 1]:
            bounds[runs], entity[runs] = first, e
            runs += 1
    bounds[runs] = len(event_time)
    return bounds[: runs + 1].copy(), entity[:runs].copy()
