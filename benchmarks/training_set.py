"""Training sets against DuckDB: 1M spine rows over 10M events of 100k entities.

    python -m benchmarks.training_set [--data DIR] [--rounds 3] [--events 10000000]

Each contender runs in a process of its own, warm (imports done, kernel loaded); the rounds go through all
contenders in turn, and the medians of their times and peaks are compared. What ours does beside the values
(hashes of the log's files, the manifest, its content hash) is in its time. Every result is compared with the
oracle on 1,000 spine rows, float sums bit for bit.

Last run: see benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.data import make

WINDOWS = ("5m", "1h", "1d", "7d", "30d")
INTERVALS = {"5m": "5 minutes", "1h": "1 hour", "1d": "1 day", "7d": "7 days", "30d": "30 days"}
CHECKED = 1_000


def engine() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("set timezone = 'UTC'")
    return connection


def ours(place: Path, log: str, features: str, *, identified: bool = False) -> pa.Table:
    """A training set by a project whose features.py is ``features``."""
    from featurestore import FeatureStore

    with tempfile.TemporaryDirectory() as directory:
        source = f"""
from featurestore import Entity, EventSource, FeatureView, Parquet, agg
entity = Entity("entity", key="entity_id")
log = Parquet({str(place / log)!r})
source = EventSource("source", log=log, event_time="ts", id={"id" if identified else None!r})
view = FeatureView("view", entity, source, [{features}])
"""
        Path(directory, "features.py").write_text(source)
        store = FeatureStore(directory)
        store.plans  # noqa: B018  the schema is read and the kernel loaded before the clock starts
        import featurestore.batch.training_set  # noqa: F401

        return timed(lambda: store.training_set(str(place / "spine.parquet"), "view", time="time").to_arrow())


SECONDS = 0.0


def timed(work: Callable[[], pa.Table]) -> pa.Table:
    global SECONDS
    begun = time.perf_counter()
    made = work()
    SECONDS = time.perf_counter() - begun
    return made


def in_windows(windows: tuple[str, ...]) -> str:
    return f'agg.count(windows={list(windows)}), agg.sum("amount", windows={list(windows)})'


def sql(query: str) -> pa.Table:
    connection = engine()
    return timed(lambda: connection.sql(query).to_arrow_table())


def ranges(place: Path, log: str) -> str:
    """Windows by hand: spine and events in one relation, a RANGE frame a window, a microsecond short of the
    row itself."""
    frames = ", ".join(
        f"w{name} AS (PARTITION BY entity_id ORDER BY ts RANGE BETWEEN INTERVAL '{span}' PRECEDING "
        "AND INTERVAL '1 microsecond' PRECEDING)"
        for name, span in INTERVALS.items()
    )
    values = ", ".join(
        f"count(amount) OVER w{name} AS view__count_{name}, "
        f"sum(amount) OVER w{name} AS view__amount_sum_{name}"
        for name in WINDOWS
    )
    return f"""SELECT * FROM (
        SELECT entity_id, ts AS time, place, {values} FROM (
            SELECT entity_id, ts, amount, NULL AS place FROM {log}
            UNION ALL
            SELECT entity_id, time, NULL, row_number() OVER () FROM read_parquet('{place / "spine.parquet"}'))
        WINDOW {frames}) WHERE place IS NOT NULL"""


def last_version(place: Path) -> str:
    """One row an id: equal ones once, of different ones the last by an arbitrary but fixed rank."""
    return f"""(SELECT entity_id, id, max(ts) AS ts, arg_max(amount, hash(ts, amount)) AS amount
        FROM read_parquet('{place / "corrected.parquet"}') GROUP BY entity_id, id)"""


def ranked_version(place: Path) -> str:
    return f"""(SELECT entity_id, id, ts, amount FROM read_parquet('{place / "corrected.parquet"}')
        QUALIFY row_number() OVER (PARTITION BY entity_id, id ORDER BY hash(ts, amount) DESC) = 1)"""


def read(place: Path, name: str) -> str:
    return f"read_parquet('{place / name}')"


LATEST = ", ".join(f'agg.last("f{i}")' for i in range(5))
CONTENDERS: dict[str, Callable[[Path], pa.Table]] = {
    "windows": lambda place: ours(place, "events.parquet", in_windows(WINDOWS)),
    "windows: DuckDB RANGE": lambda place: sql(ranges(place, read(place, "events.parquet"))),
    "windows: DuckDB scan + sort": lambda place: sql(
        f"SELECT * FROM {read(place, 'events.parquet')} ORDER BY entity_id, ts"
    ),
    "versions": lambda place: ours(place, "corrected.parquet", in_windows(WINDOWS), identified=True),
    "versions: DuckDB RANGE": lambda place: sql(ranges(place, last_version(place))),
    "versions: DuckDB scan + GROUP BY + sort": lambda place: sql(
        f"SELECT * FROM {last_version(place)} ORDER BY entity_id, ts"
    ),
    "versions: DuckDB scan + row_number + sort": lambda place: sql(
        f"SELECT * FROM {ranked_version(place)} ORDER BY entity_id, ts"
    ),
    "latest": lambda place: ours(place, "features.parquet", LATEST),
    "latest: DuckDB ASOF JOIN": lambda place: sql(
        f"SELECT s.*, {', '.join(f'f{i}' for i in range(5))} FROM {read(place, 'spine.parquet')} s "
        f"ASOF LEFT JOIN {read(place, 'features.parquet')} f ON s.entity_id = f.entity_id AND s.time > f.ts"
    ),
    "one window: 5m": lambda place: ours(place, "events.parquet", in_windows(("5m",))),
    "one window: 30d": lambda place: ours(place, "events.parquet", in_windows(("30d",))),
}
TARGETS = (
    ("windows", "windows: DuckDB RANGE", "at most 0.1", 0.1),
    ("windows", "windows: DuckDB scan + sort", "at most 2", 2.0),
    ("versions", "versions: DuckDB RANGE", "at most 0.25", 0.25),
    ("versions", "versions: DuckDB scan + GROUP BY + sort", "at most 2", 2.0),
    ("versions", "versions: DuckDB scan + row_number + sort", "at most 2", 2.0),
    ("latest", "latest: DuckDB ASOF JOIN", "at most 3", 3.0),
    ("one window: 30d", "one window: 5m", "at most 1.2", 1.2),
)


def check(place: Path, name: str, made: pa.Table) -> None:
    """Compare 1,000 rows with the oracle, bit for bit; AssertionError where one differs."""
    from featurestore import Entity, EventSource, FeatureView, Parquet, agg
    from featurestore.dtypes import FLOAT64, INT64, TIMESTAMP
    from featurestore.testing.bits import bits
    from featurestore.testing.reference import Oracle

    identified = name == "versions"
    log = {"versions": "corrected.parquet", "latest": "features.parquet"}.get(name, "events.parquet")
    columns = {"entity_id": INT64, "ts": TIMESTAMP}
    if name == "latest":
        columns |= {f"f{i}": FLOAT64 for i in range(5)}
        features = [agg.last(f"f{i}") for i in range(5)]
    else:
        columns["amount"] = FLOAT64
        wanted = {"one window: 5m": ["5m"], "one window: 30d": ["30d"]}.get(name, list(WINDOWS))
        features = [agg.count(windows=wanted), agg.sum("amount", windows=wanted)]
    if identified:
        columns = {"id": INT64, **columns}
    source = EventSource("source", log=Parquet(log), event_time="ts", id="id" if identified else None)
    view = FeatureView("view", Entity("entity", key="entity_id"), source, features)
    picked = np.random.default_rng(1).choice(made.num_rows, CHECKED, replace=False)
    rows = made.take(pa.array(picked))
    asked = sorted(set(rows.column("entity_id").to_pylist()))
    events = pq.read_table(place / log, filters=[("entity_id", "in", asked)])
    by_entity: dict[int, list[dict[str, object]]] = {}
    stamps = events.column("ts").cast(pa.int64()).to_pylist()
    for row, ts in zip(events.to_pylist(), stamps, strict=True):
        by_entity.setdefault(row["entity_id"], []).append({**row, "ts": ts})
    times = rows.column("time").cast(pa.int64()).to_pylist()
    oracles: dict[int, Oracle] = {}
    for row, as_of in zip(rows.to_pylist(), times, strict=True):
        key = row["entity_id"]
        if key not in oracles:
            oracles[key] = Oracle(view, columns, by_entity.get(key, []))
        for feature, value in oracles[key].answer((key,), as_of=as_of, known_at=None).items():
            assert bits(value.value) == bits(row[f"view__{feature}"]), (name, feature, row, value)


def run(name: str, place: Path) -> None:
    """One contender, in this process: its seconds and peak memory as JSON."""
    made = CONTENDERS[name](place)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if ":" not in name or name.startswith("one window"):
        check(place, name, made)
    print(json.dumps({"seconds": SECONDS, "peak_mb": peak_mb, "rows": made.num_rows}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "featurestore-benchmarks")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--only", default="", help="contenders whose name begins with this")
    parser.add_argument("--without", default="-", help="leave out contenders whose name has this in it")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    options = parser.parse_args()
    place = make(options.data, events=options.events)
    if options.run:
        run(options.run, place)
        return
    names = [one for one in CONTENDERS if one.startswith(options.only) and options.without not in f"{one}"]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for round_number in range(options.rounds):
        for name in names:
            command = [sys.executable, "-m", "benchmarks.training_set", "--data", str(options.data)]
            command += ["--events", str(options.events), "--run", name]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"round {round_number + 1}: {name}: {found[name][-1]}", file=sys.stderr)
    print(f"{'contender':44}{'median s':>10}{'peak GB':>9}")
    median = {name: statistics.median(one["seconds"] for one in runs) for name, runs in found.items()}
    for name, runs in found.items():
        print(f"{name:44}{median[name]:10.2f}{max(one['peak_mb'] for one in runs) / 1024:9.2f}")
    for name, peer, target, bound in TARGETS:
        if name in median and peer in median:
            ratio = median[name] / median[peer]
            verdict = "holds" if ratio <= bound else "DOES NOT HOLD"
            print(f"{name} / {peer}: {ratio:.3f} ({target}: {verdict})")


if __name__ == "__main__":
    main()
