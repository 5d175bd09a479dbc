"""Folding: which stored rows of an entity become fewer, and the rows that they become.

Time: none decides anything. A version keeps the commit at which it entered the store; what a fold changes is
where versions lie, never which there are, so every question has the same answer before and after it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.kernel.versions import NEVER, instants, single
from featurestore.store.changes import ChangeLayout, is_table
from featurestore.store.delivery import RUN_VERSIONS, Layout, cut
from featurestore.store.payload import encode_runs, entry_commits, reader
from featurestore.store.records import SEGMENT_LEVEL, SegmentRow, StoredRow, TimelineVersion

I64 = NDArray[np.int64]

# Classes of rows: fewer than 2, 4, 8, ... versions. A row of RUN_VERSIONS is as long as one gets.
CLASSES = (*(1 << power for power in range(1, RUN_VERSIONS.bit_length())), RUN_VERSIONS)


@dataclass(frozen=True)
class Tiers:
    """When rows of an entity are worth folding: at least ``rows`` of them together, the largest with at most
    ``ratio`` times the versions of the others.

    So a long row is written anew only when what joins it is a good part of it: a version is written a few
    times on its way from a delta to a full run, however long its timeline is.
    """

    rows: int
    ratio: float


STEADY = Tiers(8, 4.0)
"""Beside writers, again and again."""
THOROUGH = Tiers(2, 8.0)
"""When asked for: what stays apart is small beside what it lies with."""
WHOLE = Tiers(2, math.inf)


def folded_below(sizes: Sequence[int], tiers: Tiers) -> int:
    """The rows with fewer versions than this are to be folded; 0 for none. ``sizes``: versions of each row of
    an entity."""
    ordered = np.sort(np.array(sizes, np.int64))
    sums = np.cumsum(ordered)
    for bound in reversed(CLASSES):
        count = int(np.searchsorted(ordered, bound))
        if count < tiers.rows:
            return 0
        largest = int(ordered[count - 1])
        if largest <= tiers.ratio * int(sums[count - 1] - largest):
            return bound
    return 0


def by_bound(sizes: Iterable[tuple[bytes, int]], tiers: Tiers) -> Mapping[int, list[bytes]]:
    """The entities that have something to fold, by the bound of ``folded_below``; ``sizes`` are (entity key,
    versions), a row each."""
    of_entity: dict[bytes, list[int]] = {}
    for key, versions in sizes:
        of_entity.setdefault(key, []).append(versions)
    made: dict[int, list[bytes]] = {}
    for key, some in of_entity.items():
        if bound := folded_below(some, tiers):
            made.setdefault(bound, []).append(key)
    return made


class ChangedMeanwhileError(Exception):
    """Some of the rows that were to be replaced are no longer what was read."""


@dataclass(frozen=True)
class Folder:
    """Folds rows of one timeline version; ``by`` is the column that its runs are ordered by."""

    stored: pa.Schema
    by: str

    @classmethod
    def of(cls, timeline: TimelineVersion) -> Folder:
        if is_table(timeline):
            changes = ChangeLayout.of(timeline)
            return cls(changes.stored, changes.changed_at)
        layout = Layout.of(timeline)
        return cls(layout.stored, layout.event_time)

    def fold(self, rows: Sequence[StoredRow], stays: NDArray[np.bool_] | None = None) -> list[SegmentRow]:
        """The rows that hold all versions of ``rows``, as a backfill of them would have written them, with
        the commits at which they entered. No version is left out: one that was delivered again because it was
        available earlier tells, beside the first, what was known when.

        ``stays`` bool[versions]: only these, of those that lie in ``rows`` one after another.
        """
        keys = sorted({row.entity_key for row in rows})
        number = {key: i for i, key in enumerate(keys)}
        payloads = [row.payload for row in rows]
        table, counts = reader(self.stored).read(payloads)
        entered = entry_commits(payloads, counts, np.array([row.commit_number for row in rows], np.int64))
        entity = np.repeat(np.array([number[row.entity_key] for row in rows], np.int64), counts)
        time = instants(single(table, self.by), null=NEVER)
        order = np.lexsort((entered, time, entity))
        if stays is not None:
            order = order[stays[order]]
        time = time[order]
        offsets = np.searchsorted(entity[order], np.arange(len(keys) + 1))
        bounds, of = cut(offsets, time, RUN_VERSIONS)
        payloads = encode_runs(table.take(pa.array(order)), bounds, entered[order])
        return [
            SegmentRow(keys[e], SEGMENT_LEVEL, start, versions, payload)
            for e, start, versions, payload in zip(
                of.tolist(), time[bounds[:-1]].tolist(), np.diff(bounds).tolist(), payloads, strict=True
            )
        ]
