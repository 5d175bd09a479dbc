"""Additions: what a part of a delivery adds to a timeline, made before the commit and checked inside it.

Time: what is new depends on the versions that are there when the commit begins, whatever was read before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from featurestore.store.commit import Commit
from featurestore.store.delivery import Delivery, facts_of
from featurestore.store.novelty import Novelty, all_new, novelty
from featurestore.store.payload import encode_runs, reader
from featurestore.store.records import SegmentRow
from featurestore.store.snapshot import Snapshot

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

    def still_hold(self, commit: Commit, timeline_version_id: int) -> Additions:
        """These, or what they have to be by now: whatever changes what a timeline holds is a row of a newer
        commit."""
        if not self.delivery.layout.has_id:
            return self
        keys = entity_keys(self.delivery, self.first, self.end)
        if not commit.newer(timeline_version_id, keys, after=self.commit_number):
            return self
        there = commit.read(timeline_version_id, keys)
        # What this commit itself writes is not there yet, and its number is free again if it fails.
        return additions(self.delivery, self.first, self.end, self.level, there, commit.number - 1)


def entity_keys(delivery: Delivery, first: int, end: int) -> list[bytes]:
    """The entities of the runs ``[first, end)``, in key order."""
    if first == end:
        return []
    return list(delivery.keys[int(delivery.run_entity[first]) : int(delivery.run_entity[end - 1]) + 1])


def prepare(
    delivery: Delivery, first: int, end: int, level: int, timeline_version_id: int, snapshot: Snapshot
) -> Additions:
    """What the runs ``[first, end)`` add to what ``snapshot`` holds."""
    there: Payloads = {}
    if delivery.layout.has_id:
        there = snapshot.read(timeline_version_id, entity_keys(delivery, first, end))
    return additions(delivery, first, end, level, there, snapshot.commit_number)


def additions(
    delivery: Delivery, first: int, end: int, level: int, there: Payloads, commit_number: int
) -> Additions:
    """What the runs ``[first, end)`` add to the payloads that are ``there`` at a commit."""
    a, b = int(delivery.bounds[first]), int(delivery.bounds[end])
    table = delivery.table.slice(a, b - a)
    bounds = delivery.bounds[first : end + 1] - a
    entity = delivery.run_entity[first:end]
    found = _novelty(delivery, a, b, bounds, entity, there)
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


def _novelty(
    delivery: Delivery, a: int, b: int, bounds: np.ndarray, entity: np.ndarray, there: Payloads
) -> Novelty:
    if not delivery.layout.has_id:
        return all_new(b - a)
    if not len(entity):
        return all_new(0)
    codes = np.repeat(entity - entity[0], np.diff(bounds))
    entities = int(entity[-1] - entity[0]) + 1
    facts = delivery.facts.slice(a, b)
    if not there:
        return novelty(facts, codes, entities)
    number = {delivery.keys[e]: e - int(entity[0]) for e in range(int(entity[0]), int(entity[-1]) + 1)}
    table, counts = reader(delivery.layout.stored).read(
        [one for payloads in there.values() for one in payloads]
    )
    owners = np.repeat([number[key] for key in there], [len(payloads) for payloads in there.values()])
    return novelty(
        facts, codes, entities, facts_of(table, delivery.layout), np.repeat(owners, counts).astype(np.int64)
    )
