"""A worker: poll, decode, write. It decides nothing about values; the group decides what it reads, the store
where it stands.

Time: the wall clock is read for commit times and metrics only.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import Any

from kafka import TopicPartition
from kafka.errors import (
    FencedInstanceIdError,
    KafkaError,
    KafkaTimeoutError,
    OffsetOutOfRangeError,
    RetriableError,
)
from kafka.structs import OffsetAndMetadata

from featurestore import clock
from featurestore.errors import (
    BrokersAwayError,
    FencedError,
    SchemasUnavailableError,
    StalePositionError,
    StoreUnavailableError,
    StreamError,
)
from featurestore.log.archive import archive_path
from featurestore.settings import StreamingSettings
from featurestore.store import Store
from featurestore.store.positions import Span, taken_partitions
from streaming.assignment import Held, Partition, Streamed, check_topic_ids, outside, read_again, read_sources
from streaming.batch import Run, archive, batch_of, latest_event
from streaming.codec import Codecs
from streaming.dead_letter import Publisher
from streaming.group import Listener, found_topic_ids, member, partition_of
from streaming.metrics import Metrics
from streaming.reader import Reader
from streaming.report import StreamReport
from streaming.settings import WorkerOptions, member_options, worker_name
from streaming.switch import Switch
from streaming.writer import StoreWriter, Writer

logger = logging.getLogger("featurestore.stream")

# With nothing assigned for so long, a worker that reads to the end has nothing to read.
UNASSIGNED_S = 10.0
AWAY_S = 0.5
# After its first partitions, a worker waits so long for others to take theirs.
CLAIM_S = 5.0
# Between two looks at whether what is waited for is there.
WAIT_S = 2.0

_DECLARE = 'declare one, topic=KafkaTopic("..."), and a view over it; run "featurestore apply"'
_MAKE = "make it, or name another in the source's declaration"


class Worker:
    """One worker of a store's streams, in this thread."""

    def __init__(
        self,
        store: Store,
        root: Path,
        settings: StreamingSettings,
        options: WorkerOptions,
        *,
        metrics: Metrics | None = None,
        stop: Event | None = None,
        writer: Writer | None = None,
        now: Callable[[], int] = clock.now,
    ) -> None:
        self._store = store
        self._root = root
        self._settings = settings
        self._options = options
        self._metrics = metrics
        self._now = now
        self._name = worker_name(settings, options)
        self.stop = stop or Event()
        self.report = StreamReport()
        self._held: dict[Partition, Held] = {}
        self._ends: dict[Partition, int] = {}
        self._topic_ids: dict[str, str] = {}
        self._registry_commit, self._sources = read_sources(store)
        self._subscribed: set[str] = set()
        self._waits_for: str | None = None
        # While the store is away: how long to wait on, and that what is held may not be where it stands.
        self._patience: Callable[[], bool] | None = None
        self._astray = False
        self._reader = Reader(settings, self.stop)
        self._codecs = Codecs(settings)
        self._writer: Writer = StoreWriter(store) if writer is None else writer
        self._publisher = Publisher(store, settings, self._writer)
        self._switch = Switch(store, root, self._writer, self._partitions_of)
        self._claim_s: float | None = None
        self._claimed_until_s = 0.0

    def run(self) -> StreamReport:
        """Consume until ``stop`` is set, or the ends are reached where that was asked for."""
        while not self._topics():
            if not self._waited("no applied source has a topic", _DECLARE):
                return self.report
        for source in self._sources.values():
            self._codecs.of(source.plan)  # what is missing is said before anything is read
        try:
            self._consumer = member(member_options(self._settings, self._options))
        except KafkaError as error:
            raise self._refused(error) from error
        self._listener = Listener(self._consumer)
        try:
            while missing := self._missing():
                if not self._waited(self._no_topic(missing), _MAKE):
                    return self.report
            self._subscribed = self._topics()
            self._consumer.subscribe(sorted(self._subscribed), listener=self._listener)
            self._assigned_s = time.monotonic()
            while not self.stop.is_set() and not self._step_or_wait(self._step):
                pass
            while not self._step_or_wait(self._last_step):
                pass
        except KafkaError as error:
            raise self._refused(error) from error
        finally:
            self._publisher.close()
            self._consumer.close(autocommit=False)
            self._reader.close()
        return self.report

    def _step_or_wait(self, step: Callable[[], bool]) -> bool:
        """Whether a step was the last; where brokers, schemas or the store are away, a moment's rest."""
        if self._metrics is not None:
            self._metrics.turned()
        try:
            if self._astray:
                self._stand_as_stored()
            last = step()
        except (RetriableError, SchemasUnavailableError) as error:
            logger.warning("%s, trying again", getattr(error, "fact", f"the brokers don't answer: {error}"))
            # What the client had handed out, or was about to, is read again.
            self._seek(self._held)
            self.stop.wait(AWAY_S)
            return False
        except StoreUnavailableError as error:
            # Whether the last commit was kept, the positions say: the batch is read again from there.
            self._astray = True
            if self._patience is None:
                self._patience = self._store.patience()
            if not self._patience():
                raise
            logger.warning("the store was away, trying again: %s", error.fact)
            return False
        self._patience = None
        return last

    def _step(self) -> bool:
        if self._at_ends():
            return True
        self._turn()
        return False

    def _last_step(self) -> bool:
        self._publish()
        self.report.switched += self._switch.look(self._sources, self._now(), at_once=True)
        return True

    def _refused(self, error: KafkaError) -> StreamError:
        brokers = self._settings.bootstrap_servers
        if isinstance(error, FencedInstanceIdError):
            return StreamError(
                f'another worker of group "{self._settings.group}" is called "{self._name}"',
                hint="each host needs a name of its own: [streaming] instance",
            )
        return BrokersAwayError(
            f"the brokers at {brokers} can't be used: {error}",
            hint="look at the brokers, and at bootstrap_servers and client in [streaming]",
        )

    def _turn(self) -> None:
        self._follow_registry()
        try:
            polled = self._consumer.poll(timeout_ms=self._timeout_ms())
            found = found_topic_ids(self._consumer, self._topic_ids)
            check_topic_ids(self._sources.values(), self._held, self._topic_ids, found)
            self._follow_group()
            self._consume({partition_of(one): records for one, records in polled.items()})
            self._catch_up()
        except OffsetOutOfRangeError as error:
            raise self._out_of_range(error) from error
        except FencedError as error:
            self._fenced(error)
        except StalePositionError as error:
            logger.warning("%s", error.fact)
            self._stand_again()
        if self._metrics is not None:
            self._tell_where_it_stands()
        self._publish()
        self.report.switched += self._switch.look(self._sources, self._now())
        if self._claim_s is not None and time.monotonic() > self._claim_s:
            self._claim()

    def _timeout_ms(self) -> int:
        behind = any(one.behind(one.stands) for one in self._held.values())
        return 0 if behind else int(self._settings.poll_timeout_s * 1000)

    # What this worker holds

    def _topics(self) -> set[str]:
        return {source.topic for source in self._sources.values()}

    def _missing(self) -> list[str]:
        return sorted(self._topics() - set(self._consumer.topics()))

    def _no_topic(self, missing: Sequence[str]) -> str:
        return f'there is no topic "{missing[0]}" on {self._settings.bootstrap_servers}'

    def _waited(self, fact: str, way_out: str) -> bool:
        """Wait a moment for what isn't there, and look at what is applied again; False when told to stop."""
        if not self._options.wait:
            raise StreamError(fact, hint=way_out)
        if fact != self._waits_for:
            logger.info("waiting: %s (%s)", fact, way_out)
            self._waits_for = fact
        self.stop.wait(WAIT_S)
        if self._metrics is not None:
            self._metrics.turned()
        self._registry_commit, self._sources = read_sources(self._store)
        return not self.stop.is_set()

    def _follow_group(self) -> None:
        """Let go what was taken away; take over what was given."""
        gone, self._listener.gone = self._listener.gone, set()
        for one in gone:
            self._let_go(partition_of(one))
        self._listener.new &= self._consumer.assignment()
        new = set(self._listener.new)
        if not new:
            return
        try:
            first, ends = self._consumer.beginning_offsets(new), self._consumer.end_offsets(new)
        except KafkaTimeoutError:
            logger.warning("the brokers don't say what %d partitions hold; asking again", len(new))
            return
        spans = {partition_of(one): Span(first[one], ends[one]) for one in new}
        topics = {one.topic for one in new} - self._topic_ids.keys()
        self._topic_ids |= found_topic_ids(self._consumer, topics)
        taken = self._writer.take(
            self._sources.values(),
            spans,
            worker=self._name,
            accept_gap=self._options.accept_gap,
            now_us=self._now(),
            topic_ids=self._topic_ids,
        )
        self._listener.new -= new
        self._claimed_until_s = 0.0
        self._held |= taken
        self._ends |= {one: spans[one].end for one in taken}
        logger.info(
            "%s takes %s", self._name, ", ".join(f"{one.topic}/{one.number}" for one in sorted(taken))
        )
        self._seek(taken)
        self._publisher.look(self._sources)
        self._assigned_s = time.monotonic()
        if self._claim_s is None:
            self._claim_s = self._assigned_s + CLAIM_S

    def _let_go(self, one: Partition) -> None:
        held = self._held.pop(one, None)
        self._ends.pop(one, None)
        if held is not None and self._metrics is not None:
            for source in held.epochs:
                self._metrics.gone(source, *one)

    def _tell_where_it_stands(self) -> None:
        assert self._metrics is not None
        for one, held in self._held.items():
            end = self._consumer.highwater(TopicPartition(*one)) or self._ends[one]
            for source in held.epochs:
                self._metrics.stands(source, *one, position=held.front, end=end)

    def _claim(self) -> bool:
        """Ask the group to assign again where a partition was never given to any worker, once.

        A member that comes back under its own name is handed its old partitions without anybody looking at
        the topic: one that was added meanwhile would wait.
        """
        with self._store.snapshot() as snapshot:
            waiting = [
                source.topic
                for name, source in self._sources.items()
                if self._partitions_of(source.topic) - taken_partitions(snapshot, name, source.topic)
            ]
        self._claim_s = math.inf
        if waiting:
            # The client has no public word for it.
            self._consumer._coordinator.request_rejoin()
        return bool(waiting)

    def _partitions_of(self, topic: str) -> set[int]:
        return set(self._consumer.partitions_for_topic(topic) or ())

    def _seek(self, held: Mapping[Partition, Held]) -> None:
        for one, standing in held.items():
            at = TopicPartition(*one)
            self._consumer.seek(at, standing.front)
            self._consumer.resume(at)

    def _follow_registry(self) -> None:
        """Read what was applied since; a new timeline version begins at the first message."""
        with self._store.snapshot() as snapshot:
            changed = snapshot.registry_commit != self._registry_commit
        if changed:
            self._registry_commit, self._sources = read_sources(self._store)
            self._stand_again()
        wanted = self._topics()
        if wanted != self._subscribed:
            if missing := self._missing():
                raise StreamError(self._no_topic(missing), hint=_MAKE)
            self._consumer.subscribe(sorted(wanted), listener=self._listener)
            self._subscribed = wanted

    def _stand_again(self) -> None:
        """Take everything over anew: versions were made or dropped, or a commit was refused."""
        assigned = {one for one in self._consumer.assignment() if partition_of(one) in self._held}
        for one in assigned:
            self._consumer.pause(one)
        self._listener.new |= assigned
        self._follow_group()

    def _stand_as_stored(self) -> None:
        """Go on from where the store stands, with the epochs that this worker has."""
        self._follow_registry()
        with self._store.snapshot() as snapshot:
            read_again(snapshot, self._sources.values(), self._held)
        # What is to be taken over begins there.
        settled = {partition_of(one) for one in self._consumer.assignment() - self._listener.new}
        self._seek({one: held for one, held in self._held.items() if one in settled})
        self._astray = False

    def _fenced(self, error: FencedError) -> None:
        """Stop consuming what another worker has; go on with the rest from where the store stands."""
        logger.warning("%s", error.fact)
        lost = Partition(error.topic, error.partition)
        self._let_go(lost)
        if self._metrics is not None:
            self._metrics.refused()
        at = TopicPartition(*lost)
        if at in self._consumer.assignment():
            self._consumer.pause(at)
        with self._store.snapshot() as snapshot:
            read_again(snapshot, self._sources.values(), self._held)
        self._seek(self._held)

    def _out_of_range(self, error: OffsetOutOfRangeError) -> StreamError:
        for at in error.args[0]:
            one = partition_of(at)
            first, ends = self._consumer.beginning_offsets([at]), self._consumer.end_offsets([at])
            # Of a topic that was made again its id says more than its offsets do.
            found = found_topic_ids(self._consumer, self._topic_ids)
            check_topic_ids(self._sources.values(), self._held, self._topic_ids, found)
            with self._store.snapshot() as snapshot:
                read_again(snapshot, self._sources.values(), self._held)
            for name, source in self._sources.items():
                if source.topic == one.topic and one in self._held:
                    return outside(name, one, self._held[one].front, Span(first[at], ends[at]))
        return StreamError(f"{error}")

    # Consuming

    def _consume(self, polled: Mapping[Partition, Sequence[Any]]) -> None:
        """Write what was polled, in one commit a source; then the front is behind it."""
        ends: dict[Partition, int] = {}
        for one, held in self._held.items():
            next_offset = self._consumer.position(TopicPartition(*one))
            # Offsets that hold no message for us (of the broker, of aborted transactions) are passed too.
            if next_offset is not None and next_offset > held.front:
                ends[one] = next_offset
        fronts = {one: self._held[one].front for one in ends}
        for source in self._sources.values():
            groups: dict[frozenset[int], list[Partition]] = {}
            for one in sorted(ends):
                if one.topic == source.topic:
                    timelines = frozenset(
                        number
                        for number in source.timelines
                        if self._held[one].stands.get(number) == fronts[one]
                    )
                    if timelines:
                        groups.setdefault(timelines, []).append(one)
            for timelines, partitions in groups.items():
                read = [(one, fronts[one], ends[one], polled.get(one, ())) for one in partitions]
                self._write(source, timelines, read, catching_up=False)
        self._tell_the_broker(ends)

    def _write(
        self,
        source: Streamed,
        timelines: frozenset[int],
        read: Sequence[tuple[Partition, int, int, Sequence[Any]]],
        *,
        catching_up: bool,
    ) -> None:
        """Decode and commit messages of some partitions, given where each begins and ends."""
        plan = source.plan
        runs = [
            Run(
                one,
                self._held[one].epochs[plan.name],
                first,
                next_offset,
                self._consumer.highwater(TopicPartition(*one)) or next_offset,
                records,
            )
            for one, first, next_offset, records in read
        ]
        batch = batch_of(
            plan, timelines, runs, self._codecs.of(plan),
            catching_up=catching_up, max_value_bytes=self._settings.max_value_bytes,
        )  # fmt: skip
        path = archive_path(plan)
        if self._options.archive and path is not None:
            # On the disk before the positions go past it.
            archive(self._store, self._root / path, batch, runs)
        now_us = self._now()
        began_s = time.perf_counter()
        made = self._writer.commit(batch, now_us)
        if self._metrics is not None and not catching_up:
            stamps_ms = [record.timestamp for run in runs for record in run.records if record.timestamp >= 0]
            self._metrics.committed(
                plan.name,
                made.counts,
                took_s=time.perf_counter() - began_s,
                stamps_ms=stamps_ms,
                latest_event_us=latest_event(plan, batch.table),
                now_us=self._now(),
            )
        self.report.add(plan.name, made.counts)
        if batch.dead:
            self._publisher.look([plan.name])
        for one, _, next_offset, _ in read:
            for timeline in timelines:
                self._held[one].stands[timeline] = next_offset

    def _publish(self) -> None:
        for source in self._sources.values():
            mine = [one.number for one in self._held if one.topic == source.topic]
            self._publisher.publish(source.plan, mine, self._now())

    def _tell_the_broker(self, ends: Mapping[Partition, int]) -> None:
        """For tools that show lag; nothing here reads it."""
        offsets = {TopicPartition(*one): OffsetAndMetadata(end, "", -1) for one, end in ends.items()}
        if offsets:
            self._consumer.commit_async(offsets, callback=_told)

    # Catching up

    def _catch_up(self) -> None:
        """Bring timelines that are behind the front nearer to it, a batch each; one that is nearer than a
        batch gets there, because the front stands still meanwhile."""
        for one, held in sorted(self._held.items()):
            for source in self._sources.values():
                if source.topic != one.topic:
                    continue
                for timeline, at in held.behind(source.timelines):
                    for first, next_offset, records in self._reader.below(one, at, held.front):
                        read = [(one, first, next_offset, records)]
                        self._write(source, frozenset({timeline}), read, catching_up=True)

    def _at_ends(self) -> bool:
        if not self._options.until_end:
            return False
        if not self._held:
            return time.monotonic() > self._assigned_s + UNASSIGNED_S
        if self._listener.new:
            return False
        reached = all(
            held.front >= self._ends[one] and not held.behind(held.stands) for one, held in self._held.items()
        )
        if reached and self._claim_s not in (None, math.inf) and self._claim():
            self._claimed_until_s = time.monotonic() + UNASSIGNED_S
        return reached and time.monotonic() > self._claimed_until_s


def _told(offsets: object, response: object) -> None:
    if isinstance(response, KafkaError):
        logger.debug("the broker kept no offsets: %s", response)
