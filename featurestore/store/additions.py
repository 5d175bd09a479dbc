"""Additions: what a part of a delivery adds to a timeline, made before the commit and checked inside it.

Time: what is new depends on the versions that are there when the commit begins, whatever was read before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.store.commit import Commit
from featurestore.store.delivery import Delivery, facts_of
from featurestore.store.novelty import Novelty, all_new, novelty
from featurestore.store.payload import encode_runs, reader
from featurestore.store.records import SegmentRow
from featurestore.store.seen import Reader, Seen, Written
from featurestore.store.snapshot import Snapshot

I64 = NDArray[np.int64]

Payloads = Mapping[bytes, Sequence[bytes]]


@dataclass(frozen=True)
class Additions:
    """Rows to append for the runs ``[first, end)`` of a delivery, as their timelines stand at a commit."""

    delivery: Delivery
    first: int
    end: int
    level: int
    rows: Sequence[SegmentRow]
    novelty: Novelty
    commit_number: int

    def still_hold(self, commit: Commit, timeline_version_id: int, seen: Seen | None = None) -> Additions:
        """These, or what they have to be by now: whatever changes what a timeline holds is a row of a newer
        commit."""
        if not self.delivery.layout.has_id:
            return self
        keys = entity_keys(self.delivery, self.first, self.end)
        if not commit.newer(timeline_version_id, keys, after=self.commit_number):
            return self
        # What this commit itself writes is not there yet, and its number is free again if it fails.
        return _prepared(
            self.delivery, self.first, self.end, self.level, timeline_version_id,
            commit, commit.number - 1, seen,
        )  # fmt: skip

    def written(self, timeline_version_id: int) -> Written:
        """What they have added, once the commit is kept."""
        delivery = self.delivery
        a, b = int(delivery.bounds[self.first]), int(delivery.bounds[self.end])
        kept = self.novelty.kept
        return Written(
            timeline_version_id,
            entity_keys(delivery, self.first, self.end),
            _codes(delivery, self.first, self.end)[kept],
            delivery.facts.slice(a, b).those(kept),
            self.commit_number,
        )


def entity_keys(delivery: Delivery, first: int, end: int) -> list[bytes]:
    """The entities of the runs ``[first, end)``, in key order."""
    if first == end:
        return []
    return list(delivery.keys[int(delivery.run_entity[first]) : int(delivery.run_entity[end - 1]) + 1])


def prepare(
    delivery: Delivery,
    first: int,
    end: int,
    level: int,
    timeline_version_id: int,
    snapshot: Snapshot,
    seen: Seen | None = None,
) -> Additions:
    """What the runs ``[first, end)`` add to what ``snapshot`` holds."""
    at = snapshot.commit_number
    return _prepared(delivery, first, end, level, timeline_version_id, snapshot, at, seen)


def _prepared(
    delivery: Delivery, first: int, end: int, level: int, timeline_version_id: int,
    source: Reader, upto: int, seen: Seen | None,
) -> Additions:  # fmt: skip
    """What the runs add to what ``source`` shows, which stands at commit ``upto``."""
    if not delivery.layout.has_id or first == end:
        return additions(delivery, first, end, level, {}, upto)
    keys = entity_keys(delivery, first, end)
    if seen is not None:
        a, b = int(delivery.bounds[first]), int(delivery.bounds[end])
        facts, codes = delivery.facts.slice(a, b), _codes(delivery, first, end)
        there = seen.existing(source, upto, timeline_version_id, delivery.layout, keys, codes, facts)
        if there is not None:
            found = novelty(facts, codes, len(keys), *there, outlived=delivery.outlived_of(a, b))
            return _additions(delivery, first, end, level, found, upto)
    return additions(delivery, first, end, level, source.read(timeline_version_id, keys), upto)


def additions(
    delivery: Delivery, first: int, end: int, level: int, there: Payloads, commit_number: int
) -> Additions:
    """What the runs ``[first, end)`` add to the payloads that are ``there`` at a commit."""
    return _additions(delivery, first, end, level, _novelty(delivery, first, end, there), commit_number)


def _additions(
    delivery: Delivery, first: int, end: int, level: int, found: Novelty, commit_number: int
) -> Additions:
    a, b = int(delivery.bounds[first]), int(delivery.bounds[end])
    table = delivery.table.slice(a, b - a)
    bounds = delivery.bounds[first : end + 1] - a
    entity = delivery.run_entity[first:end]
    if delivery.forgotten is not None:
        found = found.without(delivery.forgotten[a:b])
    starts = delivery.event_time[a:b]
    if not found.kept.all():
        table = table.filter(pa.array(found.kept))
        starts = starts[found.kept]
        bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(found.kept)])[bounds]
        filled = np.flatnonzero(np.diff(bounds))
        bounds = np.append(bounds[filled], bounds[-1])
        entity = entity[filled]
    payloads = encode_runs(table, bounds) if len(entity) else []
    keys = delivery.keys
    rows = [
        SegmentRow(keys[e], level, start, versions, payload)
        for e, start, versions, payload in zip(
            entity.tolist(), starts[bounds[:-1]].tolist(), np.diff(bounds).tolist(), payloads, strict=True
        )
    ]
    return Additions(delivery, first, end, level, rows, found, commit_number)


def _codes(delivery: Delivery, first: int, end: int) -> I64:
    """int64[versions], the entity of each, counted from the first."""
    entity = delivery.run_entity[first:end]
    return np.repeat(entity - entity[:1], np.diff(delivery.bounds[first : end + 1]))


def _novelty(delivery: Delivery, first: int, end: int, there: Payloads) -> Novelty:
    a, b = int(delivery.bounds[first]), int(delivery.bounds[end])
    if not delivery.layout.has_id:
        return all_new(b - a).without_late(delivery.outlived_of(a, b))
    if first == end:
        return all_new(0)
    keys, codes = entity_keys(delivery, first, end), _codes(delivery, first, end)
    facts, outlived = delivery.facts.slice(a, b), delivery.outlived_of(a, b)
    if not there:
        return novelty(facts, codes, len(keys), outlived=outlived)
    number = {key: n for n, key in enumerate(keys)}
    table, counts = reader(delivery.layout.stored).read(
        [one for payloads in there.values() for one in payloads]
    )
    owners = np.repeat([number[key] for key in there], [len(payloads) for payloads in there.values()])
    existing, codes_there = facts_of(table, delivery.layout), np.repeat(owners, counts).astype(np.int64)
    return novelty(facts, codes, len(keys), existing, codes_there, outlived=outlived)
