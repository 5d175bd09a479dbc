"""Parts of a log: as many rows as fit into memory, cast, with bad input left out.

Time: none beyond what casting does. How rows are shared out among parts influences no value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.batch.spans import Span
from featurestore.errors import BackfillError
from featurestore.log.cast import cast_table
from featurestore.log.files import LogFile
from featurestore.log.scan import RawBatch, scan
from featurestore.log.versions import event_versions
from featurestore.plan.nodes import SourcePlan
from featurestore.store import Arrival
from featurestore.store.arrivals import arrived_versions

# Four million rows of four columns take about a gigabyte while they are sorted.
PART_ROWS = 4_000_000
PART_BYTES = 512 << 20
# Each file of a part is a row or two of its commit.
PART_FILES = 200
_SAMPLE_BYTES = 1 << 20


@dataclass(frozen=True)
class Rejected:
    """A row that was left out. ``row`` counts from 1, without header."""

    path: str
    row: int
    reason: str

    def text(self) -> str:
        return f"{self.path}, row {self.row:,}: {self.reason}"


@dataclass
class Part:
    """Versions to write together, and what they are made of."""

    spans: list[Span] = field(default_factory=list)
    tables: list[pa.Table] = field(default_factory=list)
    rejected: int = 0
    shown: list[Rejected] = field(default_factory=list)
    keyless: int = 0
    rows: int = 0
    bytes: int = 0
    rest: Span | None = None

    @property
    def full(self) -> bool:
        return self.rows >= PART_ROWS or self.bytes >= PART_BYTES or len(self.spans) >= PART_FILES

    @property
    def last_number(self) -> int:
        """Of a part of arrivals, the number of its last row."""
        end = self.spans[0].end
        assert end is not None
        return end - 1


class LogReader:
    """Reads the parts of one source's log for one entity."""

    def __init__(
        self, root: Path, source: SourcePlan, keys: Sequence[str], hash_of: Callable[[LogFile], str]
    ) -> None:
        self._root = root
        self._source = source
        self._keys = keys
        self._hash_of = hash_of

    def parts(self, files: Iterable[tuple[LogFile, int]]) -> Iterator[Part]:
        """The rows of ``files``, each from a row on, as parts that are full, and a last one that need not
        be."""
        part = Part()
        for file, first in files:
            row = first
            for batch in self._batches(file):
                table = batch.table.slice(max(0, row - batch.first_row))
                if not table.num_rows:
                    continue
                if part.full:
                    sha256 = self._settled_hash(file)
                    if row > first:
                        part.spans.append(Span(file.shown, sha256, first, row, False))
                        part.rest = Span(file.shown, sha256, row, None, False)
                    yield part
                    part, first = Part(), row
                self._take(part, table, file, row)
                row += table.num_rows
            part.spans.append(Span(file.shown, self._settled_hash(file), first, row, True))
        if part.spans:
            yield part

    def again(self, spans: Sequence[tuple[LogFile, Span]], rest: Span | None) -> Part:
        """The part that is made of ``spans``, read once more."""
        part = Part(rest=rest)
        for file, span in spans:
            assert span.end is not None
            for batch in self._batches(file):
                low = max(span.first, batch.first_row)
                high = min(span.end, batch.first_row + batch.table.num_rows)
                if low < high:
                    self._take(part, batch.table.slice(low - batch.first_row, high - low), file, low)
                if batch.first_row + batch.table.num_rows >= span.end:
                    break
            self._settled_hash(file)
            part.spans.append(span)
        return part

    def _settled_hash(self, file: LogFile) -> str:
        """The file's hash; what was rewritten while it was read would be loaded under a hash that it does
        not have."""
        sha256 = self._hash_of(file)
        try:
            status = file.path.stat()
            same = (status.st_size, status.st_mtime_ns) == (file.size, file.mtime_ns)
        except OSError:
            same = False
        if not same:
            raise BackfillError(
                f'log file "{file.shown}" was changed while it was read',
                hint="run the backfill again when nobody writes the file; what is loaded stays",
            )
        return sha256

    def _batches(self, file: LogFile) -> Iterator[RawBatch]:
        assert self._source.log is not None
        return scan(self._source.log, self._root, list(self._source.schema), [file])

    def _take(self, part: Part, raw: pa.Table, file: LogFile, row: int) -> None:
        source = self._source
        cast = cast_table(raw, source.schema, timezone=source.timezone, time_unit=source.time_unit)
        versions = event_versions(cast, source, self._keys)
        part.tables.append(versions.table)
        part.rejected += versions.rejected_count
        part.keyless += versions.keyless
        part.shown += [Rejected(file.shown, row + at + 1, reason) for at, reason in versions.rejected[:10]]
        part.rows += raw.num_rows
        part.bytes += versions.table.nbytes


def estimated_rows(file: LogFile) -> int:
    """About how many rows a file has, for telling how far a backfill has come."""
    try:
        if file.path.name.lower().endswith((".parquet", ".parq", ".pq")):
            return int(pq.read_metadata(file.path).num_rows)
        with file.path.open("rb") as opened:
            sample = opened.read(_SAMPLE_BYTES)
    except (OSError, pa.ArrowException):
        return 1
    return max(1, sample.count(b"\n") * file.size // max(1, len(sample)))


def part_of_arrivals(
    arrivals: Sequence[Arrival], first: int, end: int, source: SourcePlan, keys: Sequence[str]
) -> Part:
    """Pushed rows with numbers in ``[first, end)`` as a part."""
    part = Part(spans=[Span("", "", first, end, True)])
    for arrival in arrivals:
        table = arrived_versions(arrival.payload, source.schema)
        rows = table.num_rows
        has_key = np.ones(rows, np.bool_)
        for key in keys:
            column = table.column(key)
            if column.null_count:
                has_key &= column.combine_chunks().is_valid().to_numpy(zero_copy_only=False)
        if not has_key.all():
            table = table.filter(pa.array(has_key))
        part.keyless += rows - table.num_rows
        part.tables.append(table)
        part.rows += rows
    return part
