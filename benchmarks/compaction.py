"""Compaction after a stream: what five million events in random order take on the disk, and to read.

    python -m benchmarks.compaction [--events 5000000] [--entities 100000] [--store sqlite]
                                    [--directory DIR] [--steady 0]

Events of 90 days, 5 % known up to five days late, 2 % corrected a day later, in random order, go through
the writer of streams in commits of 5,000; with ``--steady N`` a compaction as stream workers run it comes
after every N commits. Then `compact`, on PostgreSQL with `full`, while a thread asks. Answers of 1,000
entities at three instants and with three horizons are compared before, during and after, and with a store
that is filled from the log. Then one entity in 1,000 rows is read, before and after.

Last run: see benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore import FeatureStore, clock
from featurestore.dtypes import instant_text
from featurestore.store import Store
from featurestore.store.compaction import Compactor
from featurestore.store.folding import STEADY
from featurestore.store.ingest import Taken, prepared_parts, registry_of, remember
from featurestore.store.seen import seen_by
from tests.services.postgres import SETTINGS, Postgres

BEGIN_US = 1_767_225_600_000_000
DAY_US = 86_400_000_000
COMMIT_EVENTS = 5_000
ASKED = 1_000
DURABLE = {
    **SETTINGS, "fsync": "on", "full_page_writes": "on", "shared_buffers": "512MB", "max_wal_size": "2GB",
}  # fmt: skip
INSTANT = pa.timestamp("us", "UTC")

DECLARED = """
from featurestore import Entity, EventSource, FeatureView, Parquet, agg

card = Entity("card", key="card_id")
events = EventSource("events", log=Parquet("log"), event_time="ts", id="id", available_at="known")
view = FeatureView("view", card, events, features=[
    agg.count(windows=["1h", "30d"]), agg.sum("amount", windows=["30d"]), agg.sum("amount"),
    agg.last("status"),
])
"""


def events(count: int, entities: int) -> pa.Table:
    """The log in random order; the last of a correction's versions need not come last."""
    draw = np.random.default_rng(1)
    corrected = count // 50
    distinct = count - corrected
    ts = BEGIN_US + draw.integers(0, 90 * 86_400, distinct) * 1_000_000
    late = np.where(draw.random(distinct) < 0.05, draw.integers(1, 5 * 86_400, distinct), 0)
    again = draw.choice(distinct, corrected, replace=False)
    rows = np.concatenate([np.arange(distinct), again])
    known = np.concatenate([ts + late * 1_000_000, ts[again] + DAY_US])
    amount = draw.integers(1, 100_000, count) / 100
    statuses = pa.array(["ok", "declined", "review", "late"]).take(pa.array(draw.integers(0, 4, distinct)))
    table = pa.table({
        "card_id": draw.integers(0, entities, distinct)[rows], "id": rows, "ts": pa.array(ts[rows], INSTANT),
        "known": pa.array(known, INSTANT), "amount": amount, "status": statuses.take(pa.array(rows)),
    })  # fmt: skip
    return table.take(pa.array(draw.permutation(count)))


@contextmanager
def opened(directory: Path, url: str | None) -> Iterator[FeatureStore]:
    (directory / "log").mkdir(parents=True)
    pq.write_table(events(100, 1).slice(0, 0), directory / "log" / "empty.parquet")
    (directory / "features.py").write_text(DECLARED)
    if url is not None:
        (directory / "featurestore.toml").write_text(f'[store]\nurl = "{url}"\n')
    with FeatureStore(directory) as store:
        store.apply()
        store.backfill()
        yield store


def streamed(store: Store, log: pa.Table, steady: int) -> None:
    """What a stream's commits write, without positions."""
    with store.snapshot() as snapshot:
        registry = registry_of(store, snapshot)
    plan = registry.sources["events"]
    for number, first in enumerate(range(0, log.num_rows, COMMIT_EVENTS), start=1):
        rows = log.slice(first, COMMIT_EVENTS).combine_chunks()
        with store.snapshot() as snapshot:
            taken = Taken.of(rows, plan, registry)
            parts = prepared_parts(registry, plan, taken, snapshot, seen=seen_by(store))
        with store.commit("stream", now_us=1) as commit:
            for part in parts:
                part.append(commit)
        remember(store, commit.number, parts)
        if steady and number % steady == 0:
            Compactor(store, STEADY, now=clock.now).run()


def answers(store: FeatureStore, keys: list[int]) -> list[pa.Table]:
    return [
        store.online_features(
            ["view"], {"card_id": keys}, as_of=instant_text(BEGIN_US + day * DAY_US), known_at=known_at
        ).to_arrow()
        for day in (30, 60, 100)
        for known_at in (None, "as_of", instant_text(BEGIN_US + 45 * DAY_US))
    ]


def timed(what: str, work: Callable[[], object]) -> object:
    began_s = time.perf_counter()
    made = work()
    print(f"{what}: {time.perf_counter() - began_s:.1f} s", flush=True)
    return made


def megabytes(store: FeatureStore) -> float:
    store.store.checkpoint()
    return store.store.size_bytes() / 1e6


def latency_ms(store: FeatureStore, key: int) -> float:
    took = []
    for _ in range(50):
        began_s = time.perf_counter()
        store.online_features(["view"], {"card_id": [key]}, as_of=instant_text(BEGIN_US + 100 * DAY_US))
        took.append(1e3 * (time.perf_counter() - began_s))
    return statistics.median(took)


def room(
    directory: Path, log: pa.Table, urls: tuple[str | None, str | None], steady: int, entities: int
) -> None:
    keys = np.random.default_rng(2).integers(0, entities, ASKED).tolist()
    with opened(directory / "fresh", urls[1]) as fresh:
        pq.write_table(log, directory / "fresh" / "log" / "events.parquet")
        timed("backfill", fresh.backfill)
        least, expected = megabytes(fresh), answers(fresh, keys)
    with opened(directory / "streamed", urls[0]) as store:
        timed("streamed", lambda: streamed(store.store, log, steady))
        print(f"  on disk {megabytes(store):,.0f} MB", flush=True)
        before = answers(store, keys) == expected
        asked, other, done = [0], [0], threading.Event()

        def ask() -> None:
            # Each time a part of them, so that many moments are looked at.
            while not done.is_set():
                first = 50 * asked[0] % ASKED
                some = [one.slice(first, 50) for one in expected]
                other[0] += answers(store, keys[first : first + 50]) != some
                asked[0] += 1

        asking = threading.Thread(target=ask)
        asking.start()
        report = timed("compact", lambda: store.compact(full=urls[0] is not None))
        done.set()
        asking.join()
        print(f"  {report.text()}; {report.commits} commits", flush=True)  # type: ignore[attr-defined]
        compacted, after = megabytes(store), answers(store, keys) == expected
        print(f"  on disk {compacted:,.0f} MB, a backfill {least:,.0f} MB: {compacted / least:.2f} times")
        print(f"  answers as a backfill's: before {before}, after {after}, other ones meanwhile {other[0]} ")
        print(f"  of {asked[0]} times", flush=True)


def hot(directory: Path, url: str | None) -> None:
    log = events(1_000, 1)
    with opened(directory / "hot", url) as store:
        for row in range(log.num_rows):
            store.ingest("events", log.slice(row, 1))
        before = latency_ms(store, 0)
        store.compact()
        print(
            f"an entity in 1,000 rows: {before:.2f} ms, compacted {latency_ms(store, 0):.2f} ms", flush=True
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--entities", type=int, default=100_000)
    parser.add_argument("--store", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--steady", type=int, default=0)
    asked = parser.parse_args()
    directory = Path(tempfile.mkdtemp(dir=asked.directory))
    log = events(asked.events, asked.entities)
    try:
        if asked.store == "sqlite":
            hot(directory, None)
            room(directory, log, (None, None), asked.steady, asked.entities)
            return 0
        with Postgres(DURABLE) as server:
            hot(directory, server.database())
            room(directory, log, (server.database(), server.database()), asked.steady, asked.entities)
    finally:
        shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
