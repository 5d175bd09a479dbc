"""Filling one timeline version of a table with the changes that its log holds, and those that were pushed
before it existed.

Time: a timeline holds all changes, whatever ``known_at``. Each commit writes all that is new of some rows, so
that a row is never half moved; what is killed is begun again and adds only what is not there.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NoReturn

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.batch.filled import SHOWN, Filled
from featurestore.batch.parts import PART_BYTES, PART_ROWS, Rejected, estimated_rows
from featurestore.batch.spans import ARRIVALS, SNAPSHOTS, standing
from featurestore.batch.timeline_fill import ARRIVALS_ROWS, MOST_CHUNK_ROWS, TimelineFill
from featurestore.dsl.table_source import TableSource
from featurestore.dtypes import BOOL, INT64, date_text
from featurestore.kernel.changes import CLAIM_COLUMN, OPERATION_COLUMN
from featurestore.kernel.content import content_hash
from featurestore.log import snapshots
from featurestore.log.change_columns import snapshot_date
from featurestore.log.changes import Changes, read_changes
from featurestore.log.files import LogFile, list_files
from featurestore.log.origins import Origins, Place
from featurestore.store import SEGMENT_LEVEL, LoadedFile
from featurestore.store.arrivals import arrived_versions, last_arrival_before
from featurestore.store.changes import ChangeLayout, Delivered, taken_apart
from featurestore.store.conflicts import Conflict, conflicts_of, refused
from featurestore.store.forgotten import kept, read_forgotten
from featurestore.store.placement import distinct, placement

I64 = NDArray[np.int64]

# In these formats a change is told by its own record, so a file can be read without the others.
ALONE = ("flat", "debezium")

# 20,000 entries of the index, in its order, take some 50 ms to look for and to write.
REGISTERED_ROWS = 20_000


class SnapshotsChangedError(Exception):
    """What a version holds are the differences between other snapshots than the log's now: it can't go on."""


@dataclass
class _Part:
    """Changes to write together: those of ``files``, which are whole with it, or of arrivals up to a
    number."""

    tables: list[pa.Table] = field(default_factory=list)
    rows: int = 0
    bytes: int = 0
    rejected: int = 0
    ignored: int = 0
    dropped: int = 0
    shown: list[Rejected] = field(default_factory=list)
    origins: Origins = field(default_factory=Origins)
    files: list[tuple[LogFile, int]] = field(default_factory=list)
    last_arrival: int = 0

    @property
    def full(self) -> bool:
        return self.rows >= PART_ROWS or self.bytes >= PART_BYTES


class ChangeFill(TimelineFill):
    """One timeline version of a table being filled."""

    # Of snapshots, what tells the log that their changes are derived from.
    _of_log: str | None = None

    @cached_property
    def _layout(self) -> ChangeLayout:
        return ChangeLayout.of(self._timeline)

    @property
    def _declared(self) -> TableSource:
        assert self._plan.source.changes is not None
        return self._plan.source.changes.declared

    @property
    def _alone(self) -> bool:
        return self._declared.format in ALONE

    def run(self) -> Filled:
        with self._store.snapshot() as snapshot:
            loaded = snapshot.loaded_files(self._timeline.id)
            progress = snapshot.progress(self._timeline.id)
            self._arrived = standing(progress).arrivals
            self._last_arrival = last_arrival_before(snapshot, self._timeline.created_commit)
            forgotten, source = read_forgotten(snapshot), self._plan.source
            self._gone = forgotten.of(source.name, source.identity)
            self._forgetting = forgotten.standing
        log = self._plan.source.log
        files = [] if log is None else list(list_files(log, self._root))
        with ThreadPoolExecutor(1, thread_name_prefix="hash") as hashing:
            self._hashes = {file.shown: hashing.submit(file.sha256) for file in files}
            if self._declared.format == "snapshots":
                self._check_snapshots(
                    files, loaded, [part for part in progress if part.startswith(SNAPSHOTS)]
                )
            todo = self._todo(files, loaded)
            self._total_rows = sum(estimated_rows(file) for file in todo)
            for part in self._parts(todo):
                self._write(part)
        self.report.removed = sorted(loaded.keys() - {file.shown for file in files})
        return self.report

    def _check_snapshots(
        self, files: Sequence[LogFile], loaded: dict[str, LoadedFile], begun: Sequence[str]
    ) -> None:
        """Changes are derived from each snapshot and the one before it. So those that are there stay right
        only where all that is new is after them; and those of a run that was killed, only in the same log.

        A file that was removed or written anew takes no fact away: it is reported, like that of any log.
        """
        hashes = {file.shown: self._hashes[file.shown].result() for file in files}
        self._of_log = SNAPSHOTS + hashlib.sha256(repr(sorted(hashes.items())).encode()).hexdigest()
        if any(part != self._of_log for part in begun):
            raise SnapshotsChangedError("snapshots changed since a backfill of them was cut off")
        for file in files:
            was = loaded.get(file.shown)
            if (
                was is not None
                and file.size > was.size
                and replace(file, size=was.size).sha256() == was.sha256
            ):
                raise SnapshotsChangedError(f"{file.shown} has grown since it was loaded")
        if not loaded or all(file.shown in loaded for file in files):
            return
        days = snapshots.days_of(self._declared, self._plan.source.schema, self._root, files)
        newest = max(
            (day for day, of in days.items() if any(one.shown in loaded for one in of)), default=None
        )
        late = [day for day, of in days.items() if any(one.shown not in loaded for one in of)]
        if newest is not None and late and min(late) <= newest:
            shown = f"{snapshot_date(self._declared)}={date_text(newest)}"
            raise SnapshotsChangedError(f"snapshots up to {shown} changed")

    def _todo(self, files: Sequence[LogFile], loaded: dict[str, LoadedFile]) -> list[LogFile]:
        todo = []
        for file in files:
            known = loaded.get(file.shown)
            if known is not None and known.sha256 == self._hashes[file.shown].result():
                self.report.unchanged += 1
                continue
            if known is not None:
                self.report.changed.append(file.shown)
            todo.append(file)
        if todo and not self._alone:
            self.report.unchanged = 0
            return list(files)
        return todo

    def _parts(self, todo: Sequence[LogFile]) -> Iterator[_Part]:
        part = _Part()
        if todo:
            source = self._plan.source
            current: LogFile | None = None
            rows: Counter[str] = Counter()
            left = {file.shown: file for file in todo}
            for changes in read_changes(
                self._declared, self._plan.entity.keys, source.schema, self._root, todo
            ):
                file = changes.file
                if self._alone and current is not None and file is not None and file.shown != current.shown:
                    part.files.append((left.pop(current.shown), rows[current.shown]))
                if part.full:
                    yield part
                    part = _Part()
                current = file
                rows[file.shown if file else ""] += self._take(part, changes)
            part.files += [(file, rows[file.shown]) for file in left.values()]
            yield part
        while self._arrived < self._last_arrival:
            yield self._arrivals()

    def _take(self, part: _Part, changes: Changes) -> int:
        part.tables.append(changes.with_claims())
        part.bytes += changes.table.nbytes
        part.origins.add_changes(changes, self._plan.source.name)
        part.rejected += changes.rejected_count
        part.ignored += changes.ignored
        path = changes.file.shown if changes.file else self._plan.source.name
        part.shown += [
            Rejected(path, row + 1, why) for row, why in changes.rejected[: SHOWN - len(part.shown)]
        ]
        rows = changes.table.num_rows + changes.rejected_count + changes.ignored
        part.rows += rows
        return int(rows)

    def _arrivals(self) -> _Part:
        first = self._arrived
        schema = {**self._plan.source.schema, OPERATION_COLUMN: INT64, CLAIM_COLUMN: BOOL}
        with self._store.snapshot() as snapshot:
            found = snapshot.arrivals(self._plan.source.name, after=first, up_to=self._last_arrival)
        part = _Part(last_arrival=self._last_arrival)
        for arrival in found:
            if part.rows >= ARRIVALS_ROWS:
                part.last_arrival = arrival.first_number - 1
                break
            table = arrived_versions(arrival.payload, schema, hashes=True)
            part.tables.append(table)
            part.origins.add_push(arrival.first_number, arrival.rows, table.num_rows)
            part.rows += arrival.rows
        return part

    # Writing a part

    def _write(self, part: _Part) -> None:
        source = self._plan.source
        own = ((OPERATION_COLUMN, pa.int64()), (CLAIM_COLUMN, pa.bool_()))
        table = pa.schema([*((name, dtype.arrow) for name, dtype in source.columns), *own]).empty_table()
        if part.tables:
            table = pa.concat_tables(part.tables, promote_options="default").combine_chunks()
        part.tables.clear()
        left = kept(table, self._gone, source.roles.content, is_table=True)
        part.dropped = left.dropped
        part.origins.keep(left.rows)
        hashes = left.hashes if left.hashes is not None else content_hash(left.table, source.roles.content)
        delivered = taken_apart(left.table, hashes, source, self._layout, left.marked)
        order, cuts = by_home(delivered)
        if self._strict:
            self._check(part, delivered, order, cuts)
        if len(order) > self._chunk_rows:
            self._register(delivered)
        first = 0
        while True:
            end = _cut_after(cuts, first + self._chunk_rows, len(order))
            chunk = _chunk(delivered, order[first:end], with_truncates=first == 0)
            where = _where(part, delivered, order[first:end])
            self._commit(part, chunk, where, is_first=first == 0, is_last=end >= len(order))
            self._tell(self._done_rows + end, max(self._total_rows, self._done_rows + part.rows), self._what)
            first = end
            if first >= len(order):
                break
        self._done_rows += part.rows

    def _check(self, part: _Part, delivered: Delivered, order: I64, cuts: I64) -> None:
        """Refuse a part with rejected rows or conflicts before anything of it is written."""
        if part.rejected:
            raise refused(
                self._plan.source.name,
                rejected=[row.text() for row in part.shown],
                count=part.rejected,
                written=self.report.what_is_written(),
            )
        found: list[Conflict] = []
        count = first = 0
        with self._store.snapshot() as snapshot:
            while first < len(order):
                end = _cut_after(cuts, first + MOST_CHUNK_ROWS, len(order))
                chunk = _chunk(delivered, order[first:end], with_truncates=False)
                made = placement(chunk, self._layout, self._timeline.id, snapshot, level=SEGMENT_LEVEL)
                count += len(made.conflicting)
                found += conflicts_of(made, self._layout, _where(part, delivered, order[first:end]))
                first = end
        if count:
            self._refuse(found, count)

    def _refuse(self, conflicts: Sequence[Conflict], count: int) -> NoReturn:
        raise refused(
            self._plan.source.name,
            conflicts=conflicts[:SHOWN],
            count=count,
            written=self.report.what_is_written(),
        )

    def _register(self, delivered: Delivered) -> None:
        """Put rows that the store has never seen into the index, in the index's own order, before their
        changes.

        The index is by row and the changes are written by entity: entries in that order would each rewrite a
        page. A row without changes is in its timelines whether they hold anything or not.
        """
        row_keys, entity_keys = pairs_by_row(delivered)
        first = 0
        while first < len(row_keys):
            end = min(first + REGISTERED_ROWS, len(row_keys))
            while end < len(row_keys) and row_keys[end] == row_keys[end - 1]:
                end += 1
            some = row_keys[first:end]
            for attempt in self._attempts():
                with attempt as commit:
                    self._check_forgotten(commit)
                    there: Mapping[bytes, Sequence[bytes]] = {}
                    if commit.has_identities(self._timeline.id, first=some[0], last=some[-1]):
                        there = commit.identities(self._timeline.id, list(dict.fromkeys(some)))
                    pairs = zip(some, entity_keys[first:end], strict=True)
                    commit.add_identities(self._timeline.id, [pair for pair in pairs if pair[0] not in there])
            first = end

    def _commit(
        self, part: _Part, chunk: Delivered, where: Callable[[int], Place], *, is_first: bool, is_last: bool
    ) -> None:
        timeline, layout = self._timeline.id, self._layout
        with self._store.snapshot() as snapshot:
            seen = snapshot.commit_number
            made = placement(chunk, layout, timeline, snapshot, level=SEGMENT_LEVEL)
        for attempt in self._attempts():
            with attempt as commit:
                began_s = time.perf_counter()
                if commit.number != seen + 1:
                    self._check_forgotten(commit)
                    with self._store.snapshot() as snapshot:
                        self._check_state(snapshot)
                    made = placement(chunk, layout, timeline, commit, level=SEGMENT_LEVEL)
                conflicts = conflicts_of(made, layout, where)
                if self._strict and conflicts:  # pushed since the part was looked through
                    self._refuse(conflicts, len(made.conflicting))
                made.write(commit, timeline)
                counts = Counter(made.counts())
                if is_first:
                    counts.update(rejected=part.rejected, ignored=part.ignored, forgotten=part.dropped)
                counts["delivered"] = counts.total()
                partition = self._partition("arrivals" if part.last_arrival else "log")
                commit.count(self._plan.source.name, partition, counts)
                if self._of_log is not None and not part.last_arrival:
                    if is_last and part.files:
                        commit.finish_part(timeline, self._of_log)
                    else:
                        commit.progress(timeline, self._of_log, done=0, total=0)
                if is_last:
                    for file, rows in part.files:
                        sha256 = self._hashes[file.shown].result()
                        commit.file_loaded(
                            timeline, LoadedFile(file.shown, sha256, file.size, rows, commit.number)
                        )
                    if part.last_arrival:
                        commit.progress(timeline, ARRIVALS, done=part.last_arrival, total=part.last_arrival)
        took_s = time.perf_counter() - began_s
        if is_last and part.last_arrival:
            self._arrived = part.last_arrival
        self.report.conflicts += conflicts[: SHOWN - len(self.report.conflicts)]
        self.report.updates_of_unseen_rows += made.unseen
        loaded = [file.shown for file, _ in part.files] if is_last else []
        self._count(counts, part.shown, loaded, is_first=is_first)
        self._pace(len(chunk.rows), took_s)


def by_home(delivered: Delivered) -> tuple[I64, I64]:
    """The changes in such an order that those of a row stand together, and rows of one entity beside each
    other: a chunk of them adds one run to most timelines. And where it may be cut: before the first change of
    each row."""
    changes = delivered.changes
    row = changes.row_key.dictionary_encode().indices.to_numpy(zero_copy_only=False).astype(np.int64)
    rows = int(row.max()) + 1 if len(row) else 0
    place = np.empty(len(changes.entities), np.int64)
    place[sorted(range(len(changes.entities)), key=changes.entities.__getitem__)] = np.arange(len(place))
    home = np.full(rows, len(place), np.int64)
    own = changes.entity >= 0
    np.minimum.at(home, row[own], place[changes.entity[own]])
    order = np.lexsort((row, home[row]))
    ordered = row[order]
    return order, np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])) if len(order) else order


def pairs_by_row(delivered: Delivered) -> tuple[list[bytes], list[bytes]]:
    """The distinct (row, own entity) pairs of the changes, by row key."""
    changes = delivered.changes
    own = np.flatnonzero(changes.entity >= 0)
    encoded = changes.row_key.take(pa.array(own)).dictionary_encode()
    keys = encoded.dictionary.to_pylist()
    place = np.empty(len(keys), np.int64)
    by_key = sorted(range(len(keys)), key=keys.__getitem__)
    place[by_key] = np.arange(len(keys))
    entities = max(1, len(changes.entities))
    row = place[encoded.indices.to_numpy(zero_copy_only=False)]
    pairs = distinct(row * entities + changes.entity[own])
    return (
        [keys[by_key[at]] for at in (pairs // entities).tolist()],
        [changes.entities[at] for at in (pairs % entities).tolist()],
    )


def _cut_after(cuts: I64, wanted: int, rows: int) -> int:
    at = int(np.searchsorted(cuts, wanted))
    return int(cuts[at]) if at < len(cuts) else rows


def _where(part: _Part, delivered: Delivered, changes: I64) -> Callable[[int], Place]:
    """Where the changes of a chunk of a part came from."""
    return lambda row: part.origins.of(int(delivered.rows[changes[row]]))


def _chunk(delivered: Delivered, changes: I64, *, with_truncates: bool) -> Delivered:
    truncates = delivered.truncates if with_truncates else ()
    n = len(changes)
    return Delivered(
        delivered.changes.take(changes), np.arange(n), np.arange(n, n + len(truncates)), truncates
    )
