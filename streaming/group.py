"""What the group says: which partitions a worker is given, and which are taken away. No time is read here."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.coordinator.base import MemberState
from kafka.coordinator.consumer import ConsumerCoordinator

from streaming.assignment import Partition


def member(options: Mapping[str, object]) -> Any:
    """A consumer that is a member of its group, and stays one."""
    consumer = KafkaConsumer(**options)
    # The client has no public word for another coordinator.
    assert type(consumer._coordinator) is ConsumerCoordinator
    consumer._coordinator.__class__ = Coordinator
    return consumer


class Coordinator(ConsumerCoordinator):  # type: ignore[misc]
    """The client's, which joins a group in the background and loses the outcome where a poll ends meanwhile.

    It asks the reason for joining once more before it looks at the outcome; where that was the topic's
    metadata or the subscription, it is gone by then: the member is given partitions, takes none, sends no
    heartbeats any more and is out of the group for ever. Otherwise, an outcome that came between two polls is
    thrown away, and it joins anew.
    """

    _join_task: Any

    def need_rejoin(self) -> bool:
        """Whether there is something to join, or an outcome to look at."""
        return self._join_task is not None or bool(super().need_rejoin())

    async def join_group_async(self, timeout_ms: float | None = None) -> bool:
        """Take the outcome that came between two polls, or join."""
        task = self._join_task
        if task is not None and task.is_done and task.succeeded():
            self._join_task = None
            with self._lock:
                self.rejoining = False
                self.rejoin_needed = False
                self.state = MemberState.STABLE
                self._enable_heartbeat()
            now = self._generation
            await self._on_join_complete_async(now.generation_id, now.member_id, now.protocol, task.value)
            return True
        return bool(await super().join_group_async(timeout_ms))

    async def _on_join_prepare_async(
        self, generation: int, member_id: str, timeout_ms: float | None = None
    ) -> None:
        lost = self._generation.is_lost()
        await super()._on_join_prepare_async(generation, member_id, timeout_ms=timeout_ms)
        if lost:
            # A member that was out of the group claims nothing: others have what it had.
            for assignor in self._assignors.values():
                assignor.member_assignment = None


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


def found_topic_ids(consumer: Any, topics: Collection[str]) -> dict[str, str]:
    """What the brokers call topics, as the client last heard: the same for as long as a topic is there. Empty
    for brokers older than 2.8."""
    # The client has no public word for it.
    found = {topic: consumer._cluster.topic_id(topic) for topic in topics}
    return {topic: str(one) for topic, one in found.items() if one is not None and one.int}
