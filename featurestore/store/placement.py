"""Where changes of a table's rows go: which are new, which timelines they stand in, which rows join one.

Time: none decides anything here. What is new depends on what is there when the commit begins; a change that
is delivered again is kept only where it is now known to have been available earlier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.kernel.changes import CLAIM_COLUMN, UPSERT
from featurestore.kernel.content import content_hash
from featurestore.kernel.versions import HASH_COLUMN, NEVER, instants, single
from featurestore.store.changes import (
    NO_ENTITY,
    ChangeLayout,
    Delivered,
    Known,
    RowChanges,
    Standing,
    hash_array,
    hashes_of,
    markers,
    standing,
)
from featurestore.store.commit import Commit
from featurestore.store.delivery import RUN_VERSIONS, Facts, cut
from featurestore.store.novelty import (
    ACCEPTED,
    CORRECTED,
    DUPLICATE,
    FORGOTTEN,
    KEYLESS,
    Novelty,
    counted,
    novelty,
)
from featurestore.store.payload import encode_runs
from featurestore.store.records import SegmentRow, Truncate

I64 = NDArray[np.int64]


@dataclass(frozen=True)
class Placement:
    """What a delivery adds to a timeline version. ``status`` int8[n] and ``kept`` bool[n] say what became of
    each change that was handed in; ``identities`` are (row key, entity key). ``conflicting`` changes have
    other content than another one of their row at their position, here or in ``standing``, what is there of
    these rows; ``unseen`` rows are new and begin with an update or a delete."""

    delivered: Delivered
    rows: Sequence[SegmentRow]
    identities: Sequence[tuple[bytes, bytes]]
    truncates: Sequence[Truncate]
    status: NDArray[np.int8]
    kept: NDArray[np.bool_]
    conflicting: I64
    standing: pa.Table | None
    unseen: int

    def counts(self) -> dict[str, int]:
        """How many changes became what."""
        return counted(self.status)

    def write(self, commit: Commit, timeline_version_id: int) -> None:
        """Append it; the caller knows that nothing else was written since it was made."""
        commit.append(timeline_version_id, self.rows)
        commit.add_identities(timeline_version_id, self.identities)
        commit.add_truncates(timeline_version_id, self.truncates)


def placement(
    delivered: Delivered, layout: ChangeLayout, timeline_version_id: int, known: Known, *, level: int
) -> Placement:
    """What ``delivered`` adds to what is ``known``."""
    changes = delivered.changes
    total = len(delivered.rows) + len(delivered.truncate)
    status, kept = np.full(total, DUPLICATE, np.int8), np.zeros(total, np.bool_)
    truncates = []
    if delivered.truncates:
        there = set(known.truncates(timeline_version_id))
        for row, one in zip(delivered.truncate.tolist(), delivered.truncates, strict=True):
            if one not in there:
                there.add(one)
                truncates.append(one)
                status[row], kept[row] = ACCEPTED, True
    rows: Sequence[SegmentRow] = ()
    identities: Sequence[tuple[bytes, bytes]] = ()
    conflicting = np.empty(0, np.int64)
    there_already: pa.Table | None = None
    unseen = 0
    if len(delivered.rows):
        encoded = changes.row_key.dictionary_encode()
        row = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        stands = standing(known, timeline_version_id, layout, encoded.dictionary)
        found = _novelty(changes, row, encoded.dictionary, stands, layout)
        keyless = (found.status == ACCEPTED) & (changes.operation == UPSERT) & (changes.entity < 0)
        status[delivered.rows] = np.where(keyless, KEYLESS, found.status)
        if changes.forgotten is not None:
            status[delivered.rows[changes.forgotten]] = FORGOTTEN
        kept[delivered.rows] = found.kept
        conflicting = delivered.rows[found.status == CORRECTED]
        there_already = stands.table
        unseen = _unseen(changes, row, encoded.dictionary, stands, layout)
        fresh = np.flatnonzero(found.kept)
        if len(fresh):
            rows, identities = _placed(
                changes.take(fresh), row[fresh], encoded.dictionary, stands, layout, level
            )
    return Placement(delivered, rows, identities, truncates, status, kept, conflicting, there_already, unseen)


def _unseen(changes: RowChanges, row: I64, row_keys: pa.Array, stands: Standing, layout: ChangeLayout) -> int:
    """How many rows nothing was known of, and at their least position is nothing but updates and deletes."""
    table = changes.table
    if CLAIM_COLUMN not in table.column_names:
        return 0
    claims = pc.fill_null(single(table, CLAIM_COLUMN), False).to_numpy(zero_copy_only=False)
    begins = np.zeros(len(row_keys), np.bool_)
    begins[row[claims]] = True
    if stands.table is not None and begins.any():
        begins[_numbers(stands.table, row_keys, layout)] = False
    some = np.flatnonzero(begins[row])
    if not len(some):
        return 0
    position = [instants(single(table, name), null=0)[some] for name in layout.position]
    by = np.lexsort((*position[::-1], row[some]))
    new_row = np.append(True, np.diff(row[some][by]) != 0)
    new_place = np.logical_or.reduce([new_row, *(np.append(True, np.diff(one[by]) != 0) for one in position)])
    places = np.flatnonzero(new_place)
    all_claim = np.logical_and.reduceat(claims[some][by], places)
    return int((all_claim & new_row[places]).sum())


def _novelty(
    changes: RowChanges, row: I64, row_keys: pa.Array, stands: Standing, layout: ChangeLayout
) -> Novelty:
    """An identity is a row and a position: other content there is a conflict."""

    def facts(table: pa.Table, hashes: NDArray[np.uint64]) -> Facts:
        identity = content_hash(table, [*layout.primary_key, *layout.position])[:, 0]
        return Facts(np.ascontiguousarray(identity), hashes, layout.available(table))

    delivered = facts(changes.table, changes.hashes)
    if stands.table is None:
        return novelty(delivered, row, len(row_keys))
    there = facts(stands.table, hashes_of(single(stands.table, HASH_COLUMN)))
    return novelty(delivered, row, len(row_keys), there, _numbers(stands.table, row_keys, layout))


def _numbers(table: pa.Table, row_keys: pa.Array, layout: ChangeLayout) -> I64:
    ids = hash_array(content_hash(table, layout.primary_key))
    made: I64 = pc.index_in(ids, value_set=row_keys).to_numpy(zero_copy_only=False).astype(np.int64)
    return made


def _placed(
    fresh: RowChanges, row: I64, row_keys: pa.Array, stands: Standing, layout: ChangeLayout, level: int
) -> tuple[list[SegmentRow], list[tuple[bytes, bytes]]]:
    """The runs to append for new changes, and the timelines that their rows join."""
    entities, own = _all_entities(fresh, stands.timelines)
    keys = row_keys.to_pylist()
    before = _pairs(row, keys, entities, stands.timelines)
    own = own[fresh.entity] if len(own) else np.full(len(row), -1, np.int64)
    own = np.where(fresh.entity < 0, -1, own)
    in_entity = distinct((row * len(entities) + own)[own >= 0])
    # What is in an entity's timeline needs no other; what is in none goes to that of no entity.
    pairs = distinct(np.concatenate([before[before % len(entities) != 0], in_entity]))
    homeless = np.setdiff1d(distinct(row), distinct(pairs // len(entities)), assume_unique=True)
    pairs = np.sort(np.concatenate([pairs, homeless * len(entities)]))
    joined = np.setdiff1d(pairs, before, assume_unique=True)

    change, entity = _each(row, pairs, len(entities))
    ends = own[change] != entity
    stored = _stored(fresh, layout)
    parts = [stored.take(pa.array(change))]
    if stands.table is not None and len(joined):
        again, joins = _each(_numbers(stands.table, row_keys, layout), joined, len(entities))
        parts.append(stands.table.take(pa.array(again)))
        entity = np.concatenate([entity, joins])
        ends = np.concatenate([ends, np.ones(len(again), np.bool_)])
    table = markers(pa.concat_tables(parts).combine_chunks(), layout, ends)
    rows = runs(table, entity, entities, layout, level)
    index = [(keys[pair // len(entities)], entities[pair % len(entities)]) for pair in joined.tolist()]
    return rows, index


def _all_entities(fresh: RowChanges, timelines: Mapping[bytes, Sequence[bytes]]) -> tuple[list[bytes], I64]:
    """Every entity concerned, in key order, that of none first; and where the delivery's own stand in it."""
    used = {fresh.entities[i] for i in distinct(fresh.entity[fresh.entity >= 0]).tolist()}
    entities = sorted({NO_ENTITY, *used, *(one for some in timelines.values() for one in some)})
    number = {entity: i for i, entity in enumerate(entities)}
    return entities, np.array([number.get(entity, -1) for entity in fresh.entities], np.int64)


def _pairs(
    row: I64, keys: Sequence[bytes], entities: Sequence[bytes], timelines: Mapping[bytes, Sequence[bytes]]
) -> I64:
    """The pairs that are there of the rows that have new changes, as row * entities + entity."""
    if not timelines:
        return np.empty(0, np.int64)
    number = {entity: i for i, entity in enumerate(entities)}
    made = [
        i * len(entities) + number[entity]
        for i in distinct(row).tolist()
        for entity in timelines.get(keys[i], ())
    ]
    return np.array(sorted(made), np.int64)


def _each(row: I64, pairs: I64, entities: int) -> tuple[I64, I64]:
    """For changes of ``row``, each with each of its row's entities among ``pairs`` (ascending): the change
    and the entity."""
    first = np.searchsorted(pairs, row * entities)
    count = np.searchsorted(pairs, (row + 1) * entities) - first
    change = np.repeat(np.arange(len(row)), count)
    within = np.arange(len(change)) - np.repeat(np.cumsum(count) - count, count)
    return change, pairs[np.repeat(first, count) + within] % entities


def distinct(values: I64) -> I64:
    """The distinct values, ascending. np.unique hashes integers first, which costs four sorts here."""
    ordered = np.sort(values)
    return ordered[np.append(True, ordered[1:] != ordered[:-1])] if len(ordered) else ordered


def _stored(changes: RowChanges, layout: ChangeLayout) -> pa.Table:
    columns = []
    for part in layout.stored:
        at = changes.table.schema.get_field_index(part.name)
        if part.name == HASH_COLUMN:
            columns.append(hash_array(changes.hashes))
        elif at < 0 or changes.table.schema.field(at).type != part.type:
            columns.append(pa.nulls(changes.table.num_rows, part.type))
        else:
            columns.append(single(changes.table, part.name))
    return pa.Table.from_arrays(columns, schema=layout.stored)


def runs(
    table: pa.Table, entity: I64, entities: Sequence[bytes], layout: ChangeLayout, level: int
) -> list[SegmentRow]:
    """Changes of the stored columns as rows to append; ``entity`` numbers each one's in ``entities``."""
    changed_at = instants(single(table, layout.changed_at), null=NEVER)
    order = np.lexsort((changed_at, entity))
    table, entity, changed_at = table.take(pa.array(order)), entity[order], changed_at[order]
    offsets = np.searchsorted(entity, np.arange(len(entities) + 1))
    bounds, of = cut(offsets, changed_at, RUN_VERSIONS)
    return [
        SegmentRow(entities[e], level, start, versions, payload)
        for e, start, versions, payload in zip(
            of.tolist(),
            changed_at[bounds[:-1]].tolist(),
            np.diff(bounds).tolist(),
            encode_runs(table, bounds),
            strict=True,
        )
    ]
