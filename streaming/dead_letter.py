"""Dead letters: a copy of each to a topic, and another try.

The store's table is what counts: it is written with the position that goes past the message. The topic is
for other readers; a copy may come twice after a crash, and says in its headers which message it is of.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import NewTopic
from kafka.errors import KafkaError, MessageSizeTooLargeError, TopicAlreadyExistsError

from featurestore.log.archive import archive_path, archived, write_retried
from featurestore.plan.nodes import SourcePlan
from featurestore.settings import StreamingSettings
from featurestore.store import Store
from featurestore.store.dead_letters import DeadLetter, read_dead_letters
from featurestore.store.ingest import registry_of
from featurestore.store.stream import commit_letters, without_forgotten
from streaming.assignment import streamed_sources
from streaming.codec import Codecs
from streaming.processor import decode
from streaming.settings import client_options
from streaming.writer import Writer

logger = logging.getLogger("featurestore.stream")

# A copy is as long as what it copies, and as long values are dead letters themselves.
COPY_BYTES = 64 << 20
# As many are read, sent and marked at a time.
LETTERS = 200
AGAIN_S = 5.0


class Publisher:
    """Copies dead letters to their topics; what can't be sent now is sent later."""

    def __init__(self, store: Store, settings: StreamingSettings, writer: Writer) -> None:
        self._store = store
        self._writer = writer
        self._settings = settings
        self._producer: Any = None
        self._topics: set[str] = set()
        self._due: dict[str, float] = {}

    def look(self, sources: Collection[str]) -> None:
        """See whether the store holds any of these sources that have no copy yet."""
        for name in sources:
            self._due.setdefault(name, 0.0)

    def publish(self, plan: SourcePlan, partitions: Collection[int], now_us: int) -> None:
        """Copy what is due of a source, from the partitions that this worker has."""
        due_s = self._due.get(plan.name)
        if due_s is None or time.monotonic() < due_s:
            return
        with self._store.snapshot() as snapshot:
            found = read_dead_letters(snapshot, plan.name, unpublished=True, limit=LETTERS)
        letters = [one for one in found if one.partition in partitions]
        try:
            for one in letters:
                self._send(plan, one)
        except KafkaError as error:
            logger.warning("dead letters of %s are not copied yet: %s", plan.name, error)
            self._due[plan.name] = time.monotonic() + AGAIN_S
            return
        if not letters:
            del self._due[plan.name]
            return
        self._writer.mark_published(plan.name, [one.letter_key for one in letters], now_us)
        self._due[plan.name] = 0.0

    def close(self) -> None:
        if self._producer is not None:
            self._producer.close()

    def _send(self, plan: SourcePlan, letter: DeadLetter) -> None:
        assert plan.topic is not None
        topic = plan.topic.dead_letter_topic
        if self._producer is None:
            self._producer = KafkaProducer(**client_options(self._settings), max_request_size=COPY_BYTES)
        if topic not in self._topics:
            self._make(topic)
        headers = [
            (name, str(value).encode())
            for name, value in (
                ("source", letter.source),
                ("topic", letter.topic),
                ("partition", letter.partition),
                ("offset", letter.offset),
                ("reason", letter.reason),
            )
        ]
        stamp = None if letter.timestamp_us is None else letter.timestamp_us // 1_000
        parts = {"key": letter.key, "timestamp_ms": stamp}
        try:
            self._producer.send(topic, letter.value, headers=headers, **parts).get(30)
        except MessageSizeTooLargeError:
            # A topic that someone made with a smaller limit: the store has the bytes.
            size = str(len(letter.value or b"")).encode()
            self._producer.send(topic, b"", headers=[*headers, ("value-bytes", size)], **parts).get(30)

    def _make(self, topic: str) -> None:
        with closing(KafkaAdminClient(**client_options(self._settings))) as admin:
            if topic not in admin.list_topics():
                configs = {"max.message.bytes": str(COPY_BYTES)}
                with suppress(TopicAlreadyExistsError):
                    admin.create_topics([NewTopic(topic, 1, -1, topic_configs=configs)])
        self._topics.add(topic)


@dataclass(frozen=True)
class Retried:
    """What became of dead letters that were read again: ``counts`` by outcome; ``still_dead`` with today's
    reasons."""

    counts: dict[str, int]
    still_dead: Sequence[DeadLetter]

    def to_dict(self) -> dict[str, Any]:
        dead = [
            {"topic": one.topic, "partition": one.partition, "offset": one.offset, "reason": one.reason}
            for one in self.still_dead
        ]
        return {"counts": self.counts, "still_dead": dead}

    def text(self) -> str:
        told = ", ".join(f"{n:,} {what}" for what, n in self.counts.items() if n) or "nothing was read"
        lines = [told]
        lines += [f"  {one.topic}/{one.partition}/{one.offset}: {one.reason}" for one in self.still_dead[:20]]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Message:
    key: bytes | None
    value: bytes | None
    timestamp: int


def retry(
    store: Store, root: Path, settings: StreamingSettings, letters: Sequence[DeadLetter], now_us: int
) -> Retried:
    """Read dead letters again under what is applied now; what can be read is in the timelines, and in the
    archive where the source has one, and is a dead letter no more."""
    with store.snapshot() as snapshot:
        sources = streamed_sources(registry_of(store, snapshot))
    codecs = Codecs(settings)
    counts: dict[str, int] = {}
    still_dead: list[DeadLetter] = []
    for name in dict.fromkeys(one.source for one in letters):
        mine = [one for one in letters if one.source == name]
        if name not in sources:
            still_dead += [one._replace(reason="its source is not applied with a topic") for one in mine]
            continue
        plan = sources[name].plan
        messages = [
            _Message(one.key, one.value, -1 if one.timestamp_us is None else one.timestamp_us // 1_000)
            for one in mine
        ]
        decoded = decode(messages, plan, codecs.of(plan), max_value_bytes=settings.max_value_bytes)
        still_dead += [mine[number]._replace(reason=reason) for number, reason in decoded.dead.items()]
        path = archive_path(plan)
        if path is not None and archived(plan, root).log is not None:
            table, kept = without_forgotten(store, plan, decoded.table)
            message = decoded.message[kept]
            for number in sorted(set(message.tolist())):
                one, rows = mine[number], np.flatnonzero(message == number)
                write_retried(root / path, one.topic, one.partition, one.offset, table.take(pa.array(rows)))
        found = commit_letters(store, plan, decoded.table, decoded.message, mine, decoded.dead, now_us)
        for what, n in found.items():
            counts[what] = counts.get(what, 0) + n
    return Retried({**counts, "still dead": len(still_dead)}, still_dead)
