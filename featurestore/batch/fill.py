"""Filling one timeline version from its source's log and from what was pushed before it existed.

Time: a timeline holds all versions, whatever ``known_at``; their order in the log and the moment of loading
influence nothing. Every commit checks that the store still stands where this backfill left it, so that two of
them never write the same part.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.batch.filled import SHOWN, Filled
from featurestore.batch.keys import key_index
from featurestore.batch.parts import LogReader, Part, estimated_rows, part_of_arrivals
from featurestore.batch.spans import Span, Standing, standing
from featurestore.batch.timeline_fill import ARRIVALS_ROWS, TimelineFill
from featurestore.errors import BackfillError
from featurestore.kernel.content import content_hash
from featurestore.kernel.versions import single
from featurestore.log.files import LogFile, list_files
from featurestore.store import SEGMENT_LEVEL, Arrival, Commit, LoadedFile
from featurestore.store.additions import Additions, prepare
from featurestore.store.arrivals import last_arrival_before
from featurestore.store.conflicts import refused
from featurestore.store.delivery import Delivery, Layout, deliver, sorted_keys
from featurestore.store.entity_key import encode_keys
from featurestore.store.forgotten import read_forgotten
from featurestore.store.novelty import CORRECTED

# What a thread hashes at once.
HASHED_ROWS = 1 << 18

REBUILD = "run the backfill with --rebuild to fill a new version from the log as it is now"


@dataclass(frozen=True)
class _Todo:
    """Files to load, each from a row on."""

    files: list[tuple[LogFile, int]]
    half: list[tuple[LogFile, Span]]


class Fill(TimelineFill):
    """One timeline version of events being filled."""

    @cached_property
    def _layout(self) -> Layout:
        return Layout.of(self._timeline)

    def run(self) -> Filled:
        with self._store.snapshot() as snapshot:
            self._seen = self._foreign = snapshot.commit_number
            self._standing = standing(snapshot.progress(self._timeline.id))
            self._loaded = dict(snapshot.loaded_files(self._timeline.id))
            self._last_arrival = last_arrival_before(snapshot, self._timeline.created_commit)
            forgotten = read_forgotten(snapshot)
            self._gone = forgotten.of(self._plan.source.name)
            self._forgetting = forgotten.standing
        hashing = ThreadPoolExecutor(1, thread_name_prefix="hash")
        try:
            todo = self._todo(hashing)
            self._total_rows = sum(estimated_rows(file) - first for file, first in todo.files)
            self._write_all(self._parts(todo))
        finally:
            hashing.shutdown(cancel_futures=True)
        return self.report

    def _write_all(self, parts: Iterator[Part]) -> None:
        """Write parts; while one is written, the next is read and sorted."""

        def following() -> tuple[Part, Delivery] | None:
            part = next(parts, None)
            return None if part is None else (part, self._deliver(part))

        with ThreadPoolExecutor(1, thread_name_prefix="read") as reading:
            ahead = reading.submit(following)
            while (found := ahead.result()) is not None:
                ahead = reading.submit(following)
                self._write(*found)

    # What there is to load

    def _todo(self, hashing: ThreadPoolExecutor) -> _Todo:
        log = self._plan.source.log
        files = {} if log is None else {file.shown: file for file in list_files(log, self._root)}
        self._files = files
        # Hashing reads the same bytes as the scan, on another core.
        self._hashes = {shown: hashing.submit(file.sha256) for shown, file in files.items()}
        half = self._half_written()
        todo: list[tuple[LogFile, int]] = []
        known_by_progress = {span.path for _, span in half}
        rest = self._standing.rest
        if rest is not None:
            if self._is_still(rest):
                todo.append((files[rest.path], rest.first))
                known_by_progress.add(rest.path)
            else:
                self._abandon()
        for shown, file in files.items():
            known = self._loaded.get(shown)
            if shown in known_by_progress:
                continue
            if known is None:
                todo.append((file, 0))
            elif known.sha256 == self._hash(file):
                self.report.unchanged += 1
            else:
                self.report.changed.append(shown)
                if self._layout.has_id:
                    todo.append((file, 0))
        self.report.removed = [shown for shown in self._loaded if shown not in files]
        return _Todo(todo, half)

    def _hash(self, file: LogFile) -> str:
        return self._hashes[file.shown].result()

    def _half_written(self) -> list[tuple[LogFile, Span]]:
        spans = [span for span in self._standing.spans if span.path]
        if self._standing.half_written and not spans and self._gone is not None:
            # Pushed rows may have been erased since, and what is pushed has an id.
            self._abandon()
            return []
        if all(self._is_still(span) for span in spans):
            return [(self._files[span.path], span) for span in spans]
        self._abandon()
        return []

    def _is_still(self, span: Span) -> bool:
        """Whether a file that is loaded in part has the hash that it had; without id nothing else can go
        on."""
        file = self._files.get(span.path)
        if file is not None and self._hash(file) == span.sha256:
            return True
        if self._layout.has_id:
            return False
        what = "is gone" if file is None else "has changed"
        raise BackfillError(
            f'log file "{span.path}" {what} since a part of it was loaded: source "{self._plan.source.name}"'
            " has no id to tell what is new",
            hint=f"restore the file as it was, or {REBUILD}",
        )

    def _abandon(self) -> None:
        """Forget how far a part has come; its files are loaded anew, which adds only what is not there."""
        before = self._standing
        self._standing = Standing(arrivals=before.arrivals)
        for attempt in self._attempts():
            with attempt as commit:
                self._check(commit, before, None)
                self._move(commit, before, self._standing)
        self._seen = commit.number

    def _parts(self, todo: _Todo) -> Iterator[Part]:
        """What is half-written first, then files, then what was pushed before the timeline version
        existed."""
        source, keys = self._plan.source, self._plan.entity.keys
        reader = LogReader(self._root, source, keys, self._hash)
        at = self._standing.arrivals
        if todo.half:
            yield reader.again(todo.half, self._standing.rest)
        elif self._standing.half_written:
            half = self._arrived(self._standing.spans[0].first, self._standing.spans[0].end)
            at = half.last_number
            yield half
        yield from reader.parts(todo.files)
        while at < self._last_arrival:
            part = self._arrived(at + 1)
            at = part.last_number
            yield part

    def _arrived(self, first: int, end: int | None = None) -> Part:
        """Pushed rows from number ``first`` on: up to ``end``, or as many as a part holds."""
        source, keys = self._plan.source, self._plan.entity.keys
        until = min(first + ARRIVALS_ROWS, self._last_arrival + 1) if end is None else end
        pushed = self._pushed(first, until)
        # A push that begins before the end is taken whole.
        until = max([until, *(one.first_number + one.rows for one in pushed)])
        return part_of_arrivals(pushed, first, until, source, keys)

    def _pushed(self, first: int, end: int) -> list[Arrival]:
        with self._store.snapshot() as snapshot:
            return snapshot.arrivals(self._plan.source.name, after=first - 1, before=end)

    # Writing a part

    def _write(self, part: Part, delivery: Delivery) -> None:
        rows = part.rows
        if self._strict and part.rejected:
            raise refused(
                self._plan.source.name,
                rejected=[row.text() for row in part.shown[:SHOWN]],
                count=part.rejected,
                written=self.report.what_is_written(),
            )
        at = self._standing.done if self._standing.half_written else 0
        if self._standing.half_written and self._standing.total != delivery.runs:
            raise BackfillError(
                f'source "{self._plan.source.name}": a part that is loaded by half was'
                f" {self._standing.total} runs and is {delivery.runs} now",
                hint=REBUILD,
            )
        with ThreadPoolExecutor(1, thread_name_prefix="encode") as encoder:
            ahead = encoder.submit(self._prepare, delivery, at)
            while True:
                made = ahead.result()
                more, sees_this = made.end < delivery.runs, delivery.goes_on(made.end)
                if more and not sees_this:
                    ahead = encoder.submit(self._prepare, delivery, made.end)
                self._commit(part, made)
                if more and sees_this:
                    ahead = encoder.submit(self._prepare, delivery, made.end)
                done = int(delivery.bounds[made.end]) if made.end < delivery.runs else rows
                self._tell(self._done_rows + done, max(self._total_rows, self._done_rows + rows), self._what)
                if made.end >= delivery.runs:
                    break
        self._done_rows += rows

    def _deliver(self, part: Part) -> Delivery:
        plan = self._plan
        schema = pa.schema([(name, dtype.arrow) for name, dtype in plan.source.columns])
        versions = pa.concat_tables(part.tables).combine_chunks() if part.tables else schema.empty_table()
        part.tables.clear()
        hashes = self._content_hashes(versions)
        forgotten = None
        if self._gone is not None:
            columns = dict(zip(versions.column_names, versions.columns, strict=True))
            forgotten = self._gone.dropped(columns, versions.num_rows)
        if not versions.num_rows:
            return deliver(versions, hashes, np.empty(0, np.int64), [], self._layout)
        index, codes = key_index([single(versions, name) for name in plan.entity.keys])
        first = np.empty(index.entities, np.int64)
        first[codes] = np.arange(len(codes))
        distinct = versions.select(list(plan.entity.keys)).take(pa.array(first))
        keys, place = sorted_keys(
            encode_keys([single(distinct, name) for name in plan.entity.keys], plan.entity.dtypes)
        )
        return deliver(
            versions, hashes, place[codes], keys, self._layout, threads=self._threads, forgotten=forgotten
        )

    def _content_hashes(self, versions: pa.Table) -> NDArray[np.uint64]:
        content = self._plan.source.roles.content
        if self._threads is None:
            return content_hash(versions, content)
        slices = [versions.slice(at, HASHED_ROWS) for at in range(0, versions.num_rows, HASHED_ROWS)]
        parts = list(self._threads.map(lambda part: content_hash(part, content), slices))
        return np.concatenate(parts) if parts else content_hash(versions, content)

    def _prepare(self, delivery: Delivery, first: int) -> Additions:
        """The next chunk of runs, as many as a commit has time for."""
        rows = int(delivery.bounds[first]) + self._chunk_rows
        end = max(first + 1, int(np.searchsorted(delivery.bounds, rows, side="right")) - 1)
        with self._store.snapshot() as snapshot:
            return prepare(
                delivery, first, min(end, delivery.runs), SEGMENT_LEVEL, self._timeline.id, snapshot
            )

    def _commit(self, part: Part, made: Additions) -> None:
        """Write one chunk of a part, and how far the part has come, in one transaction."""
        before, runs = self._standing, made.delivery.runs
        is_log, is_last = bool(part.spans[0].path), made.end >= runs
        if not is_last:
            after = Standing(tuple(part.spans), made.end, runs, part.rest, before.arrivals)
        else:
            after = Standing(rest=part.rest, arrivals=before.arrivals if is_log else part.last_number)
        for attempt in self._attempts():
            with attempt as commit:
                began_s = time.perf_counter()
                self._check(commit, before, part if made.first == 0 else None)
                if self._foreign > made.commit_number:
                    made = made.still_hold(commit, self._timeline.id)
                commit.append(self._timeline.id, made.rows)
                counts = Counter(made.novelty.counts())
                if made.first == 0:
                    counts.update(rejected=part.rejected, keyless=part.keyless)
                counts["delivered"] = counts.total()
                commit.count(self._plan.source.name, self._partition("log" if is_log else "arrivals"), counts)
                self._move(commit, before, after)
                loaded = self._files_loaded(commit, part) if is_last and is_log else {}
        self._seen, self._standing = commit.number, after
        self._loaded.update(loaded)
        self._report(part, made, counts, is_last=is_last)
        rows = int(made.delivery.bounds[made.end] - made.delivery.bounds[made.first])
        self._pace(rows, time.perf_counter() - began_s)

    def _report(self, part: Part, made: Additions, counts: Counter[str], *, is_last: bool) -> None:
        report = self.report
        loaded = [span.path for span in part.spans if span.path and span.whole] if is_last else []
        self._count(counts, part.shown, loaded, is_first=made.first == 0)
        if len(report.corrections) < SHOWN and counts["corrected"]:
            at = (
                int(made.delivery.bounds[made.first])
                + np.flatnonzero(made.novelty.status == CORRECTED)[:SHOWN]
            )
            for name in _identities(made.delivery, at):
                if name not in report.corrections and len(report.corrections) < SHOWN:
                    report.corrections.append(name)

    def _check(self, commit: Commit, expected: Standing, begun: Part | None) -> None:
        """The compare of a compare-and-set: it is needed only where somebody else has committed."""
        if commit.number == self._seen + 1:
            return
        self._foreign = commit.number - 1
        self._check_forgotten(commit)
        with self._store.snapshot() as snapshot:
            stands = snapshot.progress(self._timeline.id) == expected.rows()
            if begun is not None:
                loaded = snapshot.loaded_files(self._timeline.id)
                stands &= all(loaded.get(span.path) == self._loaded.get(span.path) for span in begun.spans)
            self._check_state(snapshot)
        if not stands:
            raise BackfillError(
                f'source "{self._plan.source.name}": another backfill fills the same version',
                hint="let it end; what this one has loaded stays",
            )

    def _move(self, commit: Commit, before: Standing, after: Standing) -> None:
        """From one standing's rows to another's."""
        old, new = before.rows(), after.rows()
        for text in old.keys() - new.keys():
            commit.finish_part(self._timeline.id, text)
        for text, one in new.items():
            if old.get(text) != one:
                commit.progress(self._timeline.id, text, done=one.done, total=one.total)

    def _files_loaded(self, commit: Commit, part: Part) -> dict[str, LoadedFile]:
        loaded = {}
        for span in part.spans:
            if span.whole:
                assert span.end is not None
                size = self._files[span.path].size
                file = LoadedFile(span.path, span.sha256, size, span.end, commit.number)
                commit.file_loaded(self._timeline.id, file)
                loaded[span.path] = file
        return loaded


def _identities(delivery: Delivery, rows: NDArray[np.int64]) -> list[str]:
    """The ids of some versions as a person reads them; of an id that is in the entity's key, the rest."""
    names = delivery.layout.id
    if not names:
        return []
    values = delivery.table.select(list(names)).take(pa.array(rows)).to_pylist()
    return [", ".join(str(row[name]) for name in names) for row in values]
