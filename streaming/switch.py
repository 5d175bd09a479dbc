"""Serving what caught up: a timeline version that streams have brought to where the served one stands.

Time: no instant decides; a version is looked at again after a moment.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from featurestore.log.archive import archived_from
from featurestore.store import Store, TimelineVersion
from featurestore.store.ingest import registry_of
from featurestore.store.positions import read_positions
from streaming.assignment import Streamed
from streaming.writer import Writer

# Between two looks.
PERIOD_S = 0.2


class Switch:
    """Has timeline versions served once nothing is missing in them. ``partitions_of``: those of a topic."""

    def __init__(
        self,
        store: Store,
        root: Path,
        writer: Writer,
        partitions_of: Callable[[str], Collection[int]],
    ) -> None:
        self._store = store
        self._root = root
        self._writer = writer
        self._partitions_of = partitions_of
        self._next_s = 0.0

    def look(self, sources: Mapping[str, Streamed], now_us: int, *, at_once: bool = False) -> list[str]:
        """The views that are served anew, by name and version."""
        moment_s = time.monotonic()
        if moment_s < self._next_s and not at_once:
            return []
        self._next_s = moment_s + PERIOD_S
        with self._store.snapshot() as snapshot:
            registry = registry_of(self._store, snapshot)
        switched = []
        for timeline in registry.timelines:
            source = sources.get(timeline.source)
            if timeline.state != "filling" or source is None:
                continue
            if source.plan.log is not None and timeline.filled_commit is None:
                continue
            if self._may_be_whole(source, timeline):
                switched += self._writer.finish(timeline, now_us).switched
        return switched

    def _may_be_whole(self, source: Streamed, timeline: TimelineVersion) -> bool:
        """Whether a timeline version has a position in every partition of its topic, and nothing of the
        archive from before its first message is left to a backfill."""
        partitions = set(self._partitions_of(source.topic))
        with self._store.snapshot() as snapshot:
            begun = {
                one.partition: one.first_offset
                for one in read_positions(snapshot, [timeline.id])
                if one.topic == source.topic
            }
        if not partitions or not partitions <= begun.keys():
            return False
        if timeline.filled_commit is not None:
            return True
        older = archived_from(source.plan, self._root)
        return all(older.get(number, first) >= first for number, first in begun.items())
