"""A stream's batch becomes one commit: timelines, positions, counters and dead letters together, or nothing.

Time: what a batch holds, and in what order it arrived, influences no value. The writer of timelines is that
of pushes and backfills; only positions and counters are a stream's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.kernel.versions import HASH_COLUMN
from featurestore.plan.nodes import SourcePlan
from featurestore.store.commit import Commit
from featurestore.store.dead_letters import DeadLetter, add_dead_letters, remove_dead_letter
from featurestore.store.ingest import (
    Part,
    Taken,
    parts_again,
    prepared_parts,
    registry_of,
    remember,
    row_statuses,
)
from featurestore.store.novelty import ACCEPTED, CORRECTED, DUPLICATE, FORGOTTEN, KEYLESS, LATE
from featurestore.store.positions import Slice, move
from featurestore.store.registry import Registry
from featurestore.store.seen import seen_by
from featurestore.store.snapshot import Snapshot
from featurestore.store.store import Store

I64 = NDArray[np.int64]

COUNTED = {
    ACCEPTED: "accepted",
    CORRECTED: "corrected",
    DUPLICATE: "duplicate",
    LATE: "late",
    KEYLESS: "keyless",
    FORGOTTEN: "forgotten",
}


@dataclass(frozen=True)
class StreamBatch:
    """Messages of some partitions of one source's topic, read and judged.

    ``timelines`` are the versions that it is applied to; they all stand where the slices begin. ``table`` has
    the canonical rows, ``message`` int64[rows] the message that each is from, ``slice_of`` int64[messages]
    the slice of each message. ``ignored`` int64[slices] counts offsets that are no row: tombstones, the
    broker's own records, offsets that hold nothing. ``catching_up``: these timelines are behind the others.
    """

    plan: SourcePlan
    timelines: frozenset[int]
    slices: Sequence[Slice]
    table: pa.Table
    message: I64
    slice_of: I64
    dead: Sequence[DeadLetter]
    ignored: I64
    catching_up: bool = False


@dataclass(frozen=True)
class StreamCommit:
    """What became of a batch's messages, by the partition's name, and the commit that holds them."""

    number: int
    counts: Mapping[str, Mapping[str, int]]


def commit_batch(store: Store, batch: StreamBatch, now_us: int) -> StreamCommit:
    """Write a batch in one commit; FencedError, and nothing is written, where a partition was lost."""
    plan, table = batch.plan, batch.table

    def prepare(snapshot: Snapshot) -> tuple[Registry, Taken, list[Part], int]:
        registry = registry_of(store, snapshot)
        taken = Taken.of(table, plan, registry)
        parts = prepared_parts(registry, plan, taken, snapshot, batch.timelines, seen_by(store))
        return registry, taken, parts, snapshot.commit_number

    registry, taken, prepared, seen = store.read(prepare)
    # Where the database has kept the first attempt after all, the second finds the positions moved.
    for attempt in store.attempts("stream", now_us=now_us, detail=plan.name):
        with attempt as commit:
            if commit.number != seen + 1:
                taken, prepared = parts_again(
                    store, registry, plan, table, taken, prepared, commit, batch.timelines
                )
            move(commit, plan.name, batch.timelines, batch.slices)
            for part in prepared:
                part.append(commit)
            add_dead_letters(commit, batch.dead)
            counts = _counts(batch, _statuses(prepared, taken, table.num_rows))
            _count(commit, batch, counts)
            number = commit.number
    remember(store, number, prepared)
    return StreamCommit(number, counts)


def commit_letters(
    store: Store,
    plan: SourcePlan,
    table: pa.Table,
    message: I64,
    letters: Sequence[DeadLetter],
    dead: Collection[int],
    now_us: int,
) -> dict[str, int]:
    """Write the rows of dead letters that can be read now: ``message`` int64[rows] says of which. They are
    dead letters no more, and are counted as what they are instead; those in ``dead`` stay."""
    with store.snapshot() as snapshot:
        registry = registry_of(store, snapshot)
        taken = Taken.of(table, plan, registry)
        prepared = prepared_parts(registry, plan, taken, snapshot)
        seen = snapshot.commit_number
    total: Counter[str] = Counter()
    with store.commit("dead letters", now_us=now_us, detail=plan.name) as commit:
        if commit.number != seen + 1:
            taken, prepared = parts_again(store, registry, plan, table, taken, prepared, commit)
        for part in prepared:
            part.append(commit)
        status = _statuses(prepared, taken, table.num_rows)
        best = _best(message, status, len(letters))
        for number, letter in enumerate(letters):
            # Another retry may have been first.
            if number in dead or not remove_dead_letter(commit, letter.letter_key):
                continue
            became = COUNTED.get(int(best[number]), "ignored")
            total[became] += 1
            partition = f"{letter.topic}/{letter.partition}"
            commit.count(plan.name, partition, {became: 1, "dead_lettered": -1})
    return dict(total)


def without_forgotten(store: Store, plan: SourcePlan, table: pa.Table) -> tuple[pa.Table, I64]:
    """Rows as an archive may hold them, without what is forgotten; and which of the given ones they are."""
    taken = store.read(lambda snapshot: Taken.of(table, plan, registry_of(store, snapshot)))
    rows = taken.kept.rows
    left = taken.arrivals(plan)
    if HASH_COLUMN in left.column_names:
        left = left.drop_columns([HASH_COLUMN])
    return left, np.arange(table.num_rows) if rows is None else rows


def _statuses(prepared: Sequence[Part], taken: Taken, rows: int) -> NDArray[np.int8]:
    """What each row is, those that are forgotten too."""
    status, _ = row_statuses(prepared, taken.table.num_rows)
    if taken.kept.marked is not None:
        status[taken.kept.marked] = FORGOTTEN
    if taken.kept.rows is None:
        return status
    of_all = np.full(rows, FORGOTTEN, np.int8)
    of_all[taken.kept.rows] = status
    return of_all


def _best(message: I64, status: NDArray[np.int8], messages: int) -> NDArray[np.int8]:
    """What each message is: the most that its rows are, beyond all where it has none."""
    best = np.full(messages, len(COUNTED), np.int8)
    np.minimum.at(best, message, status)
    return best


def _counts(batch: StreamBatch, status: NDArray[np.int8]) -> dict[str, dict[str, int]]:
    """What became of each slice's messages; a message of several rows counts as the most that they are."""
    best = _best(batch.message, status, len(batch.slice_of))
    dead = Counter((one.topic, one.partition) for one in batch.dead)
    made = {}
    for i, one in enumerate(batch.slices):
        numbers = np.bincount(best[batch.slice_of == i], minlength=len(COUNTED) + 1).tolist()
        counts = {what: numbers[code] for code, what in COUNTED.items()}
        counts["dead_lettered"] = dead[one.topic, one.partition]
        counts["ignored"] = int(batch.ignored[i])
        counts["delivered"] = one.next - one.first
        # Law 6, before it is written.
        assert sum(n for what, n in counts.items() if what != "delivered") == counts["delivered"], counts
        made[one.name] = counts
    return made


def _count(commit: Commit, batch: StreamBatch, counts: Mapping[str, Mapping[str, int]]) -> None:
    # Those that catch up have read these messages on their own: they are counted on their own.
    suffix = f"@{min(batch.timelines)}" if batch.catching_up else ""
    for partition, of_partition in counts.items():
        commit.count(batch.plan.name, f"{partition}{suffix}", of_partition)
