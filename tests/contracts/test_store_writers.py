"""Many who write to one store at once, and one who is killed, on every database."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time

from featurestore.store import (
    CounterKey,
    Store,
)
from tests.contracts.store_rows import delta, new_timeline, segment


def test_many_threads_write_and_read_and_every_commit_is_whole(store: Store):
    timeline = new_timeline(store)
    torn: list[object] = []
    done = threading.Event()

    def write(thread: int) -> None:
        for n in range(20):
            with store.commit("ingest", now_us=1) as commit:
                payload = b"%d-%d" % (thread, n)
                commit.append(timeline, [delta(b"left", payload), delta(b"right", payload)])
                commit.count("transactions", "", {"accepted": 1})

    def read() -> None:
        while not done.is_set():
            with store.snapshot() as snapshot:
                found = snapshot.read(timeline, [b"left", b"right"])
                counted = snapshot.counters().get(CounterKey("transactions", "", "accepted"), 0)
                if found.get(b"left") != found.get(b"right") or len(found.get(b"left", [])) != counted:
                    torn.append(found)

    readers = [threading.Thread(target=read) for _ in range(2)]
    writers = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in readers + writers:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in readers:
        thread.join()
    assert not torn
    with store.snapshot() as snapshot:
        assert len(snapshot.read(timeline, [b"left"])[b"left"]) == 80


def _hold_the_store(url: str, timeline: int, rounds: int) -> None:
    """A backfill that never pauses: each commit takes 50 ms and the next begins at once."""
    with Store.open(url, migrate=False) as store:
        for n in range(rounds):
            with store.commit("backfill", now_us=1) as commit:
                commit.append(timeline, [segment(b"%06d" % n, b"x")])
                time.sleep(0.05)


def test_a_backfill_in_another_process_lets_each_push_in_after_one_commit(url: str):
    with Store.open(url, migrate=True) as store:
        timeline = new_timeline(store)
        backfill = multiprocessing.get_context("spawn").Process(
            target=_hold_the_store, args=(url, timeline, 60)
        )
        backfill.start()
        waits_s = []
        while backfill.is_alive():
            began_s = time.perf_counter()
            with store.commit("ingest", now_us=1) as commit:
                commit.append(timeline, [delta(b"pushed", b"x")])
            waits_s.append(time.perf_counter() - began_s)
            time.sleep(0.03)
        backfill.join()
        assert backfill.exitcode == 0
        # A wait is the rest of one 50 ms commit; starved, it would be all of the backfill's 3 s.
        assert sum(wait_s > 0.02 for wait_s in waits_s) > 10 and max(waits_s) < 1.0
        with store.snapshot() as snapshot:
            assert len(snapshot.entity_keys(timeline, limit=100)) == 61
            assert len(snapshot.read(timeline, [b"pushed"])[b"pushed"]) == len(waits_s)


WRITER = textwrap.dedent(
    """
    import sys
    from featurestore.store import DELTA_LEVEL, SegmentRow, Store

    url, timeline = sys.argv[1], int(sys.argv[2])
    with Store.open(url, migrate=False) as store:
        while True:
            with store.commit("ingest", now_us=1) as commit:
                payload = b"%d" % commit.number * 200
                rows = [SegmentRow(b"%03d" % n, DELTA_LEVEL, 0, 1, payload) for n in range(50)]
                first = commit.add_arrivals("transactions", b"x", rows=50, arrived_at_us=1)
                commit.append(timeline, rows[:25])
                commit.count("transactions", "", {"delivered": 50, "accepted": 50})
                commit.append(timeline, rows[25:])
            print(commit.number, flush=True)
    """
)


def test_law_4_a_writer_killed_at_any_moment_leaves_whole_commits_and_loses_none_it_told_of(url: str):
    with Store.open(url, migrate=True) as store:
        timeline = new_timeline(store)
    chance = random.Random(4)
    told = 0
    for _ in range(20):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, url, str(timeline)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert writer.stdout is not None
        lines = [writer.stdout.readline()]
        time.sleep(chance.random() * 0.02)
        writer.send_signal(signal.SIGKILL)
        lines += writer.stdout.readlines()
        writer.wait()
        writer.stdout.close()
        told = max(told, *(int(line) for line in lines if line.endswith(b"\n")))
        with Store.open(url, migrate=False) as store, store.snapshot() as snapshot:
            assert snapshot.commit_number >= told
            commits = snapshot.commit_number - 1
            found = snapshot.read(timeline, [b"%03d" % n for n in range(50)])
            assert len(found) == 50 and len({tuple(payloads) for payloads in found.values()}) == 1
            assert len(found[b"000"]) == commits == len(snapshot.arrivals("transactions"))
            assert snapshot.counters()[CounterKey("transactions", "", "accepted")] == 50 * commits
            assert snapshot.last_arrival == 50 * commits
