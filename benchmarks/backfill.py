"""Backfill of 10M events of 100k entities into SQLite, and pushes while another process backfills 1M.

    python -m benchmarks.backfill [--data DIR] [--rounds 3] [--events 10000000]

Each run is a process of its own, warm (imports done, kernel loaded), with an empty store. Time is that of
`backfill`: scan, hashes of files and contents, sort, encoding, commits, checkpoint. Every run's store is
asked for the counts of 1,000 entities, which DuckDB computes from the same file.

Last run: see benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.data import START_US, make

ASKED = 1_000
AS_OF = "2025-06-01T00:00:00Z"
EVENTS_UNDER_PUSHES = 1_000_000


def declared(log: Path, roles: str) -> str:
    return f"""
from featurestore import Entity, EventSource, FeatureView, Parquet, agg

account = Entity("account", key="entity_id")
events = EventSource("events", log=Parquet({str(log)!r}), event_time="ts", {roles})
features = [agg.count(name="n"), agg.sum("amount")]
activity = FeatureView("activity", entity=account, source=events, features=features)
"""


def backfilled(log: Path, roles: str) -> dict[str, float]:
    """Seconds, bytes on disk and peak memory of one backfill in this process."""
    from featurestore import FeatureStore
    from featurestore.batch import backfill as _warm  # noqa: F401
    from featurestore.serving import lookup as _also_warm  # noqa: F401

    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "features.py").write_text(declared(log, roles))
        with FeatureStore(directory) as store:
            store.apply()
            start = time.perf_counter()
            report = store.backfill()
            seconds = time.perf_counter() - start
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            size = sum(path.stat().st_size for path in (Path(directory) / ".featurestore").iterdir())
            _check(store, log, bool(roles))
    return {"seconds": seconds, "bytes": size, "peak_bytes": peak, "rows": report.counts["delivered"]}


def _check(store: object, log: Path, identified: bool) -> None:
    import duckdb

    from featurestore import FeatureStore

    assert isinstance(store, FeatureStore)
    found = store.online_features(
        features=["activity:n"], entities={"entity_id": list(range(ASKED))}, as_of=AS_OF
    )
    counts = found.to_arrow().column("activity__n").to_pylist()
    what = "count(distinct id)" if identified else "count(*)"
    query = f"select entity_id, {what} from '{log}' where entity_id < {ASKED} group by entity_id"
    wanted = dict(duckdb.connect().execute(query).fetchall())
    assert counts == [wanted.get(entity, 0) for entity in range(ASKED)]


def _backfill_here(directory: str) -> None:
    from featurestore import FeatureStore

    with FeatureStore(directory) as store:
        store.backfill()


def pushed_meanwhile(log: Path) -> dict[str, float]:
    """Milliseconds of pushes of one row each while another process backfills."""
    from featurestore import FeatureStore

    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "features.py").write_text(declared(log, 'id="id"'))
        with FeatureStore(directory) as store:
            store.apply()

            def push(number: int) -> float:
                row = {"id": 10**9 + number, "entity_id": number % 1000, "ts": _iso(number), "amount": 1.0}
                start = time.perf_counter()
                report = store.ingest("events", [row])
                assert report.accepted == 1
                return time.perf_counter() - start

            for number in range(20):
                push(-1 - number)
            alone = [push(number) for number in range(200)]
            process = multiprocessing.get_context("spawn").Process(target=_backfill_here, args=(directory,))
            process.start()
            number, during = 200, []
            while process.is_alive():
                during.append(push(number))
                number += 1
            process.join()
            assert process.exitcode == 0
    return {
        "pushes": len(during),
        "alone_p50_ms": 1000 * statistics.median(alone),
        "p50_ms": 1000 * statistics.median(during),
        "p99_ms": 1000 * float(np.quantile(during, 0.99)),
        "most_ms": 1000 * max(during),
    }


def _iso(number: int) -> str:
    return str(np.datetime64(START_US + number * 1_000_000, "us")) + "Z"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "featurestore-benchmarks")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--run", choices=("no id", "id", "pushes"), help="one run in this process, as JSON")
    options = parser.parse_args()
    if options.run == "pushes":
        place = make(options.data, events=EVENTS_UNDER_PUSHES, entities=10_000, spine=1_000)
        print(json.dumps(pushed_meanwhile(place / "corrected.parquet")))
        return
    if options.run is not None:
        place = make(options.data, events=options.events)
        identified = options.run == "id"
        log = place / ("corrected.parquet" if identified else "events.parquet")
        print(json.dumps(backfilled(log, 'id="id"' if identified else "")))
        return
    runs: dict[str, list[dict[str, float]]] = {"no id": [], "id": [], "pushes": []}
    for _ in range(options.rounds):
        for name, results in runs.items():
            command = [sys.executable, "-m", "benchmarks.backfill", "--run", name]
            command += ["--data", str(options.data), "--events", str(options.events)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            results.append(json.loads(done.stdout))
    for name in ("no id", "id"):
        seconds, size, peak, rows = (
            statistics.median(one[key] for one in runs[name])
            for key in ("seconds", "bytes", "peak_bytes", "rows")
        )
        print(f"{name:8}{seconds:7.2f} s {rows / seconds / 1e6:6.2f}M rows/s {size / 1e6:7.0f} MB on disk "
              f"{peak / 1e9:5.2f} GB peak")  # fmt: skip
    for key in ("pushes", "alone_p50_ms", "p50_ms", "p99_ms", "most_ms"):
        print(f"{key:14}{statistics.median(one[key] for one in runs['pushes']):10.1f}")


if __name__ == "__main__":
    main()
