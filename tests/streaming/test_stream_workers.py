"""The worker processes of one command: one process commits on SQLite, who fails is started again."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable
from multiprocessing import Pipe
from pathlib import Path
from threading import Event, Lock, Thread

import numpy as np
import pyarrow as pa
import pytest

from featurestore import FeatureStore
from featurestore.errors import FencedError, StoreInterruptedError, StreamError
from featurestore.store.positions import Slice, Span
from featurestore.store.stream import StreamBatch
from streaming import __main__ as one_worker
from streaming import processes
from streaming.assignment import Partition, read_sources
from streaming.settings import WorkerOptions
from streaming.worker import Worker
from streaming.writer import PipedWriter, StoreWriter, WriterGoneError, serve
from tests.integration.backfill_project import answers, messy_rows, row, write
from tests.integration.backfill_project import project as log_project
from tests.services.kafka import Broker
from tests.services.postgres import Postgres
from tests.services.proxy import Proxy
from tests.streaming.stream_project import (
    make_topic,
    new_topic,
    project,
    send,
    stands,
    stream_counts,
    totals,
    value,
)
from tests.streaming.test_stream_group import applied, read, shares
from tests.streaming.test_stream_postgres import command, on_postgres, wait_for

CARDS = 60


def children(running: subprocess.Popen[str]) -> set[int]:
    return set(map(int, Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()))


def soon(what: Callable[[], bool], within_s: float = 30) -> None:
    deadline_s = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < deadline_s, "it did not come"
        time.sleep(0.02)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(
    ("rounds", "kills"), [(1, 1), pytest.param(6, 3, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_three_workers_on_sqlite_give_the_answers_of_a_backfill_whichever_process_is_killed(
    tmp_path: Path, broker: Broker, rounds: int, kills: int
):
    # A thousand messages before each kill: of a worker, and last of the process that started them.
    rows = messy_rows(21, 1_000 * rounds * (kills + 2), cards=CARDS)
    topic = new_topic(broker, partitions=3)
    root = applied(project(tmp_path / "stream", broker, topic, batch=50))
    draw = random.Random(22)
    partitions = [draw.randrange(3) for _ in rows]
    sent = 0

    def more() -> int:
        """Send a thousand; how many there were before."""
        nonlocal sent
        part = slice(sent, sent + 1_000)
        send(broker, topic, [value(one) for one in rows[part]], partitions=partitions[part])
        sent += 1_000
        return sent - 1_000

    with FeatureStore(root) as store:
        for _ in range(rounds):
            running = command(root, "--workers", "3")
            try:
                wait_for(lambda: len(children(running)) == 3, running)  # noqa: B023 - used at once
                wait_for(lambda: shares(store, 3) == {f"test-{number}": 1 for number in range(3)}, running)
                more()
                wait_for(lambda: read(store) == sent, running)
                for _ in range(kills):
                    workers, before = children(running), more()
                    wait_for(lambda: read(store) > before, running)  # noqa: B023 - used at once
                    os.kill(draw.choice(sorted(workers)), signal.SIGKILL)
                    wait_for(lambda: read(store) == sent, running)
                    wait_for(lambda: len(children(running) - workers) == 1, running)  # noqa: B023
                # Who started them is killed under load: they end, and others go on from there.
                workers, before = children(running), more()
                wait_for(lambda: read(store) > before, running)  # noqa: B023 - used at once
                running.kill()
                soon(lambda: not any(map(lives, workers)))  # noqa: B023 - used at once
            finally:
                running.kill()
                running.communicate()
        alone = command(root)
        try:
            wait_for(lambda: read(store) == sent, alone)
        finally:
            alone.terminate()
            alone.communicate()
        assert totals(stream_counts(store, topic))["delivered"] == len(rows) == sent
        whole = log_project(tmp_path / "whole")
        write(whole, "all.parquet", rows)
        with FeatureStore(whole) as expected:
            expected.apply()
            expected.backfill()
            assert answers(store, CARDS) == answers(expected, CARDS)


def test_a_worker_that_lost_its_partition_is_refused_by_the_process_that_writes_for_it(
    tmp_path: Path, broker: Broker
):
    root = applied(project(tmp_path, broker, "t"))
    with FeatureStore(root) as store:
        pipes = [Pipe() for _ in range(2)]
        turn, writer = Lock(), StoreWriter(store.store)
        threads = [Thread(target=serve, args=(writer, here, turn)) for here, _ in pipes]
        for thread in threads:
            thread.start()
        first, second = (PipedWriter(there) for _, there in pipes)
        _, sources = read_sources(store.store)
        (source,) = sources.values()
        at = Partition("t", 0)

        def taken(by: PipedWriter, worker: str) -> int:
            given = by.take([source], {at: Span(0, 9)}, worker=worker, accept_gap=False, now_us=1)
            return given[at].epochs["transactions"]

        def batch(epoch: int, start: int, end: int) -> StreamBatch:
            none = np.empty(0, np.int64)
            empty = pa.schema([(name, dtype.arrow) for name, dtype in source.plan.columns]).empty_table()
            slices, ignored = [Slice("t", 0, epoch, start, end, 9)], np.array([end - start])
            return StreamBatch(source.plan, source.timelines, slices, empty, none, none, (), ignored)

        old = taken(first, "first")
        assert first.commit(batch(old, 0, 2), 2).counts["t/0"]["ignored"] == 2
        new = taken(second, "second")
        with pytest.raises(FencedError, match='was given to worker "second"') as refused:
            first.commit(batch(old, 2, 4), 3)
        assert (refused.value.topic, refused.value.partition) == ("t", 0)
        second.commit(batch(new, 2, 5), 4)
        # One ends in the middle of what it asks: nothing of it is written, and the others are served.
        pipes[0][1]._send((1 << 20).to_bytes(4, "big") + b"half a batch")  # type: ignore[attr-defined]
        pipes[0][1].close()
        threads[0].join(10)
        assert not threads[0].is_alive()
        second.commit(batch(new, 5, 6), 5)
        assert stands(store)[0].next_offset == 6
        assert totals(stream_counts(store, "t")) == {"delivered": 6, "ignored": 6}
        pipes[1][1].close()
        threads[1].join(10)
        assert not threads[1].is_alive()


def test_a_worker_says_that_the_process_that_writes_for_it_is_gone():
    here, there = Pipe()
    here.close()
    with there, pytest.raises(WriterGoneError, match="the process that writes for this worker is gone"):
        PipedWriter(there).mark_published("transactions", [], 1)


def test_a_worker_that_fails_is_started_again_and_in_the_end_named_with_its_reason(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    root = applied(project(tmp_path, broker, "t"))
    settings = root / "featurestore.toml"
    nowhere = '"127.0.0.1:1"\nclient = {bootstrap_timeout_ms = 200}'
    settings.write_text(settings.read_text().replace(f'"{broker.bootstrap}"', nowhere))
    monkeypatch.setattr(processes, "RESTARTS", 1)
    monkeypatch.setattr(processes, "FIRST_PAUSE_S", 0.05)
    with pytest.raises(StreamError, match=r"(?s)worker \d: the brokers at 127.*2 times in a row"):
        processes.run(root, 2, [])
    assert "it is started again in 0.05 s" in caplog.text


def test_what_no_other_try_can_mend_ends_all_workers_at_once(tmp_path: Path, broker: Broker):
    root = applied(project(tmp_path, broker, "no-such-topic"))
    done = command(root, "--workers", "2")
    _, said = done.communicate(timeout=60)
    assert done.returncode == 1
    assert re.search(r'error: worker \d: there is no topic "no-such-topic"', said) and "again" not in said


def test_a_worker_that_is_told_to_wait_begins_when_a_source_is_applied_and_its_topic_made(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("streaming.worker.WAIT_S", 0.1)
    topic = f"late-{uuid.uuid4().hex}"
    root = project(tmp_path, broker, topic)
    declared = (root / "features.py").read_text()
    (root / "features.py").write_text(
        'from featurestore import Entity\ncard = Entity("card", key="card_id")\n'
    )
    applied(root)
    stop = Event()
    with FeatureStore(root) as store:
        with pytest.raises(StreamError, match="no applied source has a topic"):
            Worker(store.store, root, store.settings.streaming, WorkerOptions()).run()
        worker = Worker(store.store, root, store.settings.streaming, WorkerOptions(wait=True), stop=stop)
        running = Thread(target=worker.run)
        running.start()
        try:
            (root / "features.py").write_text(declared)
            applied(root)
            time.sleep(0.3)
            make_topic(broker, topic, 1)
            send(broker, topic, [value(row(1))])
            soon(lambda: read(store) == 1)
            assert running.is_alive()
        finally:
            stop.set()
            running.join(30)
        assert not running.is_alive()


def test_a_worker_waits_for_a_store_that_comes_later(
    tmp_path: Path, broker: Broker, postgres: Postgres, postgres_url: str
):
    topic = new_topic(broker, partitions=1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = applied(on_postgres(project(tmp_path, broker, topic), postgres_url))
    send(broker, topic, [value(row(1))])
    settings = root / "featurestore.toml"
    settings.write_text(settings.read_text().replace(f":{postgres.port}/", f":{port}/"))
    running = command(root, "--until-end")
    try:
        assert running.stderr is not None
        assert "the store was away, trying again" in running.stderr.readline()
        proxy = Proxy(postgres.port, port)
        try:
            out, said = running.communicate(timeout=60)
            assert running.returncode == 0, said
            assert json.loads(out)[0]["partitions"][f"transactions:{topic}/0"]["accepted"] == 1
        finally:
            proxy.close()
    finally:
        running.kill()


def test_a_store_that_stays_away_is_said(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    root = on_postgres(project(tmp_path, broker, "t"), "postgresql://me@127.0.0.1:1/none")
    monkeypatch.setattr(one_worker, "STORE_AWAY_S", 0.2)
    monkeypatch.setattr(one_worker, "STORE_PAUSE_S", 0.1)
    with pytest.raises(StoreInterruptedError, match="it can't be reached"):
        one_worker.run(str(root), WorkerOptions(), Event())
    assert "the store was away, trying again" in caplog.text
