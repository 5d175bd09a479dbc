"""Training sets over a mutable table against the same over events: 1M spine rows, 10M changes of 6M rows of
100k entities.

    python -m benchmarks.changes [--data DIR] [--rounds 3] [--changes 5000000 10000000 20000000]

60 % of the changes insert a row, 30 % update one (every twentieth gives it to another entity), 10 % delete
one. The peer is this project itself over as many events with ``id``: the same columns, operations, windows
and spine. Both logs are shuffled. Each contender runs in a process of its own, warm (imports done, kernel
loaded); the rounds go through all contenders in turn, and the medians of their times and peaks are compared.
1,000 rows of each result are compared with the oracle, float sums bit for bit.

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
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.data import DAY_US, DAYS, START_US

CHECKED = 1_000
SIZES = (5_000_000, 10_000_000, 20_000_000)
ENTITIES = 100_000
SPINE = 1_000_000
COLUMNS = {
    "id": "int64",
    "entity_id": "int64",
    "ts": "timestamp",
    "changed_at": "timestamp",
    "position": "int64",
    "amount": "float64",
    "quantity": "int64",
}


def make(directory: Path, changes: int) -> Path:
    """changes.parquet, events.parquet and spine.parquet for a log of this size, made if they aren't there."""
    place = directory / f"changes-{changes}-{ENTITIES}-{SPINE}"
    if (place / "done").exists():
        return place
    place.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(11)
    us = pa.timestamp("us", "UTC")

    def times(count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        return START_US + draw.integers(0, DAYS * DAY_US, count)

    def write(name: str, columns: dict[str, object], rows: np.ndarray[Any, Any] | None = None) -> None:
        table = pa.table(columns)
        table = table if rows is None else table.take(pa.array(rows))
        pq.write_table(table, place / name, row_group_size=1_000_000)

    # In the order of commits: an insert is a new row, whatever else happens to one that was inserted before.
    does = draw.choice(3, changes, p=(0.6, 0.3, 0.1))
    does[0] = 0
    inserted = np.cumsum(does == 0)
    row = np.where(does == 0, inserted - 1, (draw.random(changes) * inserted).astype(np.int64))
    changed_at = np.sort(times(changes))
    entity = draw.integers(0, ENTITIES, inserted[-1])[row]
    moved = (does == 1) & (draw.random(changes) < 0.05)
    entity[moved] = draw.integers(0, ENTITIES, moved.sum())
    # A row's own time is at most a day before its insert, and an update leaves it as it is.
    happened = (changed_at[does == 0] - draw.integers(0, DAY_US, inserted[-1]))[row]
    shared = {
        "changed_at": pa.array(changed_at).cast(us),
        "position": np.arange(changes),
        "amount": draw.gamma(2.0, 30.0, changes),
        "quantity": draw.geometric(0.1, changes),
    }
    shuffled = draw.permutation(changes)
    words = pa.array(["insert", "update", "delete"])
    of_changes = {"id": row, "entity_id": entity, "ts": pa.array(happened).cast(us), **shared}
    write("changes.parquet", {**of_changes, "op": words.take(pa.array(does))}, shuffled)
    of_events = {
        "id": np.arange(changes),
        "entity_id": draw.integers(0, ENTITIES, changes),
        "ts": pa.array(changed_at - draw.integers(0, DAY_US, changes)).cast(us),
        **shared,
    }
    write("events.parquet", of_events, shuffled)
    spine = draw.integers(0, int(ENTITIES * 1.02), SPINE)
    write("spine.parquet", {"entity_id": spine, "time": pa.array(times(SPINE)).cast(us)})
    (place / "done").touch()
    return place


FEATURES = ", ".join(
    f"agg.{op}({column}{separator}windows={windows})"
    for windows in ("None", '["30d"]')
    for op, column, separator in (
        ("count", "", ""),
        ("sum", '"amount"', ", "),
        ("mean", '"amount"', ", "),
        ("max", '"amount"', ", "),
        ("count_distinct", '"quantity"', ", "),
    )
)
SOURCES = {
    "changes": 'TableSource("source", log=log, primary_key="id", changed_at="changed_at", '
    'position="position", event_time="ts", columns=columns)',
    "events": 'EventSource("source", log=log, id="id", event_time="ts", columns=columns)',
}


def project(place: Path, log: str) -> str:
    """The declarations of a project over one of the logs."""
    return f"""
from featurestore import Entity, EventSource, FeatureView, Parquet, TableSource, agg
columns = {COLUMNS!r}
log = Parquet({str(place / f"{log}.parquet")!r})
source = {SOURCES[log]}
view = FeatureView("view", Entity("entity", key="entity_id"), source, [{FEATURES}])
"""


def training_set(place: Path, log: str) -> tuple[pa.Table, float]:
    """The training set, and the seconds that it took."""
    from featurestore import FeatureStore

    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "features.py").write_text(project(place, log))
        store = FeatureStore(directory)
        store.plans  # noqa: B018  the schema is read and the kernel loaded before the clock starts
        import featurestore.batch.training_set  # noqa: F401

        begun = time.perf_counter()
        made = store.training_set(str(place / "spine.parquet"), "view", time="time").to_arrow()
        return made, time.perf_counter() - begun


def check(place: Path, log: str, made: pa.Table) -> None:
    """Compare 1,000 rows with the oracle, bit for bit; AssertionError where one differs."""
    from featurestore.dtypes import parse
    from featurestore.testing.bits import bits
    from featurestore.testing.reference import Oracle
    from featurestore.testing.reference_tables import OPERATION, TableOracle

    declared: dict[str, Any] = {}
    exec(project(place, log), declared)
    view = declared["view"]
    schema = {name: parse(text) for name, text in COLUMNS.items()}
    oracle: Callable[..., Oracle | TableOracle] = TableOracle if log == "changes" else Oracle
    picked = np.random.default_rng(1).choice(made.num_rows, CHECKED, replace=False)
    rows = made.take(pa.array(picked))
    asked = pc.unique(rows.column("entity_id"))
    path = place / f"{log}.parquet"
    # All changes of all rows that have ever been one of the entities'.
    mine = pq.read_table(path, columns=["id", "entity_id"], filters=pc.field("entity_id").isin(asked))
    facts = pq.read_table(path, filters=pc.field("id").isin(pc.unique(mine.column("id"))))
    for name in ("ts", "changed_at"):
        place_of = facts.column_names.index(name)
        facts = facts.set_column(place_of, name, facts.column(name).cast(pa.int64()))
    by_id: dict[int, list[dict[str, Any]]] = {}
    for fact in facts.to_pylist():
        if log == "changes":
            fact[OPERATION] = int(fact.pop("op") == "delete")
        by_id.setdefault(fact["id"], []).append(fact)
    ids: dict[int, set[int]] = {}
    for entity, identity in zip(
        *(mine.column(name).to_pylist() for name in ("entity_id", "id")), strict=True
    ):
        ids.setdefault(entity, set()).add(identity)
    oracles: dict[int, Oracle | TableOracle] = {}
    times = rows.column("time").cast(pa.int64()).to_pylist()
    for row, as_of in zip(rows.to_pylist(), times, strict=True):
        key = row["entity_id"]
        if key not in oracles:
            facts_of = [fact for identity in sorted(ids.get(key, ())) for fact in by_id[identity]]
            oracles[key] = oracle(view, schema, facts_of)
        for feature, value in oracles[key].answer((key,), as_of=as_of, known_at=None).items():
            assert bits(value.value) == bits(row[f"view__{feature}"]), (log, feature, row, value)


def run(place: Path, log: str, *, checked: bool) -> None:
    """One contender, in this process: its seconds, CPU seconds and peak memory as JSON."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    made, seconds = training_set(place, log)
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    if checked:
        check(place, log, made)
    print(json.dumps({"seconds": seconds, "cpu": cpu, "peak_mb": used.ru_maxrss / 1024}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "featurestore-benchmarks")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--changes", type=int, nargs="+", default=list(SIZES), help="sizes of the log")
    parser.add_argument("--run", choices=SOURCES, help=argparse.SUPPRESS)
    parser.add_argument("--unchecked", action="store_true", help="don't ask the oracle")
    options = parser.parse_args()
    places = {size: make(options.data, size) for size in options.changes}
    if options.run:
        run(places[options.changes[0]], options.run, checked=not options.unchecked)
        return
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    for round_number in range(options.rounds):
        for size in options.changes:
            for log in SOURCES:
                command = [sys.executable, "-m", "benchmarks.changes", "--data", str(options.data)]
                command += ["--changes", str(size), "--run", log]
                # Equal bits need one look.
                command += ["--unchecked"] if options.unchecked or round_number else []
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found.setdefault((log, size), []).append(json.loads(done.stdout.splitlines()[-1]))
                print(f"round {round_number + 1}: {size:,} {log}: {found[log, size][-1]}", file=sys.stderr)
    print(f"{'contender':24}{'median s':>10}{'CPU s':>8}{'peak GB':>9}{'us a row':>10}")
    median = {
        one: {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        for one, runs in found.items()
    }
    for (log, size), one in median.items():
        told = f"{one['seconds']:10.2f}{one['cpu']:8.2f}{one['peak_mb'] / 1024:9.2f}"
        print(f"{size:>12,} {log:11}{told}{one['seconds'] * 1e6 / size:10.3f}")
    for size in options.changes:
        for name, unit in (("seconds", "time"), ("cpu", "CPU time"), ("peak_mb", "peak memory")):
            ratio = median["changes", size][name] / median["events", size][name]
            verdict = "holds" if ratio <= 3 else "DOES NOT HOLD"
            print(f"{size:,} changes / events, {unit}: {ratio:.2f} (at most 3: {verdict})")


if __name__ == "__main__":
    main()
