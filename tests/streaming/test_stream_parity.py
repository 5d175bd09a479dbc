"""Law 1 through Kafka: generated histories, shuffled, partly sent twice, over partitions and batches of any
size, answer as the oracle does, bit for bit; and so does a training set over what the stream archived."""

from __future__ import annotations

import base64
import datetime
import math
import shutil
from collections.abc import Mapping
from contextlib import closing
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition

import tests.strategies as generated
from featurestore.dsl.aggregation import Aggregation
from featurestore.dsl.entity import Entity
from featurestore.dsl.feature_view import FeatureView
from featurestore.dsl.source import EventSource, KafkaTopic
from featurestore.feature_store import FeatureStore
from featurestore.project import collect
from featurestore.settings import StreamingSettings
from featurestore.testing.hosts import versions_table
from featurestore.testing.reference import Oracle, Row
from streaming.settings import WorkerOptions
from streaming.worker import Worker
from tests.parity.answers import mismatches
from tests.parity.projects import VIEW, Project, discard, features
from tests.parity.test_parity import on_the_edges
from tests.services.kafka import Broker
from tests.streaming.stream_project import new_topic, send, stream_counts

PARTITIONS = 3


def as_json(value: Any) -> Any:
    """A value as a producer writes it."""
    match value:
        case float() if math.isnan(value):
            return "NaN"
        case float() if math.isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
        case datetime.datetime() | datetime.date():
            return value.isoformat()
        case bytes():
            return base64.b64encode(value).decode("ascii")
        case Decimal():
            return msgspec.Raw(format(value, "f").encode())
        case list():
            return [as_json(item) for item in value]
    return value


class Stream:
    """One schema: a topic, and a store without facts that is copied for each history."""

    def __init__(self, directory: Path, broker: Broker, history: generated.History, rotation: int) -> None:
        self.broker = broker
        self.topic = new_topic(broker, PARTITIONS)
        self.directory = directory
        self.schema = history.schema
        self.made = 0
        parts: Mapping[str, Any] = {"event_time": "ts", **history.source}
        asked: list[Aggregation] = list(features(rotation))
        events = EventSource(
            "events", topic=KafkaTopic(self.topic, archive="archive"), columns=dict(history.columns), **parts
        )
        self.view = FeatureView(VIEW, entity=Entity("card", key=["card"]), source=events, features=asked)
        directory.mkdir(parents=True)
        (directory / "features.py").write_text("raise AssertionError('declared by the test')\n")
        (directory / "featurestore.toml").write_text("[engine]\nthreads = 1\n")
        self.applied = FeatureStore(directory)
        self.applied.declarations = collect({"views": [self.view]})  # type: ignore[misc]
        self.applied.apply()
        self.applied.close()

    def project(self) -> Project:
        self.made += 1
        directory = self.directory.with_name(f"{self.directory.name}-{self.made}")
        shutil.copytree(self.directory, directory)
        project = Project(directory, self.view)
        project.store.declarations = self.applied.declarations  # type: ignore[misc]
        project.store.plans = self.applied.plans  # type: ignore[misc]
        return project

    def send(self, rows: list[Row], partitions: list[int]) -> None:
        table = versions_table(self.schema, rows)
        values = [msgspec.json.encode({name: as_json(held) for name, held in row.items()})
                  for row in table.to_pylist()]  # fmt: skip
        send(self.broker, self.topic, values, partitions=partitions)

    def empty(self) -> None:
        """The next history begins after this one's messages."""
        at = [TopicPartition(self.topic, number) for number in range(PARTITIONS)]
        with closing(KafkaConsumer(bootstrap_servers=self.broker.bootstrap, group_id=None)) as consumer:
            ends = consumer.end_offsets(at)
        with closing(KafkaAdminClient(bootstrap_servers=self.broker.bootstrap)) as admin:
            admin.delete_records({one: end for one, end in ends.items() if end})


def check(
    data: st.DataObject, streams: dict[tuple[object, ...], Stream], directory: Path, broker: Broker
) -> None:
    history = data.draw(generated.histories().filter(lambda made: "id" in made.source))
    again = data.draw(st.lists(st.sampled_from(history.rows), max_size=4)) if history.rows else []
    rows = data.draw(st.permutations([*history.rows, *again]))
    partitions = [data.draw(st.integers(0, PARTITIONS - 1)) for _ in rows]
    batch = data.draw(st.sampled_from([1, 2, 3, 100]))
    cut = data.draw(st.integers(0, len(rows)))
    rotation = data.draw(st.integers(0, 1))
    key = (*history.source, rotation)
    if key not in streams:
        streams[key] = Stream(directory / f"schema-{len(streams)}", broker, history, rotation)
    stream = streams[key]
    asked = [*data.draw(generated.questions(history)), *on_the_edges(history)]
    known_at = data.draw(generated.horizons(history))
    project = stream.project()
    try:
        chosen = StreamingSettings(
            bootstrap_servers=broker.bootstrap, group=stream.topic, instance="test", batch_messages=batch,
            poll_timeout_s=0.05, session_timeout_s=6,
        )  # fmt: skip
        options = WorkerOptions(until_end=True, archive=True)
        for part in (slice(0, cut), slice(cut, None)):
            stream.send(rows[part], partitions[part])
            Worker(project.store.store, project.directory, chosen, options).run()
        stream_counts(project.store, stream.topic)
        oracle = Oracle(project.view, history.schema, rows)
        wrong = list(islice(mismatches(project, oracle, asked, known_at), 10))
        assert not wrong, "\n".join(wrong)
    finally:
        stream.empty()
        discard(project)


def run(directory: Path, broker: Broker, histories: int) -> None:
    streams: dict[tuple[object, ...], Stream] = {}

    @settings(
        max_examples=histories,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
    @given(st.data())
    def parity(data: st.DataObject) -> None:
        check(data, streams, directory, broker)

    parity()


def test_law_1_parity_holds_for_what_comes_through_kafka(tmp_path: Path, broker: Broker):
    run(tmp_path, broker, 15)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_law_1_parity_holds_for_500_histories_through_kafka(tmp_path: Path, broker: Broker):
    run(tmp_path, broker, 500)
