"""How forgotten facts leave one timeline version, and one push: what is to be written, found before a commit.

Time: an event goes wholly; of a change of a table's row there stays, where others may need it, when and at
what position it ends the change before it. A stored row that somebody else has rewritten meanwhile is
looked at again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.dtypes import parse
from featurestore.kernel.changes import OPERATION_COLUMN, UPSERT
from featurestore.kernel.content import content_hash
from featurestore.kernel.versions import HASH_COLUMN, NEVER, instants, single
from featurestore.plan.nodes import SourcePlan
from featurestore.store.changes import HASH, NO_ENTITY, ChangeLayout, hash_array, is_table, markers
from featurestore.store.commit import Commit
from featurestore.store.delivery import Layout
from featurestore.store.entity_key import encode_keys
from featurestore.store.forgotten import (
    Gone,
    entity_column,
    key_columns,
    with_known_hashes,
    without_content,
)
from featurestore.store.payload import (
    decode_arrivals,
    encode_arrivals,
    encode_runs,
    entry_commits,
    is_folded,
    reader,
)
from featurestore.store.placement import runs
from featurestore.store.reach import own_keys
from featurestore.store.records import DELTA_LEVEL, SegmentRow, StoredRow, TimelineVersion
from featurestore.store.store import Store

I64 = NDArray[np.int64]
Bools = NDArray[np.bool_]

# A hundred versions an entity: 100,000 are read and searched in some 50 ms, outside of any commit.
ENTITIES_A_STEP = 1_000
# Rows of a table that leave one entity's timeline in one commit.
ROWS_A_COMMIT = 5_000


@dataclass(frozen=True)
class Found:
    """A step of a search: ``done`` of ``total`` entities are searched, and ``write`` erases, inside a commit,
    what it found (None: nothing); it returns what it erased."""

    done: int
    total: int
    write: Callable[[Commit], dict[str, int]] | None = None


class TimelineEraser:
    """What is ``gone`` of one timeline version; ``clear`` is the key itself as a table of one row, where it
    is known: then an entity's own timeline need not be searched for."""

    def __init__(self, store: Store, timeline: TimelineVersion, gone: Gone, clear: pa.Table | None) -> None:
        self._store = store
        self._timeline = timeline
        self._gone = gone
        self._clear = clear
        self._own = own_keys(timeline)
        self._changes = ChangeLayout.of(timeline) if is_table(timeline) else None
        self._layout = self._changes or Layout.of(timeline)
        self._reader = reader(self._layout.stored)

    def steps(self) -> Iterator[Found]:
        """Search and erase; each step's ``write`` is to be called before the next step is asked for."""
        with self._store.snapshot() as snapshot:
            total = snapshot.entity_count(self._timeline.id)
        whole = self._gone.columns <= set(self._own) and not (self._changes and self._gone.dropping)
        if whole:
            for keys, done in self._entities(total):
                for key in self._forgotten_entities(keys):
                    yield from self._leave(key, done, total)
                yield Found(done, total)
        elif self._clear is not None and self._gone.columns == set(self._own):
            # Rows that nobody has owned stand under the empty key.
            while (write := self._rewritten([NO_ENTITY, self._own_key()])) is not None:
                yield Found(1, 1, write)
        else:
            for keys, done in self._entities(total):
                while (write := self._rewritten(keys)) is not None:
                    yield Found(done, total, write)
                yield Found(done, total)
        if self._changes is not None and self._gone.dropping and self._clear is not None:
            yield Found(total, total, self._nameless())

    def _entities(self, total: int) -> Iterator[tuple[list[bytes], int]]:
        if self._gone.columns == set(self._own) and self._clear is not None:
            yield [self._own_key()], total
            return
        yield [NO_ENTITY], 0
        after, done = b"", 0
        while True:
            with self._store.snapshot() as snapshot:
                keys = snapshot.entity_keys(self._timeline.id, after=after, limit=ENTITIES_A_STEP)
            if not keys:
                return
            after, done = keys[-1], done + len(keys)
            yield keys, done

    def _own_key(self) -> bytes:
        assert self._clear is not None
        dtypes = [parse(self._timeline.columns[name]) for name in self._own]
        return encode_keys([single(self._clear, name) for name in self._own], dtypes)[0]

    def _forgotten_entities(self, keys: Sequence[bytes]) -> list[bytes]:
        columns = {name: entity_column(self._timeline, keys, name) for name in self._gone.columns}
        gone = self._gone.dropped(columns, len(keys)) | self._gone.marked(columns, len(keys))
        return [keys[i] for i in np.flatnonzero(gone).tolist()]

    # An entity of its own

    def _leave(self, key: bytes, done: int, total: int) -> Iterator[Found]:
        """An entity's timeline goes; a table's rows stay in the others that they have been in."""
        timeline = self._timeline.id
        left = True

        def remove(commit: Commit) -> dict[str, int]:
            nonlocal left
            left = False
            if self._changes is not None and self._rows_leave(commit, self._changes, key):
                left = True
                return {}
            payloads = commit.read(timeline, [key]).get(key, [])
            versions = int(self._reader.read(payloads)[1].sum())
            return {"timelines": int(commit.remove_entity(timeline, key) > 0), "facts": versions}

        while left:
            yield Found(done, total, remove)
        if self._changes is None:
            return
        with self._store.snapshot() as snapshot:
            registered = snapshot.rows_in(timeline, key)
        for first in range(0, len(registered), ROWS_A_COMMIT):
            some = registered[first : first + ROWS_A_COMMIT]

            def unregister(commit: Commit, some: Sequence[bytes] = some) -> dict[str, int]:
                commit.leave_timelines(timeline, some, key)
                return {}

            yield Found(done, total, unregister)

    def _rows_leave(self, commit: Commit, layout: ChangeLayout, key: bytes) -> bool:
        """Take the next rows out of an entity's timeline; whether there were any.

        What ends a row's changes must not be lost: a row that has been in no other entity's timeline goes to
        that of the empty key, all its changes as markers.
        """
        timeline = self._timeline.id
        table, _ = self._reader.read(commit.read(timeline, [key]).get(key, []))
        encoded = hash_array(content_hash(table, layout.primary_key)).dictionary_encode()
        row_keys = encoded.dictionary.to_pylist()
        in_timelines = commit.identities(timeline, row_keys)
        here = [row for row in row_keys if key in in_timelines.get(row, ())][:ROWS_A_COMMIT]
        if not here:
            return False
        homeless = [row for row in here if not set(in_timelines[row]) - {key, NO_ENTITY}]
        if homeless:
            rows = pa.array(homeless, HASH)
            of_them = pc.is_in(encoded.dictionary, value_set=rows).take(encoded.indices)
            ending = table.filter(of_them)
            ending = markers(ending, layout, np.ones(ending.num_rows, np.bool_))
            nobody = np.zeros(ending.num_rows, np.int64)
            commit.append(timeline, runs(ending, nobody, [NO_ENTITY], layout, DELTA_LEVEL))
            new = [row for row in homeless if NO_ENTITY not in in_timelines[row]]
            commit.add_identities(timeline, [(row, NO_ENTITY) for row in new])
        commit.leave_timelines(timeline, here, key)
        return True

    # Others' timelines

    def _rewritten(self, keys: Sequence[bytes]) -> Callable[[Commit], dict[str, int]] | None:
        """What has to be written for the timelines of ``keys`` to hold nothing that is gone."""
        with self._store.snapshot() as snapshot:
            there = snapshot.stored_rows(self._timeline.id, keys)
        if not there:
            return None
        payloads = [row.payload for row in there]
        table, counts = self._reader.read(payloads)
        entered = entry_commits(payloads, counts, np.array([row.commit_number for row in there], np.int64))
        number = {key: i for i, key in enumerate(keys)}
        owner = np.repeat(np.array([number[row.entity_key] for row in there], np.int64), counts)
        columns = key_columns(self._timeline, self._gone.columns, keys, owner, table)
        gone = self._gone.dropped(columns, table.num_rows)
        marked = np.zeros(table.num_rows, np.bool_)
        if self._changes is not None:
            upsert = instants(single(table, OPERATION_COLUMN), null=UPSERT) == UPSERT
            marked = self._gone.marked(columns, table.num_rows) & upsert
        touched = gone | marked
        if not touched.any():
            return None
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        chosen = np.flatnonzero(np.diff(np.concatenate([[0], np.cumsum(touched)])[offsets]))
        pairs = [
            (there[i], self._segment(there[i], table, entered, offsets[i : i + 2].tolist(), gone, marked))
            for i in chosen.tolist()
        ]
        row_keys: list[bytes] = []
        if self._changes is not None and gone.any():
            dropped = table.filter(pa.array(gone))
            row_keys = hash_array(content_hash(dropped, self._changes.primary_key)).unique().to_pylist()
        facts = int(touched.sum())

        def write(commit: Commit) -> dict[str, int]:
            # A row that is no longer what was read is found again by the next look at these entities.
            done = [commit.rewrite(self._timeline.id, before, after) for before, after in pairs]
            commit.leave_timelines(self._timeline.id, row_keys)
            return {"facts": facts if all(done) else 0}

        return write

    def _segment(
        self,
        before: StoredRow,
        table: pa.Table,
        entered: I64,
        span: Sequence[int],
        gone: Bools,
        marked: Bools,
    ) -> SegmentRow | None:
        first, end = span
        part, stays = table.slice(first, end - first), ~gone[first:end]
        if self._changes is not None:
            part = markers(part, self._changes, marked[first:end])
        part = part.filter(pa.array(stays))
        if not part.num_rows:
            return None
        by = self._changes.changed_at if self._changes is not None else Layout.of(self._timeline).event_time
        start = int(instants(single(part, by), null=NEVER).min())
        # The commits at which the others entered stay what they are.
        commits = entered[first:end][stays] if is_folded(before.payload) else None
        (payload,) = encode_runs(part, np.array([0, part.num_rows], np.int64), commits)
        return SegmentRow(before.entity_key, before.level, start, part.num_rows, payload)

    def _nameless(self) -> Callable[[Commit], dict[str, int]] | None:
        """A row may be in the index before any of its changes is stored, where a backfill was killed."""
        layout, clear = self._changes, self._clear
        assert layout is not None and clear is not None
        if set(layout.primary_key) != self._gone.columns:
            return None
        row_keys = hash_array(content_hash(clear, layout.primary_key)).to_pylist()

        def write(commit: Commit) -> dict[str, int]:
            commit.leave_timelines(self._timeline.id, row_keys)
            return {}

        return write


def erased_push(
    payload: bytes, gone: Gone, timeline: TimelineVersion, plan: SourcePlan | None
) -> tuple[bytes, int] | None:
    """A push, or any file of facts in the form of one, without what is gone, and how many rows that were;
    None where nothing is. Events are left out; of a table's changes there stays what a marker has.

    ``timeline`` is one of the source's, ``plan`` the source as it is applied, for what counts as content.
    """
    table = decode_arrivals(payload)
    columns = dict(zip(table.column_names, table.columns, strict=True))
    dropped = gone.dropped(columns, table.num_rows)
    if is_table(timeline):
        marked = gone.marked(columns, table.num_rows) & ~dropped
        if marked.any():
            layout = ChangeLayout.of(timeline)
            if HASH_COLUMN not in table.column_names:
                nothing = pa.nulls(table.num_rows, pa.binary(16))
                table = table.append_column(HASH_COLUMN, nothing)
            of_source = set(timeline.columns) - {layout.available_at} if plan is None else plan.roles.content
            content = [name for name in (*of_source, OPERATION_COLUMN) if name in columns]
            _, hashes = with_known_hashes(table, list(dict.fromkeys(content)))
            table = without_content(table, hashes, marked, layout.identifying)
    else:
        marked = np.zeros(table.num_rows, np.bool_)
    rows = int((dropped | marked).sum())
    if not rows:
        return None
    return encode_arrivals(table.filter(pa.array(~dropped)) if dropped.any() else table), rows
