"""What lies below a partition's front, for timelines that catch up: read without a group. No time is read
here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Event
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from featurestore.settings import StreamingSettings
from streaming.assignment import Partition
from streaming.settings import reader_options


class Reader:
    """A consumer of its own, made when it is first asked."""

    def __init__(self, settings: StreamingSettings, stop: Event) -> None:
        self._settings = settings
        self._stop = stop
        self._consumer: Any = None

    def below(self, one: Partition, at: int, front: int) -> Iterator[tuple[int, int, Sequence[Any]]]:
        """Messages with offsets in ``[at, front)`` as (first, next, records): all of them where that is less
        than a batch, else one batch. OffsetOutOfRangeError where the topic no longer holds ``at``."""
        if self._consumer is None:
            self._consumer = KafkaConsumer(group_id=None, **reader_options(self._settings))
        tp = TopicPartition(*one)
        self._consumer.assign([tp])
        self._consumer.seek(tp, at)
        near = front - at <= self._settings.batch_messages
        while at < front and not self._stop.is_set():
            records = self._consumer.poll(timeout_ms=1_000).get(tp, [])
            next_offset = min(front, self._consumer.position(tp))
            if next_offset == at:
                continue
            yield at, next_offset, [record for record in records if record.offset < front]
            at = next_offset
            if not near:
                break

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close(autocommit=False)
