"""Dropping: events that no question inside the retention can see leave the store.

Time: an event goes when all of its versions happened before the floor of its timeline version, which was
moved in a commit before: whoever could still ask about it is refused by then. A row is written anew when a
good part of it goes; what stays of it is of no use and does no harm. Of each entity one event stays, to tell
that there was one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.kernel.versions import NEVER, instants, single
from featurestore.store.delivery import Layout, facts_of, identities
from featurestore.store.folding import ChangedMeanwhileError, Folder
from featurestore.store.payload import reader
from featurestore.store.records import StoredRow, TimelineVersion
from featurestore.store.snapshot import Snapshot
from featurestore.store.store import Store

I64 = NDArray[np.int64]
Bools = NDArray[np.bool_]

# A quarter of a row's versions, at least, or all of it.
WORTH = 0.25
# Entities that are looked at, and written, at a time; fewer where their timelines are long.
ENTITIES, VERSIONS = 500, 100_000
LOOKS = 3


def drop(
    store: Store,
    timeline: TimelineVersion,
    *,
    now: Callable[[], int],
    rest: Callable[[float], bool] = lambda took_s: True,
) -> int:
    """Drop what is before the floor of a timeline version of events; returns how many versions that were.
    ``rest`` is told the seconds that each commit took; where it says False, all else is left to the next
    time."""
    assert timeline.floor_us is not None
    floor_us, dropped = timeline.floor_us, 0
    after: bytes | None = None
    while True:
        keys = store.read(_older(timeline.id, floor_us, after))
        if not keys:
            return dropped
        for some in _portions(store, timeline, keys):
            began_s = time.perf_counter()
            dropped += _drop(store, timeline, some, now)
            if not rest(time.perf_counter() - began_s):
                return dropped
        after = keys[-1]


def _older(timeline_version_id: int, floor_us: int, after: bytes | None) -> Callable[[Snapshot], list[bytes]]:
    return lambda snapshot: snapshot.entities_before(
        timeline_version_id, floor_us, after=after, limit=ENTITIES
    )


def _portions(store: Store, timeline: TimelineVersion, keys: Sequence[bytes]) -> list[list[bytes]]:
    sizes: dict[bytes, int] = dict.fromkeys(keys, 0)
    for key, versions in store.read(lambda snapshot: snapshot.row_sizes(timeline.id, keys)):
        sizes[key] += versions
    made: list[list[bytes]] = [[]]
    size = 0
    for key in keys:
        if made[-1] and size + sizes[key] > VERSIONS:
            made.append([])
            size = 0
        made[-1].append(key)
        size += sizes[key]
    return made


def _drop(store: Store, timeline: TimelineVersion, keys: Sequence[bytes], now: Callable[[], int]) -> int:
    layout, folder = Layout.of(timeline), Folder.of(timeline)

    def look(snapshot: Snapshot) -> tuple[list[StoredRow], int]:
        most = np.iinfo(np.int64).max
        return snapshot.rows_below(timeline.id, keys, int(most)), snapshot.commit_number

    for _ in range(LOOKS):
        there, seen = store.read(look)
        rows, stays, dropped = _worth_it(there, timeline, layout)
        if not rows:
            return 0
        made = folder.fold(rows, stays) if stays.any() else []
        try:
            for attempt in store.attempts("retention", now_us=now(), detail=timeline.source):
                with attempt as commit:
                    # A version that has come meanwhile may be of an event that was to be dropped.
                    if commit.newer(timeline.id, keys, after=seen):
                        raise ChangedMeanwhileError
                    if commit.remove_rows(timeline.id, rows) != len(rows):
                        raise ChangedMeanwhileError
                    commit.append(timeline.id, made)
            return dropped
        except ChangedMeanwhileError:
            continue
    return 0


def _worth_it(
    rows: Sequence[StoredRow], timeline: TimelineVersion, layout: Layout
) -> tuple[list[StoredRow], Bools, int]:
    """The rows to write anew, which of their versions stay, and how many do not."""
    table, counts = reader(layout.stored).read([row.payload for row in rows])
    number = {key: i for i, key in enumerate(sorted({row.entity_key for row in rows}))}
    entity = np.repeat(np.array([number[row.entity_key] for row in rows], np.int64), counts)
    gone = _gone(table, entity, timeline, layout)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    of_row = np.diff(np.concatenate([[0], np.cumsum(gone)])[offsets])
    chosen = (of_row > 0) & (of_row >= WORTH * counts)
    within = np.repeat(chosen, counts)
    left = [rows[i] for i in np.flatnonzero(chosen).tolist()]
    return left, ~gone[within], int(of_row[chosen].sum())


def _gone(table: pa.Table, entity: I64, timeline: TimelineVersion, layout: Layout) -> Bools:
    """The versions that go: of identities that happened before the floor, all but one in each entity.

    That one, which everybody knew before the horizon, says what any of the others said: that there was a
    known fact of the entity. Where there is none like it, all stay.
    """
    assert timeline.floor_us is not None and timeline.horizon_us is not None
    event_time = instants(single(table, layout.event_time), null=NEVER)
    facts = facts_of(table, layout)
    old = event_time < timeline.floor_us
    alone = old.copy()
    gone = old
    if layout.has_id:
        pairs = identities(entity, facts.identity)
        _, group, versions = np.unique(pairs, return_inverse=True, return_counts=True)
        # A retraction without event time goes with its event.
        recent = np.zeros(len(versions), np.bool_)
        recent[group[~old & (event_time != NEVER)]] = True
        named = np.zeros(len(versions), np.bool_)
        named[group[old]] = True
        gone = (named & ~recent)[group]
        alone &= versions[group] == 1
    deleted = timeline.roles["deleted"]
    if isinstance(deleted, str) and deleted in table.column_names:
        alone &= ~pc.fill_null(single(table, deleted), False).to_numpy(zero_copy_only=False)
    tells = np.flatnonzero(gone & alone & (facts.available < timeline.horizon_us))
    # The latest of each entity.
    tells = tells[np.lexsort((event_time[tells], entity[tells]))]
    last = tells[np.append(entity[tells][1:] != entity[tells][:-1], True)] if len(tells) else tells
    told = np.zeros(int(entity.max(initial=-1)) + 1, np.bool_)
    told[entity[last]] = True
    gone = gone & told[entity]
    gone[last] = False
    return gone
