"""What the stream benchmark runs in processes of their own: the floor, a worker, and who asks.

A mark is (clock, processor time, messages) after a batch, so that what a process does at first (imports,
joining its group) is not in what it takes for a message.
"""

from __future__ import annotations

import time
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Event, Thread

Mark = tuple[float, float, int]


def mark(messages: int) -> Mark:
    return time.perf_counter(), time.process_time(), messages


def poll_and_decode(root: Path, topic: str, until: int, to: Connection) -> None:
    """The floor: a worker's own client and decoder, and nothing else."""
    from kafka import KafkaConsumer, TopicPartition

    from benchmarks.stream_data import PARTITIONS
    from featurestore import FeatureStore
    from streaming.assignment import read_sources
    from streaming.codec import Codecs
    from streaming.processor import decode
    from streaming.settings import reader_options

    with FeatureStore(root) as store:
        settings = store.settings.streaming
        plan = read_sources(store.store)[1]["events"].plan
    consumer = KafkaConsumer(group_id=None, **reader_options(settings))
    consumer.assign([TopicPartition(topic, number) for number in range(PARTITIONS)])
    consumer.seek_to_beginning()
    codec, read, rows, marks = Codecs(settings).of(plan), 0, 0, []
    while read < until:
        polled = consumer.poll(timeout_ms=1_000)
        records = [record for of_one in polled.values() for record in of_one]
        if records:
            rows += decode(records, plan, codec, max_value_bytes=settings.max_value_bytes).table.num_rows
            read += len(records)
            marks.append(mark(read))
    assert rows == read
    consumer.close()
    to.send(marks)


def work(root: Path, number: int, to: Connection) -> None:
    """A worker; it ends when it is told to, and says its marks."""
    from featurestore import FeatureStore
    from featurestore.store.stream import StreamBatch, StreamCommit
    from streaming.settings import WorkerOptions
    from streaming.worker import Worker
    from streaming.writer import StoreWriter

    marks: list[Mark] = []

    class Marking(StoreWriter):
        def commit(self, batch: StreamBatch, now_us: int) -> StreamCommit:
            made = super().commit(batch, now_us)
            before = marks[-1][2] if marks else 0
            marks.append(mark(before + sum(one["delivered"] for one in made.counts.values())))
            return made

    stop = Event()

    def stop_when_told() -> None:
        to.recv()
        stop.set()

    Thread(target=stop_when_told, daemon=True).start()
    with FeatureStore(root) as project:
        store, settings = project.store, project.settings.streaming
        options = WorkerOptions(number=number)
        report = Worker(store, root, settings, options, stop=stop, writer=Marking(store)).run()
    to.send((marks, report.to_dict()))


def ask_until_shown(
    port: int, bootstrap: str, topic: str, first: int, seconds: float, to: Connection
) -> None:
    """Freshness: seconds from a producer's send of an event to the first answer over HTTP that shows it."""
    import http.client
    import json

    from kafka import KafkaProducer

    from benchmarks.stream_data import PARTITIONS, message

    producer = KafkaProducer(bootstrap_servers=bootstrap, acks=1)
    server = http.client.HTTPConnection("127.0.0.1", port)
    taken, end_s, number = [], time.perf_counter() + seconds, first
    while time.perf_counter() < end_s:
        number += 1
        # Nobody else has events of this entity.
        asked = json.dumps({"features": ["activity:count_1d"], "entities": {"entity_id": [number]}})
        value = message(number, number, time.time_ns() // 1000, 1.0)
        began_s = time.perf_counter()
        producer.send(topic, value, partition=number % PARTITIONS)
        while True:
            server.request("POST", "/get-online-features", asked, {"content-type": "application/json"})
            answer = json.loads(server.getresponse().read())
            if answer["results"][1]["values"] == [1]:
                break
            assert time.perf_counter() < began_s + 30, answer
            time.sleep(0.003)
        taken.append(time.perf_counter() - began_s)
        time.sleep(0.1)
    producer.close()
    to.send(taken)


def push(port: int, first: int, seconds: float, to: Connection) -> None:
    """Seconds that each push of ten rows over HTTP took; one that fails is raised."""
    import http.client
    import json
    from datetime import UTC, datetime

    server = http.client.HTTPConnection("127.0.0.1", port)
    taken, end_s, number = [], time.perf_counter() + seconds, first
    while time.perf_counter() < end_s:
        now = datetime.now(UTC).isoformat()
        rows = [{"id": number + n, "entity_id": n, "ts": now, "amount": 1.0} for n in range(10)]
        number += len(rows)
        began_s = time.perf_counter()
        server.request("POST", "/ingest/events", json.dumps(rows), {"content-type": "application/json"})
        answer = server.getresponse()
        said = json.loads(answer.read())
        assert answer.status == 200 and said["accepted"] == len(rows), (answer.status, said)
        taken.append(time.perf_counter() - began_s)
        time.sleep(0.1)
    to.send(taken)
