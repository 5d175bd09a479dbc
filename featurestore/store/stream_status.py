"""Where streams stand, as the store has it: positions, writers and counters of one state.

``committed_at_us`` is when a position moved last; a topic's end is as a worker saw it then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from featurestore.store.positions import Position, read_positions
from featurestore.store.registry import read_registry
from featurestore.store.snapshot import Snapshot
from featurestore.store.tables import commits, stream_writers


@dataclass(frozen=True)
class StreamStanding:
    """One source in one partition. ``versions`` are the timeline versions that stand at ``position``; those
    that catch up have a standing of their own, ``catching_up``. ``first`` is where reading began."""

    source: str
    topic: str
    partition: int
    versions: tuple[int, ...]
    catching_up: bool
    first: int
    position: int
    end: int
    worker: str | None
    epoch: int
    committed_at_us: int
    counts: Mapping[str, int]

    @property
    def lag(self) -> int:
        return max(0, self.end - self.position)

    def to_dict(self) -> dict[str, Any]:
        made = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**made, "versions": list(self.versions), "counts": dict(self.counts), "lag": self.lag}


def stream_standings(snapshot: Snapshot) -> list[StreamStanding]:
    """Every source in every partition that was ever read, by source, topic and partition."""
    registry = read_registry(snapshot)
    source_of = {one.id: one.source for one in registry.timelines}
    places: dict[tuple[str, str, int], list[Position]] = {}
    for one in read_positions(snapshot, list(source_of)):
        place = (source_of[one.timeline_version_id], one.topic, one.partition)
        places.setdefault(place, []).append(one)
    c = stream_writers.c
    query = select(c.source, c.topic, c.partition, c.worker, c.epoch)
    writers = {
        (source, topic, partition): (worker, epoch)
        for source, topic, partition, worker, epoch in snapshot._rows(query)
    }
    numbers = {one.commit_number for found in places.values() for one in found}
    of_commits = select(commits.c.number, commits.c.committed_at_us).where(
        commits.c.number.in_(sorted(numbers))
    )
    times = {row.number: row.committed_at_us for row in snapshot._rows(of_commits)}
    counts: dict[tuple[str, str], dict[str, int]] = {}
    for key, n in snapshot.counters().items():
        counts.setdefault((key.source, key.partition), {})[key.kind] = n
    made = []
    for (source, topic, partition), found in sorted(places.items()):
        front = max(one.next_offset for one in found)
        groups: dict[int, list[Position]] = {}
        for one in found:
            groups.setdefault(one.next_offset, []).append(one)
        for position, group in sorted(groups.items(), reverse=True):
            last = max(group, key=lambda one: one.commit_number)
            name = f"{topic}/{partition}"
            if position < front:
                name += f"@{min(one.timeline_version_id for one in group)}"
            worker, epoch = writers.get((source, topic, partition), (None, 0))
            made.append(
                StreamStanding(
                    source,
                    topic,
                    partition,
                    tuple(one.timeline_version_id for one in group),
                    position < front,
                    min(one.first_offset for one in group),
                    position,
                    max(one.end_offset for one in group),
                    worker,
                    epoch,
                    times[last.commit_number],
                    counts.get((source, name), {}),
                )
            )
    return made
