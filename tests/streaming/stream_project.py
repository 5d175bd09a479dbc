"""Projects for the tests of streams: card transactions in a topic, a view over them, workers and answers.

Time: every event lies in the hundred days before ``AS_OF``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import NewTopic

from featurestore import FeatureStore
from featurestore.store.positions import Position, read_positions
from streaming.report import StreamReport
from streaming.settings import WorkerOptions
from streaming.worker import Worker
from tests.integration.backfill_project import BEGIN_US, DAY_US, Row
from tests.services.kafka import Broker

FEATURES_PY = """
from featurestore import Entity, EventSource, FeatureView, KafkaTopic, Parquet, agg

card = Entity("card", key="card_id")
transactions = EventSource(
    "transactions", {log} topic=KafkaTopic("{topic}"{options}), event_time="ts",
    id="transaction_id", available_at="recorded_at", deleted="gone",
    columns={{"transaction_id": "string", "card_id": "string", "ts": "timestamp", "amount": "float64",
              "recorded_at": "timestamp", "gone": "bool"}},
)
activity = FeatureView("activity", entity=card, source=transactions, features=[
    agg.count(windows=["7d", "90d"]), agg.count(name="n"),
    agg.sum("amount", windows=["30d"]), agg.sum("amount"),
    agg.last("amount"), agg.first_k("transaction_id", k=5), agg.last_k("amount", k=3),{more}
])
"""

LOG = 'log=Parquet("data/*.parquet"),'


def new_topic(broker: Broker, partitions: int = 3, **configs: str) -> str:
    """A topic of its own for a test."""
    name = f"transactions-{uuid.uuid4().hex[:12]}"
    make_topic(broker, name, partitions, **configs)
    return name


def make_topic(broker: Broker, name: str, partitions: int = 3, **configs: str) -> None:
    with closing(KafkaAdminClient(bootstrap_servers=broker.bootstrap)) as admin:
        admin.create_topics([NewTopic(name, partitions, 1, topic_configs=configs)])


def project(
    root: Path,
    broker: Broker,
    topic: str,
    *,
    log: str = "",
    options: str = "",
    more: str = "",
    batch: int = 5_000,
) -> Path:
    """A project's directory, declared and with its settings."""
    (root / "data").mkdir(parents=True, exist_ok=True)
    declare(root, topic, log=log, options=options, more=more)
    (root / "featurestore.toml").write_text(
        f'[streaming]\nbootstrap_servers = "{broker.bootstrap}"\ngroup = "{topic}"\ninstance = "test"\n'
        f"batch_messages = {batch}\npoll_timeout_s = 0.1\nsession_timeout_s = 6.0\n[engine]\nthreads = 1\n"
    )
    return root


def declare(root: Path, topic: str, *, log: str = "", options: str = "", more: str = "") -> None:
    (root / "features.py").write_text(FEATURES_PY.format(log=log, topic=topic, options=options, more=more))


def value(one: Row) -> bytes:
    """A transaction as a producer sends it: JSON, its times as text."""
    return json.dumps({name: _json(name, held) for name, held in one.items()}).encode()


def _json(name: str, held: object) -> object:
    if name in ("ts", "recorded_at") and isinstance(held, int):
        return (datetime.fromtimestamp(0, UTC) + timedelta(microseconds=held)).isoformat()
    return held


def send(
    broker: Broker,
    topic: str,
    values: Sequence[bytes | None],
    *,
    partitions: Sequence[int] | None = None,
    keys: Sequence[bytes | None] | None = None,
    timestamps_ms: Sequence[int] | None = None,
    **options: Any,
) -> None:
    """Values into a topic, durable when it returns; the i-th into ``partitions[i]``."""
    producer = KafkaProducer(
        bootstrap_servers=broker.bootstrap, linger_ms=5, max_request_size=20_000_000, **options
    )
    try:
        for i, one in enumerate(values):
            producer.send(
                topic,
                one,
                # A tombstone without a key is no message to this client.
                key=keys[i] if keys is not None else b"k" if one is None else None,
                partition=0 if partitions is None else partitions[i],
                timestamp_ms=None if timestamps_ms is None else timestamps_ms[i],
            )
        producer.flush()
    finally:
        producer.close()


def read_to_end(root: Path, **options: Any) -> StreamReport:
    """A worker in this process that stops at the topics' ends."""
    with FeatureStore(root) as store:
        chosen = WorkerOptions(until_end=True, **options)
        return Worker(store.store, store.root, store.settings.streaming, chosen).run()


def started(root: Path, number: int = 0, *flags: str, **environment: str) -> subprocess.Popen[str]:
    """A worker in a process of its own."""
    command = [sys.executable, "-m", "streaming", "--project", str(root), "--number", str(number), *flags]
    return subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def stopped(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Ask a worker to stop; what it has said."""
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)
    assert process.returncode == 0, said[1]
    return said


def stands(store: FeatureStore, timelines: Sequence[int] = (1,)) -> dict[int, Position]:
    """Partition -> the position of the given timelines, which must agree."""
    with store.store.snapshot() as snapshot:
        found = read_positions(snapshot, timelines)
    made: dict[int, Position] = {}
    for one in found:
        before = made.setdefault(one.partition, one)
        assert before.next_offset == one.next_offset
    return made


def stream_counts(store: FeatureStore, topic: str) -> dict[int, dict[str, int]]:
    """The counters of the stream by partition. Law 6 is checked here: they add up to what lies below the
    committed position."""
    with store.store.snapshot() as snapshot:
        found = snapshot.counters()
    made: dict[int, dict[str, int]] = {}
    for key, n in found.items():
        name, _, number = key.partition.rpartition("/")
        if name == topic and number.isdigit():
            made.setdefault(int(number), {})[key.kind] = n
    for number, position in stands(store).items():
        counts = made.get(number, {})
        became = sum(n for kind, n in counts.items() if kind != "delivered")
        delivered = position.next_offset - position.first_offset
        assert became == counts.get("delivered", 0) == delivered, (number, counts, position)
    return made


def totals(counts: Mapping[int, Mapping[str, int]]) -> dict[str, int]:
    """The counters of all partitions together, without zeros."""
    made: dict[str, int] = {}
    for of_partition in counts.values():
        for kind, n in of_partition.items():
            made[kind] = made.get(kind, 0) + n
    return {kind: n for kind, n in sorted(made.items()) if n}


__all__ = ["BEGIN_US", "DAY_US"]
