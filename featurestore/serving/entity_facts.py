"""Stored payloads become tables again: the versions, or changes, of the entities that a request asks about.

A timeline version's columns never change, so what reads them is made once. All versions are read; which of
them count is chosen by the kernel, as known at the request's horizon.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.kernel.changes import DELETE, OPERATION_COLUMN, TRUNCATE, UPSERT
from featurestore.kernel.roles import ChangeRoles, KnownAt, Roles
from featurestore.kernel.timelines import HeldLookup, enrich, timelines
from featurestore.kernel.versions import HASH_COLUMN, Timeline, instants, single
from featurestore.store import Snapshot
from featurestore.store.changes import ChangeLayout, is_table
from featurestore.store.delivery import Layout
from featurestore.store.forgotten import Gone, key_columns, with_ends
from featurestore.store.payload import PayloadReader
from featurestore.store.records import TimelineVersion, Truncate

I64 = NDArray[np.int64]


@dataclass(frozen=True)
class EntityFacts:
    """The facts of some entities: ``table`` holds all their versions, ``timeline`` those that count."""

    table: pa.Table
    timeline: Timeline


@dataclass(frozen=True)
class StoredFacts:
    """All that is stored of ``entities`` entities, as the kernel takes it: a versions or changes table, and
    int64 ``codes``, each row's entity."""

    table: pa.Table
    codes: I64
    entities: int

    def known(
        self,
        roles: Roles | ChangeRoles,
        known_at: KnownAt,
        *,
        delay_us: int,
        lookups: Sequence[HeldLookup] = (),
    ) -> EntityFacts:
        """Those that count, for features of one delay, with what they look up."""
        made, _ = timelines(self.table, self.codes, self.entities, roles, known_at, delay_us=delay_us)
        enriched = enrich(self.table, roles, lookups, known_at)
        return EntityFacts(enriched.table, enriched.split(made))


class StoredTimeline:
    """Reads one timeline version. Its payloads lack key columns of the entity: those are the key."""

    def __init__(self, version: TimelineVersion) -> None:
        self._id = version.id
        self._version = version
        self._changes = ChangeLayout.of(version) if is_table(version) else None
        self._reader = PayloadReader((self._changes or Layout.of(version)).stored)
        self.stored = frozenset(self._reader.schema.names)

    def read(
        self,
        snapshot: Snapshot,
        numbers: Mapping[bytes, int],
        keys: Mapping[str, pa.Array],
        gone: Gone | None = None,
    ) -> StoredFacts:
        """What is stored of ``len(numbers)`` entities. ``numbers`` numbers them by encoded key, b"" for a
        null one; ``keys`` holds each entity's values of those key columns that are read like any other;
        ``gone`` is what is forgotten and not erased yet."""
        payloads = snapshot.read(self._id, [key for key in numbers if key])
        order = list(payloads)
        table, counts = self._reader.read([payload for key in order for payload in payloads[key]])
        owner = np.array([numbers[key] for key in order for _ in payloads[key]], np.int64)
        codes = np.repeat(owner, counts)
        if gone is not None:
            table, stays = self._without(gone, order, np.repeat(_places(payloads), counts), table)
            codes = codes if stays is None else codes[stays]
        for name, values in keys.items():
            if name not in self.stored:
                table = table.append_column(name, values.take(pa.array(codes)))
        if self._changes is not None:
            if len(order) > 1:
                table, codes = _each_change_once(table, codes)
            truncates = snapshot.truncates(self._id)
            if truncates:
                table = pa.concat_tables([table, _of_truncates(truncates, self._changes, table.schema)])
                table = table.combine_chunks()
                codes = np.append(codes, np.full(len(truncates), -1, np.int64))
        return StoredFacts(table, codes, len(numbers))

    def _without(
        self, gone: Gone, keys: Sequence[bytes], place: I64, table: pa.Table
    ) -> tuple[pa.Table, NDArray[np.bool_] | None]:
        """Stored versions without what is forgotten, and which of them are left (None: all)."""
        columns = key_columns(self._version, gone.columns, keys, place, table)
        if self._changes is not None:
            upsert = instants(single(table, OPERATION_COLUMN), null=DELETE) == UPSERT
            marked = gone.marked(columns, table.num_rows) & upsert
            table = with_ends(table, marked) if marked.any() else table
        dropped = gone.dropped(columns, table.num_rows)
        if not dropped.any():
            return table, None
        return table.filter(pa.array(~dropped)), ~dropped


def _places(payloads: Mapping[bytes, Sequence[bytes]]) -> I64:
    """The number of each payload's entity, in the order in which they were read."""
    return np.repeat(np.arange(len(payloads)), [len(some) for some in payloads.values()])


def _each_change_once(table: pa.Table, codes: I64) -> tuple[pa.Table, I64]:
    """A row that moved between two of the entities has each change in both, once as a marker: the kernel
    knows rows by their primary key alone, so the marker has to go."""
    marker = instants(single(table, OPERATION_COLUMN), null=DELETE) == DELETE
    if not marker.any():
        return table, codes
    hashes = single(table, HASH_COLUMN)
    twice = pc.is_in(hashes, value_set=hashes.filter(pa.array(~marker)))
    left = ~(marker & twice.to_numpy(zero_copy_only=False))
    return (table, codes) if left.all() else (table.filter(pa.array(left)), codes[left])


def _of_truncates(truncates: Sequence[Truncate], layout: ChangeLayout, schema: pa.Schema) -> pa.Table:
    """Truncates as changes of no row and no entity."""
    values: dict[str, list[int | None]] = {
        layout.changed_at: [one.changed_at for one in truncates],
        OPERATION_COLUMN: [TRUNCATE] * len(truncates),
    }
    if layout.available_at is not None:
        values[layout.available_at] = [one.available_at for one in truncates]
    for i, name in enumerate(layout.position):
        values[name] = [one.position[i] for one in truncates]
    columns = [
        pa.array(values[part.name], pa.int64()).cast(part.type)
        if part.name in values
        else pa.nulls(len(truncates), part.type)
        for part in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)
