"""Workers of one group: partitions move, who lost his own can't commit, brokers die and come back."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from featurestore import FeatureStore
from featurestore.settings import StreamingSettings
from featurestore.store import Store
from featurestore.store.tables import stream_writers
from streaming.group import Listener, member
from streaming.settings import WorkerOptions, member_options
from tests.integration.backfill_project import row
from tests.services.kafka import Broker, running_broker
from tests.streaming.stream_project import (
    new_topic,
    project,
    send,
    stands,
    started,
    stopped,
    stream_counts,
    totals,
    value,
)

Processes = list[subprocess.Popen[str]]


@pytest.fixture
def workers() -> Iterator[Processes]:
    """What a test has started is gone after it."""
    running: Processes = []
    yield running
    for one in running:
        if one.poll() is None:
            one.kill()
        one.communicate()


def applied(root: Path) -> Path:
    with FeatureStore(root) as store:
        store.apply()
    return root


def wait_for(what: Callable[[], bool], workers: Processes, *, within_s: float = 60) -> None:
    deadline_s = time.monotonic() + within_s
    while not what():
        if time.monotonic() > deadline_s:
            for one in workers:
                one.terminate()
            raise AssertionError("it did not come", [one.communicate(timeout=60)[1] for one in workers])
        for one in workers:
            assert one.poll() in (None, 0), one.communicate()
        time.sleep(0.02)


def read(store: FeatureStore) -> int:
    return sum(one.next_offset for one in stands(store).values())


def writers(store: FeatureStore) -> dict[int, tuple[str, int]]:
    """Partition -> the worker that has it, and its epoch."""
    c = stream_writers.c
    with store.store.snapshot() as snapshot:
        query = select(c.partition, c.worker, c.epoch)
        return {partition: (worker, epoch) for partition, worker, epoch in snapshot._rows(query)}


def some(first: int, count: int) -> list[bytes]:
    return [
        value(row(number, card=f"c{number % 20}", day=number % 80)) for number in range(first, first + count)
    ]


def spread(count: int) -> list[int]:
    return [number % 4 for number in range(count)]


def held(store: FeatureStore) -> set[str]:
    return {worker for worker, _ in writers(store).values()}


def shares(store: FeatureStore, partitions: int) -> dict[str, int]:
    """Worker -> how many partitions it has; nothing before every partition is somebody's."""
    found = Counter(worker for worker, _ in writers(store).values())
    return dict(found) if found.total() == partitions else {}


@pytest.mark.parametrize("rounds", [1, pytest.param(6, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_one_worker_then_four_then_one_under_load_always_end_balanced_and_lose_nothing(
    tmp_path: Path, broker: Broker, workers: Processes, rounds: int
):
    topic = new_topic(broker, partitions=6)
    root = applied(project(tmp_path, broker, topic, batch=100))
    ended, sent = threading.Event(), 0

    def load() -> None:
        nonlocal sent
        while not ended.is_set():
            send(broker, topic, some(sent, 240), partitions=[number % 6 for number in range(240)])
            sent += 240
            time.sleep(0.3)

    producer = threading.Thread(target=load)
    with FeatureStore(root) as store:
        running = {0: started(root, 0)}
        workers.append(running[0])
        producer.start()
        try:
            wait_for(lambda: shares(store, 6) == {"test-0": 6}, workers, within_s=120)
            for _ in range(rounds):
                for number in (1, 2, 3):
                    running[number] = started(root, number)
                    workers.append(running[number])
                wait_for(lambda: sorted(shares(store, 6).values()) == [1, 1, 2, 2], workers, within_s=120)
                before = read(store)
                wait_for(lambda: read(store) > before + 500, workers)  # noqa: B023 - used at once
                for number in (1, 2, 3):
                    stopped(running.pop(number))
                # A static member that leaves is waited for until its session ends; then its partitions move.
                wait_for(lambda: shares(store, 6) == {"test-0": 6}, workers, within_s=120)
        finally:
            ended.set()
            producer.join()
        wait_for(lambda: read(store) == sent, workers)
        stopped(running[0])
        counts = totals(stream_counts(store, topic))
        assert counts == {"accepted": sent, "delivered": sent}
        n = store.online_features(["activity:n"], {"card_id": [f"c{i}" for i in range(20)]}).to_dict()
        assert n["activity__n"] == [sent // 20] * 20


def test_a_member_that_polls_for_moments_only_joins_its_group_and_follows_its_topics(broker: Broker):
    first, second = new_topic(broker, partitions=2), new_topic(broker, partitions=2)
    settings = StreamingSettings(bootstrap_servers=broker.bootstrap, group=first, session_timeout_s=6)
    consumer = member(member_options(settings, WorkerOptions()))
    listener = Listener(consumer)
    try:
        for topics in ([first], [first, second]):
            consumer.subscribe(topics, listener=listener)
            deadline_s = time.monotonic() + 30
            while {one.topic for one in consumer.assignment()} != set(topics):
                assert time.monotonic() < deadline_s
                # The outcome comes between two polls.
                consumer.poll(timeout_ms=0)
                time.sleep(0.05)
    finally:
        consumer.close(autocommit=False)


def run_sleeper(root: Path, log: Path, batches: int) -> None:
    """A worker that stops itself with a batch in its hands, read and prepared: what SIGSTOP, a long pause of
    the machine or of a garbage collector, does at the worst moment."""
    from streaming.worker import Worker

    logging.getLogger("featurestore.stream").addHandler(logging.FileHandler(log))
    commit, seen = Store.commit, 0

    def sleeping_commit(self: Store, kind: str, **kwargs: Any) -> Any:
        nonlocal seen
        seen += kind == "stream"
        if kind == "stream" and seen == batches:
            os.kill(os.getpid(), signal.SIGSTOP)
        return commit(self, kind, **kwargs)

    Store.commit = sleeping_commit  # type: ignore[method-assign]
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with FeatureStore(root) as store:
        Worker(store.store, store.root, store.settings.streaming, WorkerOptions(number=0), stop=stop).run()


def test_a_worker_that_slept_past_its_session_is_refused(tmp_path: Path, broker: Broker, workers: Processes):
    topic = new_topic(broker, partitions=4)
    root = applied(project(tmp_path, broker, topic, batch=100))
    log = tmp_path / "sleeper.log"
    with FeatureStore(root) as store:
        send(broker, topic, some(0, 800), partitions=spread(800))
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["streaming.worker", "featurestore.feature_store", __name__])
        sleeper = context.Process(target=run_sleeper, args=(root, log, 3))
        sleeper.start()
        try:
            assert sleeper.pid is not None
            status = Path(f"/proc/{sleeper.pid}/stat")
            wait_for(lambda: status.read_text().rpartition(")")[2].split()[0] == "T", [])
            stood = read(store)
            assert 0 < stood < 800
            workers.append(started(root, 1))
            wait_for(lambda: held(store) == {"test-1"} and read(store) == 800, workers)
            os.kill(sleeper.pid, signal.SIGCONT)
            wait_for(lambda: "was given to worker" in log.read_text(), workers)
            # It has stopped consuming what it lost; what the group gives it anew, it reads.
            wait_for(lambda: held(store) == {"test-0", "test-1"}, workers)
            send(broker, topic, some(800, 400), partitions=spread(400))
            wait_for(lambda: read(store) == 1_200, workers)
            sleeper.terminate()
            sleeper.join(30)
            assert sleeper.exitcode == 0
            stopped(workers[0])
        finally:
            sleeper.kill()
        assert totals(stream_counts(store, topic)) == {"accepted": 1_200, "delivered": 1_200}


@pytest.mark.parametrize("kills", [2, pytest.param(5, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_a_broker_that_is_killed_and_comes_back_costs_nothing(tmp_path: Path, workers: Processes, kills: int):
    # A broker that comes back is let in again once its last session is over: 9 s, unless it says otherwise.
    with running_broker("broker.session.timeout.ms=3000\nbroker.heartbeat.interval.ms=500\n") as broker:
        topic = new_topic(broker, partitions=4)
        root = applied(project(tmp_path, broker, topic, batch=100))
        with FeatureStore(root) as store:
            workers.append(started(root))
            for turn in range(kills):
                send(broker, topic, some(turn * 1_000, 1_000), partitions=spread(1_000))
                wait_for(lambda: read(store) > turn * 1_000, workers)  # noqa: B023 - used at once
                broker.kill()
                time.sleep(1.0)
                broker.start()
            sent = (kills + 1) * 1_000
            send(broker, topic, some(sent - 1_000, 1_000), partitions=spread(1_000))
            wait_for(lambda: read(store) == sent, workers)
            stopped(workers[0])
            assert totals(stream_counts(store, topic)) == {"accepted": sent, "delivered": sent}
