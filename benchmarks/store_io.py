"""How fast the store takes 100,000 segments of 5 KB and gives them back, beside the bare driver.

    python -m benchmarks.store_io [--segments 100000] [--directory DIR]

Prints medians of three, and the ratio to the bare driver doing the least that would do, in the same run.
Instants play no part. Writes go to DIR (default: a temporary directory), in commits of about 100 ms.

Last numbers (November 2026, two cores shared with other work, load 4): write all 3.9 s, 1.05 x driver (0.5 GB
and flushed); read of 1 key 36 us, 1.5 x; of 100 keys 1.04 ms, 1.2 x; push of one row 4 ms, nearly all of
it the disk's flush. With the machine idle a read of one key took 11 us and a push 0.8 ms.
"""

from __future__ import annotations

import argparse
import os
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from featurestore.store import DELTA_LEVEL, SEGMENT_LEVEL, SegmentRow, Store

PAYLOAD_BYTES = 5000
ROWS_A_COMMIT = 2000
PUSHES = 300
ROUNDS = 3


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--segments", type=int, default=100_000)
    arguments.add_argument("--directory", type=Path)
    options = arguments.parse_args()
    keys = [b"%012d" % n for n in range(options.segments)]
    payloads = [os.urandom(PAYLOAD_BYTES) for _ in range(64)]
    taken: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory(dir=options.directory) as directory:
            for name, seconds in one_round(Path(directory), keys, payloads).items():
                taken.setdefault(name, []).append(seconds)
    medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
    print(f"{options.segments} segments of {PAYLOAD_BYTES} bytes, medians of {ROUNDS}")
    for name, seconds in medians.items():
        bare = medians.get(f"{name} (driver)")
        ratio = f"   {seconds / bare:5.2f} x driver" if bare else ""
        shown = f"{seconds:10.3f} s " if seconds > 0.05 else f"{seconds * 1e6:10.1f} us"
        print(f"{name:28} {shown}{ratio}")


def one_round(directory: Path, keys: list[bytes], payloads: list[bytes]) -> dict[str, float]:
    rows = [SegmentRow(key, SEGMENT_LEVEL, n, 100, payloads[n % 64]) for n, key in enumerate(keys)]
    choose = random.Random(1)
    taken = {"write all (driver)": driver_write(directory / "driver.db", rows)}
    with Store.open(directory / "store.db", migrate=True) as store:
        with store.commit("apply", now_us=1) as commit:
            timeline = commit.add_timeline_version(
                source="transactions", entity="card", fingerprint="f", columns={}, roles={}
            )
        began_s = time.perf_counter()
        longest_s = 0.0
        for first in range(0, len(rows), ROWS_A_COMMIT):
            commit_s = time.perf_counter()
            with store.commit("backfill", now_us=1) as commit:
                commit.append(timeline, rows[first : first + ROWS_A_COMMIT])
            longest_s = max(longest_s, time.perf_counter() - commit_s)
        store.checkpoint()
        taken["write all"] = time.perf_counter() - began_s
        taken["longest commit"] = longest_s

        def read(count: int) -> Callable[[], object]:
            def once() -> object:
                with store.snapshot() as snapshot:
                    return snapshot.read(timeline, choose.sample(keys, count))

            return once

        bare = sqlite3.connect(directory / "store.db", isolation_level=None)
        bare.execute("PRAGMA mmap_size=2147418112")

        def bare_read(count: int) -> Callable[[], object]:
            places = ",".join("?" * count)
            query = "SELECT entity_key, payload FROM segments WHERE timeline_version_id=? AND entity_key IN"
            return lambda: bare.execute(
                f"{query} ({places})", (timeline, *choose.sample(keys, count))
            ).fetchall()

        for count, times in ((1, 5000), (100, 200)):
            taken[f"read {count} keys"] = each(read(count), times)
            taken[f"read {count} keys (driver)"] = each(bare_read(count), times)
        bare.close()
        began_s = time.perf_counter()
        for n in range(PUSHES):
            with store.commit("ingest", now_us=1) as commit:
                commit.add_arrivals("transactions", payloads[0][:200], rows=1, arrived_at_us=1)
                commit.append(
                    timeline, [SegmentRow(choose.choice(keys), DELTA_LEVEL, n, 1, payloads[0][:80])]
                )
                commit.count("transactions", "", {"delivered": 1, "accepted": 1})
        taken["push of one row"] = (time.perf_counter() - began_s) / PUSHES
    return taken


def driver_write(path: Path, rows: list[SegmentRow]) -> float:
    """The least that would do: one table, one index, no commit numbers."""
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in ("page_size=16384", "journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute(
        "CREATE TABLE segments (entity_key BLOB, level, start, payload BLOB, PRIMARY KEY (entity_key))"
    )
    began_s = time.perf_counter()
    for first in range(0, len(rows), ROWS_A_COMMIT):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "INSERT INTO segments VALUES (?, ?, ?, ?)",
            (
                (key, level, start, payload)
                for key, level, start, _, payload in rows[first : first + ROWS_A_COMMIT]
            ),
        )
        connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    taken_s = time.perf_counter() - began_s
    connection.close()
    path.unlink()
    return taken_s


def each(once: Callable[[], object], times: int) -> float:
    for _ in range(times // 5):
        once()
    began_s = time.perf_counter()
    for _ in range(times):
        once()
    return (time.perf_counter() - began_s) / times


if __name__ == "__main__":
    main()
