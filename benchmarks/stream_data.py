"""The stream benchmark's data and project: events of 100k entities by Zipf's law, in a log and in a topic.

History lies in the hundred days before the run, messages are of the run's own time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import NewTopic
from numpy.typing import NDArray

DAY_US = 86_400_000_000
PARTITIONS = 4

FEATURES_PY = '''
"""Ten features over three windows, from a log and a topic; and another source beside them."""
from featurestore import Entity, EventSource, FeatureView, KafkaTopic, Parquet, agg

entity = Entity("entity", key="entity_id")
columns = {{"id": "int64", "entity_id": "int64", "ts": "timestamp", "amount": "float64"}}
events = EventSource("events", log=Parquet("history.parquet"), topic=KafkaTopic("{topic}"),
                     event_time="ts", id="id", columns=columns)
activity = FeatureView("activity", entity=entity, source=events, features=[
    agg.count(windows=["1h", "1d", "30d"]), agg.sum("amount", windows=["1h", "1d", "30d"]),
    agg.mean("amount", windows=["1h", "1d", "30d"]), agg.last("amount"),
])
others = EventSource("others", log=Parquet("others.parquet"), event_time="ts", id="id", columns=columns)
elsewhere = FeatureView("elsewhere", entity=entity, source=others, features=[
    agg.count(windows=["1d"]), agg.sum("amount", windows=["30d"]),
])
'''


def drawn(draw: np.random.Generator, count: int, entities: int) -> NDArray[np.int64]:
    """Entities by Zipf's law: the n-th is met 1/n times as often as the first."""
    weights = np.cumsum(1.0 / np.arange(1, entities + 1))
    found: NDArray[np.int64] = np.searchsorted(weights, draw.random(count) * weights[-1])
    return found


def project(root: Path, *, topic: str, history: int, others: int, entities: int, settings: str) -> None:
    """A project's files: what is declared, the settings and both logs."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "features.py").write_text(FEATURES_PY.format(topic=topic))
    (root / "featurestore.toml").write_text(settings)
    now_us = time.time_ns() // 1000
    for seed, (name, count) in enumerate((("history", history), ("others", others))):
        draw = np.random.default_rng(seed)
        table = pa.table(
            {
                "id": np.arange(count),
                "entity_id": drawn(draw, count, entities),
                "ts": pa.array(now_us - draw.integers(0, 100 * DAY_US, count)).cast(
                    pa.timestamp("us", "UTC")
                ),
                "amount": draw.integers(1, 100_000, count) / 100.0,
            }
        )
        pq.write_table(table, root / f"{name}.parquet")


def make_topic(bootstrap: str, name: str) -> None:
    with closing(KafkaAdminClient(bootstrap_servers=bootstrap)) as admin:
        admin.create_topics([NewTopic(name, PARTITIONS, 1)])


@lru_cache(maxsize=4)
def _second(second: int) -> bytes:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()


def message(number: int, entity: int, ts_us: int, amount: float) -> bytes:
    second, us = divmod(ts_us, 1_000_000)
    return b'{"id": %d, "entity_id": %d, "ts": "%s.%06dZ", "amount": %.2f}' % (
        number, entity, _second(second), us, amount,
    )  # fmt: skip


def messages(first: int, count: int, entities: int) -> Iterator[tuple[int, int, float]]:
    """(number, entity, amount) of events that the log does not have."""
    draw = np.random.default_rng(first)
    of = drawn(draw, count, entities).tolist()
    return zip(
        range(first, first + count), of, (draw.integers(1, 100_000, count) / 100.0).tolist(), strict=True
    )


def send(
    bootstrap: str, topic: str, first: int, count: int, entities: int, rate: float | None = None
) -> None:
    """Events into a topic, each to its entity's partition; ``rate`` a second, or as fast as it goes."""
    producer = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=5 if rate is None else 0, acks=1)
    began_s = time.perf_counter()
    for n, (number, entity, amount) in enumerate(messages(first, count, entities)):
        if rate is not None and n % 20 == 0:
            time.sleep(max(0.0, n / rate - (time.perf_counter() - began_s)))
        value = message(number, entity, time.time_ns() // 1000, amount)
        producer.send(topic, value, partition=entity % PARTITIONS)
    producer.flush()
    producer.close()
