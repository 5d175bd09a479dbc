"""Positions: where each timeline version stands in its source's topic, and which worker may move it on.

Offsets are Kafka's: a position is the offset of the next message to read, so ``[first_offset, next_offset)``
is in the timelines. A position moves in the transaction of what it counts, by compare-and-set.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Select, delete, func, insert, select, update

from featurestore.errors import FencedError, StalePositionError
from featurestore.store.commit import Commit
from featurestore.store.snapshot import Snapshot
from featurestore.store.tables import positions, stream_writers


class Position(NamedTuple):
    """One timeline version in one partition. ``target_offset`` was the topic's end when it began,
    ``end_offset`` when a worker last looked."""

    timeline_version_id: int
    topic: str
    partition: int
    first_offset: int
    next_offset: int
    target_offset: int
    end_offset: int
    commit_number: int


class Span(NamedTuple):
    """What a partition of a topic holds: offsets ``[first, end)``."""

    first: int
    end: int


@dataclass(frozen=True)
class Slice:
    """Messages of one partition with offsets ``[first, next)``, read by the worker that has ``epoch``;
    ``end`` is the partition's end as the broker last said it."""

    topic: str
    partition: int
    epoch: int
    first: int
    next: int
    end: int

    @property
    def name(self) -> str:
        """The partition, as counters name it."""
        return f"{self.topic}/{self.partition}"


def read_positions(snapshot: Snapshot, timeline_version_ids: Collection[int]) -> list[Position]:
    """The positions of some timeline versions, by (timeline version, topic, partition)."""
    return [Position._make(row) for row in snapshot._rows(_positions(timeline_version_ids))]


def taken_partitions(snapshot: Snapshot, source: str, topic: str) -> set[int]:
    """The partitions that any worker was ever given."""
    c = stream_writers.c
    query = select(c.partition).where(c.source == source, c.topic == topic)
    return {row[0] for row in snapshot._rows(query)}


def committed_positions(commit: Commit, timeline_version_ids: Collection[int]) -> list[Position]:
    """The same, as they are inside a commit."""
    return [Position(*row) for row in commit._connection.execute(_positions(timeline_version_ids))]


def _positions(timeline_version_ids: Collection[int]) -> Select[Any]:
    c = positions.c
    return (
        select(positions)
        .where(c.timeline_version_id.in_(sorted(timeline_version_ids)))
        .order_by(c.timeline_version_id, c.topic, c.partition)
    )


def take_over(
    commit: Commit,
    source: str,
    topic: str,
    spans: Mapping[int, Span],
    timeline_version_ids: Collection[int],
    *,
    worker: str,
    topic_id: str | None = None,
) -> dict[int, int]:
    """Give ``worker`` the partitions of ``spans``; returns their epochs.

    Whoever had them before can commit nothing more. A timeline version that has no position in one begins at
    its first message. ``topic_id``: what the brokers call the topic that it found.
    """
    there = {
        (one.timeline_version_id, one.partition)
        for one in committed_positions(commit, timeline_version_ids)
        if one.topic == topic
    }
    epochs = {}
    for partition, span in sorted(spans.items()):
        epochs[partition] = _next_epoch(commit, source, topic, partition, worker, topic_id)
        begun = [
            {
                "timeline_version_id": timeline,
                "topic": topic,
                "partition": partition,
                "first_offset": span.first,
                "next_offset": span.first,
                "target_offset": span.end,
                "end_offset": span.end,
                "commit_number": commit.number,
            }
            for timeline in sorted(timeline_version_ids)
            if (timeline, partition) not in there
        ]
        if begun:
            commit._connection.execute(insert(positions), begun)
    return epochs


def topic_ids(commit: Commit, source: str, topic: str) -> dict[int, str]:
    """Partition -> the id of the topic whose messages its positions count, where it is known."""
    c = stream_writers.c
    query = select(c.partition, c.topic_id).where(
        c.source == source, c.topic == topic, c.topic_id.is_not(None)
    )
    return {row.partition: row.topic_id for row in commit._connection.execute(query)}


def _next_epoch(
    commit: Commit, source: str, topic: str, partition: int, worker: str, topic_id: str | None
) -> int:
    c = stream_writers.c
    this = (c.source == source, c.topic == topic, c.partition == partition)
    raised = (
        update(stream_writers)
        .where(*this)
        .values(
            epoch=c.epoch + 1,
            worker=worker,
            commit_number=commit.number,
            topic_id=func.coalesce(topic_id, c.topic_id),
        )
        .returning(c.epoch)
    )
    epoch: int | None = commit._connection.execute(raised).scalar_one_or_none()
    if epoch is not None:
        return epoch
    values = {"source": source, "topic": topic, "partition": partition, "topic_id": topic_id}
    commit._connection.execute(
        insert(stream_writers).values(**values, epoch=1, worker=worker, commit_number=commit.number)
    )
    return 1


def move(commit: Commit, source: str, timeline_version_ids: Collection[int], slices: Sequence[Slice]) -> None:
    """Move the positions of some timeline versions over ``slices``, inside the commit of what is in them.

    Compare-and-set: FencedError where the worker's epoch is not the newest, StalePositionError where a
    position is not where the slice begins. Then nothing of the commit may be kept.
    """
    for one in slices:
        _check_epoch(commit, source, one)
        c = positions.c
        moved = (
            update(positions)
            .where(
                c.timeline_version_id.in_(sorted(timeline_version_ids)),
                c.topic == one.topic,
                c.partition == one.partition,
                c.next_offset == one.first,
            )
            .values(next_offset=one.next, end_offset=max(one.end, one.next), commit_number=commit.number)
        )
        if commit._connection.execute(moved).rowcount != len(timeline_version_ids):
            stands = sorted(
                {
                    position.next_offset
                    for position in committed_positions(commit, timeline_version_ids)
                    if (position.topic, position.partition) == (one.topic, one.partition)
                }
            )
            raise StalePositionError(
                f'source "{source}": partition {one.partition} of topic "{one.topic}" stands at '
                f"{', '.join(map(str, stands)) or 'nothing'}, this worker read from {one.first} on",
                hint="versions were made or dropped meanwhile; a worker reads the store's positions again",
            )


def _check_epoch(commit: Commit, source: str, one: Slice) -> None:
    c = stream_writers.c
    query = (
        select(c.epoch, c.worker)
        .where(c.source == source, c.topic == one.topic, c.partition == one.partition)
        .with_for_update()
    )
    epoch, worker = commit._connection.execute(query).one_or_none() or (0, "")
    if epoch != one.epoch:
        raise FencedError(
            f'source "{source}": partition {one.partition} of topic "{one.topic}" was given to worker '
            f'"{worker}" (epoch {epoch}; this one has {one.epoch})',
            hint="nothing of this commit was kept; the group assigns the partition anew",
            topic=one.topic,
            partition=one.partition,
        )


def begin_again(commit: Commit, source: str, one: Position, span: Span) -> None:
    """Set a position that lies outside ``span``, or is in another topic, to its first message; only where the
    user has said so. What was deleted before it was read is counted as skipped.

    ``first_offset`` goes back with it, below zero even: the counters still add up to what lies between.
    """
    c = positions.c
    commit._connection.execute(
        update(positions)
        .where(
            c.timeline_version_id == one.timeline_version_id,
            c.topic == one.topic,
            c.partition == one.partition,
        )
        .values(
            first_offset=one.first_offset - max(0, one.next_offset - span.first),
            next_offset=span.first,
            end_offset=span.end,
            commit_number=commit.number,
        )
    )
    skipped = max(0, span.first - one.next_offset)
    partition = f"{one.topic}/{one.partition}"
    commit.count(source, partition, {"skipped": skipped, "delivered": skipped})


def forget_positions(commit: Commit, timeline_version_id: int) -> None:
    """Remove the positions of a dropped timeline version."""
    commit._connection.execute(
        delete(positions).where(positions.c.timeline_version_id == timeline_version_id)
    )
