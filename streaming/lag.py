"""How far topics go, as the brokers say now."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from featurestore.settings import StreamingSettings
from streaming.settings import reader_options

ANSWER_MS = 5_000


def ends(settings: StreamingSettings, places: Collection[tuple[str, int]]) -> dict[tuple[str, int], int]:
    """(topic, partition) -> the offset of its next message. Empty where no broker answers in time."""
    options = {**reader_options(settings), "bootstrap_timeout_ms": ANSWER_MS}
    try:
        with closing(KafkaConsumer(group_id=None, **options)) as consumer:
            asked = [TopicPartition(*one) for one in places]
            found = consumer.end_offsets(asked) if asked else {}
    except KafkaError:
        return {}
    return {(one.topic, one.partition): offset for one, offset in found.items()}
