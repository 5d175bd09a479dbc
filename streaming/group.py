"""What the group says: which partitions a worker is given, and which are taken away. No time is read here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kafka import TopicPartition
from kafka.consumer.subscription_state import ConsumerRebalanceListener

from streaming.assignment import Partition


class Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Notes what the group says. It runs on the client's own thread, inside ``poll``: no reading, no
    writing."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self.new: set[TopicPartition] = set()
        self.gone: set[TopicPartition] = set()

    def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        for one in assigned:
            # Nothing is fetched until the store has said where.
            self._consumer.seek(one, 0)
            self._consumer.pause(one)
            self.new.add(one)
            self.gone.discard(one)

    def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        for one in revoked:
            self.gone.add(one)
            self.new.discard(one)

    on_partitions_lost = on_partitions_revoked


def partition_of(one: TopicPartition) -> Partition:
    return Partition(one.topic, one.partition)
