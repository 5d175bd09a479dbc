"""What a worker holds: partitions with the epochs that the store gave it, and where every timeline stands.

A partition's front is the furthest position of any timeline in it; the group's consumer reads from there.
Timelines behind the front catch up on their own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from featurestore.errors import StreamError
from featurestore.plan.nodes import SourcePlan
from featurestore.store import Snapshot, Store
from featurestore.store.commit import Commit
from featurestore.store.dead_letters import dead_letters_of
from featurestore.store.ingest import registry_of
from featurestore.store.positions import (
    Position,
    Span,
    begin_again,
    committed_positions,
    read_positions,
    take_over,
)
from featurestore.store.positions import topic_ids as stored_topic_ids
from featurestore.store.registry import Registry


class Partition(NamedTuple):
    """A partition of a topic."""

    topic: str
    number: int


@dataclass(frozen=True)
class Streamed:
    """A source with a topic, and the timeline versions that are written."""

    plan: SourcePlan
    timelines: frozenset[int]

    @property
    def topic(self) -> str:
        assert self.plan.topic is not None
        return self.plan.topic.name


@dataclass
class Held:
    """A partition that this worker has: by source its epoch, by timeline version where it stands."""

    epochs: Mapping[str, int]
    stands: dict[int, int] = field(default_factory=dict)

    @property
    def front(self) -> int:
        return max(self.stands.values())

    def behind(self, timelines: Collection[int]) -> Iterable[tuple[int, int]]:
        """Timelines that are not at the front, with their positions."""
        return [
            (one, self.stands[one])
            for one in sorted(timelines)
            if one in self.stands and self.stands[one] < self.front
        ]


def streamed_sources(registry: Registry) -> dict[str, Streamed]:
    """The applied sources that have a topic and a view that reads them."""
    found = {}
    for name, plan in registry.sources.items():
        timelines = frozenset(one.id for one in registry.timelines if one.source == name)
        if plan.topic is not None and timelines:
            found[name] = Streamed(plan, timelines)
    return found


def read_sources(store: Store) -> tuple[int, dict[str, Streamed]]:
    """The commit that last changed the registry, and the sources to stream."""
    return store.read(
        lambda snapshot: (snapshot.registry_commit, streamed_sources(registry_of(store, snapshot)))
    )


def take(
    store: Store,
    sources: Iterable[Streamed],
    spans: Mapping[Partition, Span],
    *,
    worker: str,
    accept_gap: bool,
    now_us: int,
    topic_ids: Mapping[str, str] | None = None,
) -> dict[Partition, Held]:
    """Take over partitions in one commit; StreamError where a position is outside what the topic holds, or in
    a topic that was deleted and made again. ``topic_ids``: topic -> what the brokers call it, if they do."""
    epochs: dict[Partition, dict[str, int]] = {one: {} for one in spans}
    with store.commit("take over", now_us=now_us, detail=worker) as commit:
        for source in sources:
            mine = {one.number: span for one, span in spans.items() if one.topic == source.topic}
            if not mine:
                continue
            name, topic_id = source.plan.name, (topic_ids or {}).get(source.topic)
            anew = _made_anew(commit, source, mine, topic_id, accept_gap=accept_gap)
            given = take_over(
                commit, name, source.topic, mine, source.timelines, worker=worker, topic_id=topic_id
            )
            for number, epoch in given.items():
                epochs[Partition(source.topic, number)][name] = epoch
            for position in committed_positions(commit, source.timelines):
                span = mine.get(position.partition)
                if position.topic != source.topic or span is None:
                    continue
                if _inside(position, span) and position.partition not in anew:
                    continue
                if not accept_gap:
                    one = Partition(position.topic, position.partition)
                    raise outside(name, one, position.next_offset, span)
                begin_again(commit, name, position, span)
        stands = committed_positions(commit, [one for source in sources for one in source.timelines])
    held = {one: Held(of_source) for one, of_source in epochs.items() if of_source}
    _place(held, stands)
    return held


def read_again(snapshot: Snapshot, sources: Iterable[Streamed], held: Mapping[Partition, Held]) -> None:
    """Let held partitions stand where the store says, for the timelines that there are now."""
    stands = read_positions(snapshot, [one for source in sources for one in source.timelines])
    for one in held.values():
        one.stands.clear()
    _place(held, stands)


def _place(held: Mapping[Partition, Held], stands: Iterable[Position]) -> None:
    for position in stands:
        partition = Partition(position.topic, position.partition)
        if partition in held:
            held[partition].stands[position.timeline_version_id] = position.next_offset


def _made_anew(
    commit: Commit, source: Streamed, partitions: Collection[int], topic_id: str | None, *, accept_gap: bool
) -> set[int]:
    """The partitions whose positions are in a topic of the same name that is gone."""
    known = stored_topic_ids(commit, source.plan.name, source.topic)
    if topic_id is None:
        return set()
    anew = {number for number in partitions if known.get(number, topic_id) != topic_id}
    if anew and not accept_gap:
        number = min(anew)
        raise another(source, Partition(source.topic, number), known[number], topic_id)
    letters = dead_letters_of(commit, source.plan.name, source.topic, anew)
    if letters:
        raise StreamError(
            f'topic "{source.topic}" was made again, and {letters} dead letters of source '
            f'"{source.plan.name}" are of the one before: an offset would be two messages',
            hint="`featurestore dead-letters retry`, then `featurestore dead-letters discard` what stays",
        )
    return anew


def check_topic_ids(
    sources: Collection[Streamed],
    held: Iterable[Partition],
    taken: Mapping[str, str],
    found: Mapping[str, str],
) -> None:
    """StreamError where a topic was deleted and made again since a partition of it was taken over."""
    for one in held:
        if one.topic in found and found[one.topic] != taken[one.topic]:
            source = next(source for source in sources if source.topic == one.topic)
            raise another(source, one, taken[one.topic], found[one.topic])


def another(source: Streamed, one: Partition, stored: str, found: str) -> StreamError:
    """The error for a topic that is not the one that was read: both of them, and the way out."""
    return StreamError(
        f'source "{source.plan.name}": its position in partition {one.number} of topic "{one.topic}" is in '
        f"the topic with id {stored}, which was deleted; the one of that name has id {found}",
        hint="see that it is the right one, then `featurestore stream --accept-gap` reads it from its first "
        "message on; move the archive of the one before away",
    )


def _inside(position: Position, span: Span) -> bool:
    return span.first <= position.next_offset <= span.end


def outside(source: str, one: Partition, at: int, span: Span) -> StreamError:
    """The error for a position that the topic does not hold: both of them, and the way out."""
    if at < span.first:
        lost = f"messages {at:,} to {span.first - 1:,} were deleted before they were read"
        way_out = (
            f"{lost}: load them with `featurestore backfill` from the source's log, if it has them, then "
        )
    else:
        way_out = "the topic was made anew or has lost messages: see that it is the right one, then "
    return StreamError(
        f'source "{source}": its position {at} in partition {one.number} of topic '
        f'"{one.topic}" is outside what the topic holds, offsets {span.first} to {span.end}',
        hint=f"{way_out}`featurestore stream --accept-gap` goes on at {span.first}",
    )
