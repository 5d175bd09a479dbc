"""Compaction: the many small rows that pushes and streams leave become few, beside everybody who works.

Time: none decides anything, and no answer changes. A fold replaces rows of some entities in one short commit,
if they are all still as they were read; what others have added meanwhile stays beside it. Killed at any
moment, it has done what it has committed, and the next one goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from featurestore.store.dropping import drop
from featurestore.store.folding import THOROUGH, WHOLE, ChangedMeanwhileError, Folder, Tiers, by_bound
from featurestore.store.records import SegmentRow, StoredRow, TimelineVersion
from featurestore.store.retention import advance
from featurestore.store.snapshot import Snapshot
from featurestore.store.store import Store

# A fold aims at half of the 100 ms that a writer may hold the store.
COMMIT_S = 0.05
LEAST_ROWS, FIRST_ROWS, MOST_ROWS = 200, 4_000, 40_000
MOST_BYTES = 4_000_000
# Entities are looked at so many at a time.
LISTED = 10_000
# An entity in more rows than that is folded before all others.
HOT_ROWS = 256
# Who is always changed under the hand (by another compaction, say) is left to the next run.
LOOKS = 3

Progress = Callable[[int, int, str], None]


@dataclass
class Folded:
    """What became of one timeline version: ``entities`` that were folded, their stored rows before and
    after, and the ``versions`` in them; ``dropped`` versions that no question inside the retention sees."""

    source: str
    entity: str
    timeline_version: int
    entities: int = 0
    rows_before: int = 0
    rows_after: int = 0
    versions: int = 0
    dropped: int = 0


@dataclass
class CompactionReport:
    """What a compaction did; ``bytes_before`` and ``bytes_after`` are the store's size on the disk."""

    timelines: list[Folded] = field(default_factory=list)
    commits: int = 0
    bytes_before: int = 0
    bytes_after: int = 0

    def rows(self) -> tuple[int, int]:
        """How many stored rows were folded, and into how many."""
        return sum(one.rows_before for one in self.timelines), sum(one.rows_after for one in self.timelines)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        lines = [
            f"{one.source} by {one.entity}: {one.rows_before:,} rows of {one.entities:,} entities are "
            f"{one.rows_after:,} now ({one.versions:,} versions)"
            for one in self.timelines
            if one.rows_before
        ] or ["nothing to fold"]
        lines += [
            f"{one.source} by {one.entity}: {one.dropped:,} versions are outside the retention and dropped"
            for one in self.timelines
            if one.dropped
        ]
        lines.append(f"on disk: {_megabytes(self.bytes_before)} before, {_megabytes(self.bytes_after)} now")
        return "\n".join(lines)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


class Compactor:
    """Folds what ``tiers`` find worth it. ``rest`` is called after each commit with the seconds that it took,
    and lets others work; where it says False, the compactor ends."""

    def __init__(
        self,
        store: Store,
        tiers: Tiers,
        *,
        now: Callable[[], int],
        progress: Progress | None = None,
        rest: Callable[[float], bool] | None = None,
    ) -> None:
        self._store = store
        self._tiers = tiers
        self._now = now
        self._tell = progress or (lambda done, total, what: None)
        self._rest = rest or (lambda took_s: True)
        self._chunk_rows = FIRST_ROWS
        self._ended = False
        self.report = CompactionReport()

    def run(self) -> CompactionReport:
        """Fold the timelines that are read and written."""
        timelines = self._store.read(lambda snapshot: snapshot.timeline_versions())
        for timeline in timelines:
            if timeline.state != "retired" and not self._ended:
                self._timeline(timeline)
        return self.report

    def _timeline(self, timeline: TimelineVersion) -> None:
        done = Folded(timeline.source, timeline.entity, timeline.id)
        self.report.timelines.append(done)
        what = f"{timeline.source} by {timeline.entity}"
        looked_at, total = 0, self._store.read(lambda snapshot: snapshot.row_count(timeline.id))
        # What lies in most rows is slowest to read, so it comes first.
        for least in (max(HOT_ROWS, self._tiers.rows), self._tiers.rows):
            for keys, rows in self._entities(timeline, least):
                self._fold(timeline, keys, done)
                if self._ended:
                    return
                looked_at = min(looked_at + rows, total)
                self._tell(looked_at, total, what)
        self._tell(total, total, what)

    def _entities(self, timeline: TimelineVersion, least: int) -> Iterator[tuple[list[bytes], int]]:
        """Entities in at least so many rows, in key order: one commit's rows of neighbouring keys share
        pages. As many at a time as a commit has time for, with the rows that they lie in."""
        after: bytes | None = None
        while True:
            look = partial(_fragments, timeline_version_id=timeline.id, least=least, after=after)
            found = self._store.read(look)
            keys: list[bytes] = []
            rows = 0
            for key, count in found:
                keys.append(key)
                rows += count
                if rows >= self._chunk_rows:
                    yield keys, rows
                    keys, rows = [], 0
            if keys:
                yield keys, rows
            if len(found) < LISTED:
                return
            after = found[-1][0]

    def _fold(self, timeline: TimelineVersion, keys: Sequence[bytes], done: Folded) -> None:
        folder = Folder.of(timeline)
        for _ in range(LOOKS):
            entities = self._store.read(lambda snapshot: self._worth_it(snapshot, timeline, keys))
            try:
                for rows in _portions(entities, self._chunk_rows):
                    made = folder.fold(rows)
                    if len(made) < len(rows):
                        self._commit(timeline, rows, made, done)
                    if self._ended:
                        return
            except ChangedMeanwhileError:
                continue
            return

    def _worth_it(
        self, snapshot: Snapshot, timeline: TimelineVersion, keys: Sequence[bytes]
    ) -> list[list[StoredRow]]:
        """What is to be folded, entity by entity."""
        found: dict[bytes, list[StoredRow]] = {}
        for bound, some in by_bound(snapshot.row_sizes(timeline.id, keys), self._tiers).items():
            for row in snapshot.rows_below(timeline.id, some, bound):
                found.setdefault(row.entity_key, []).append(row)
        return [found[key] for key in sorted(found)]

    def _commit(
        self,
        timeline: TimelineVersion,
        rows: Sequence[StoredRow],
        made: Sequence[SegmentRow],
        done: Folded,
    ) -> None:
        for attempt in self._store.attempts("compact", now_us=self._now(), detail=timeline.source):
            with attempt as commit:
                began_s = time.perf_counter()
                if commit.remove_rows(timeline.id, rows) != len(rows):
                    raise ChangedMeanwhileError
                commit.append(timeline.id, made)
        took_s = time.perf_counter() - began_s
        self.report.commits += 1
        done.entities += len({row.entity_key for row in made})
        done.rows_before += len(rows)
        done.rows_after += len(made)
        done.versions += sum(row.versions for row in made)
        factor = min(2.0, max(0.25, COMMIT_S / max(took_s, 1e-4)))
        self._chunk_rows = int(min(MOST_ROWS, max(LEAST_ROWS, len(rows) * factor)))
        self._ended = not self._rest(took_s)


def _fragments(
    snapshot: Snapshot, *, timeline_version_id: int, least: int, after: bytes | None
) -> list[tuple[bytes, int]]:
    return snapshot.fragments(timeline_version_id, rows=least, after=after, limit=LISTED)


def _portions(entities: Iterable[list[StoredRow]], most_rows: int) -> Iterator[list[StoredRow]]:
    """Rows to fold in one commit each: of some entities, or some of one that has too many."""
    some: list[StoredRow] = []
    size = 0
    for rows in entities:
        # Beginning with the smallest; those of one commit lie on one page.
        for row in sorted(rows, key=lambda row: (row.versions, row.commit_number)):
            some.append(row)
            size += len(row.payload)
            if len(some) >= max(2, 2 * most_rows) or size >= MOST_BYTES:
                yield some
                some, size = [], 0
        if len(some) >= most_rows:
            yield some
            some, size = [], 0
    if some:
        yield some


def retain(
    store: Store,
    *,
    now: Callable[[], int],
    steady: bool = False,
    rest: Callable[[float], bool] = lambda took_s: True,
) -> dict[int, int]:
    """Move the horizons that views with a retention allow, and drop what nobody can ask about any more;
    returns how many versions, by timeline version. ``steady``: beside writers, only where that is much."""
    moved = advance(store, now=now, steady=steady)
    timelines = [
        one
        for one in store.read(lambda snapshot: snapshot.timeline_versions())
        if one.state != "retired" and one.floor_us is not None and (one.id in moved or not steady)
    ]
    return {one.id: drop(store, one, now=now, rest=rest) for one in timelines}


def compact(
    store: Store,
    *,
    now: Callable[[], int],
    whole: bool = False,
    progress: Progress | None = None,
) -> CompactionReport:
    """Fold what is worth it, and give back what nothing uses any more. ``whole``: fold all that lies apart,
    and write the store anew as small as it can be, while requests and writers wait."""
    before = store.size_bytes()
    dropped = retain(store, now=now)
    report = Compactor(store, WHOLE if whole else THOROUGH, now=now, progress=progress).run()
    for one in report.timelines:
        one.dropped = dropped.get(one.timeline_version, 0)
    while store.give_back(whole=whole):
        pass
    store.checkpoint()
    report.bytes_before, report.bytes_after = before, store.size_bytes()
    return report
