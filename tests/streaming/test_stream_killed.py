"""Law 4, exactly once: workers that are killed at any moment, and at each edge of a commit, lose nothing and
count nothing twice.

The moments are drawn from a seed. A child marks where it is in memory that outlives it, so that each kill is
known to have landed in an open batch, or within a moment of the end of one, with messages left to read.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import random
import signal
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest

from featurestore import FeatureStore
from featurestore.store import Commit, Store
from tests.integration.backfill_project import answers, messy_rows, write
from tests.integration.backfill_project import project as log_project
from tests.services.kafka import Broker
from tests.streaming.stream_project import new_topic, project, send, stands, stream_counts, totals, value

BATCH = 200
CARDS = 300
EDGES = ("after poll", "before the transaction", "inside the transaction", "after commit")
# A batch of 200 takes some 10 ms, on a busy machine ten times that.
JUST_ENDED_S = 1.0

# What a child leaves behind: 1 in an open batch, 2 after one; when; how many batches it has begun.
MARK = struct.Struct("<ddd")


class Marks:
    """Where a child is, in a file that it maps."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(MARK.size))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), MARK.size)

    def set(self, state: int, batches: int) -> None:
        MARK.pack_into(self._map, 0, state, time.monotonic(), batches)

    def get(self) -> tuple[float, float, float]:
        return MARK.unpack_from(self._map, 0)  # type: ignore[return-value]


def run_worker(root: Path, marks: Path, edge: str | None, number: int) -> None:
    """A worker that marks where it is, and kills itself at an ``edge`` of its batch ``number``."""
    from streaming import worker, writer
    from streaming.settings import WorkerOptions

    mark = Marks(marks)
    mark.set(0, 0)
    batches = 0

    def at(here: str) -> None:
        if edge == here and batches == number:
            os.kill(os.getpid(), signal.SIGKILL)

    commit_batch, write, commit, count = (
        writer.commit_batch, worker.Worker._write, Store.commit, Commit.count
    )  # fmt: skip

    def marked_write(self: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal batches
        batches += 1
        mark.set(1, batches)
        at("after poll")
        write(self, *args, **kwargs)

    def marked_commit(self: Store, kind: str, **kwargs: Any) -> Any:
        if kind == "stream":
            at("before the transaction")
        return commit(self, kind, **kwargs)

    def marked_count(self: Commit, *args: Any) -> None:
        count(self, *args)
        at("inside the transaction")

    def marked_batch(*args: Any) -> Any:
        made = commit_batch(*args)
        at("after commit")
        mark.set(2, batches)
        return made

    writer.commit_batch = marked_batch
    worker.Worker._write = marked_write  # type: ignore[method-assign]
    Store.commit = marked_commit  # type: ignore[method-assign]
    Commit.count = marked_count  # type: ignore[method-assign]
    with FeatureStore(root) as store:
        worker.Worker(store.store, store.root, store.settings.streaming, WorkerOptions(until_end=True)).run()


@dataclass(frozen=True)
class Kill:
    edge: str | None
    number: int
    delay_s: float


def kills(seed: int, at_random: int, at_each_edge: int) -> list[Kill]:
    draw = random.Random(seed)
    made = [Kill(None, draw.randint(1, 2), draw.random() * 0.015) for _ in range(at_random)]
    made += [Kill(edge, draw.randint(1, 2), 0.0) for edge in EDGES for _ in range(at_each_edge)]
    draw.shuffle(made)
    return made


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Processes that begin with everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["streaming.worker", "featurestore.feature_store", __name__])
    return context


@contextmanager
def waited(what: Callable[[], bool], process: Any) -> Iterator[None]:
    deadline_s = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline_s and process.is_alive()
        time.sleep(0.0005)
    yield


@pytest.mark.parametrize(
    ("events", "at_random", "at_each_edge"),
    [
        pytest.param(10_000, 12, 2, id="20 kills"),
        pytest.param(100_000, 200, 50, id="400 kills", marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
    ],
)
def test_workers_killed_at_any_moment_lose_nothing_and_count_nothing_twice(
    tmp_path: Path,
    broker: Broker,
    processes: ForkServerContext,
    events: int,
    at_random: int,
    at_each_edge: int,
):
    rows = messy_rows(9, events, cards=CARDS)
    topic = new_topic(broker)
    root = project(tmp_path / "killed", broker, topic, batch=BATCH)
    with FeatureStore(root) as store:
        store.apply()
    draw = random.Random(10)
    send(broker, topic, [value(one) for one in rows], partitions=[draw.randrange(3) for _ in rows])
    marks = tmp_path / "marks"
    mark = Marks(marks)
    landed = 0
    with FeatureStore(root) as store:
        for kill in kills(11, at_random, at_each_edge):
            mark.set(0, 0)
            process = processes.Process(target=run_worker, args=(root, marks, kill.edge, kill.number))
            process.start()
            if kill.edge is None:
                with waited(lambda: mark.get()[2] >= kill.number, process):  # noqa: B023 - used at once
                    time.sleep(kill.delay_s)
                process.kill()
            at_s = time.monotonic()
            process.join(60)
            assert process.exitcode == -signal.SIGKILL
            state, since_s, _ = mark.get()
            assert state == 1 or (state == 2 and at_s - since_s < JUST_ENDED_S), (kill, state)
            read = stands(store)
            assert sum(one.next_offset for one in read.values()) < events, "nothing was left to read"
            stream_counts(store, topic)
            landed += 1
        assert landed == at_random + len(EDGES) * at_each_edge
        process = processes.Process(target=run_worker, args=(root, marks, None, 0))
        process.start()
        process.join(600)
        assert process.exitcode == 0

        counts = totals(stream_counts(store, topic))
        assert counts["delivered"] == events
        whole = log_project(tmp_path / "whole")
        write(whole, "all.parquet", rows)
        with FeatureStore(whole) as expected:
            expected.apply()
            expected.backfill()
            assert answers(store, CARDS) == answers(expected, CARDS)
            with store.store.snapshot() as found, expected.store.snapshot() as wanted:
                backfilled = {key.kind: n for key, n in wanted.counters().items()}
                for kind in ("accepted", "corrected"):
                    assert counts[kind] == backfilled[kind]
                assert counts["dead_lettered"] == backfilled["rejected"]
                assert found.sizes()[1].versions >= wanted.sizes()[1].versions
