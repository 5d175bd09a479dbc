"""Feast and this store under one load: the latest values of five columns, materialized and served.

    python -m benchmarks.feast --python FEAST/bin/python [DIRECTORY] [--rows 1000000] [--entities 10000]

Feast stands in an environment of its own, whose interpreter is named (``python -m venv FEAST`` and
``FEAST/bin/pip install 'feast[duckdb]'``). The rows are uniform over 100 days, as float32 columns. Feast
materializes the latest row of each entity; this store takes in the whole history and answers any ``as_of``.
Then both are asked over HTTP, by the same bytes, for 5 features of 1 and of 100 random entities over 1 and 16
connections: requests a second, median and 99th percentile, medians of three rounds. Before that, the two
answers for 1,000 entities are compared. wrk makes the load where it is installed, else this process.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.data import DAY_US, START_US
from benchmarks.serving import BODIES, featurestore, free_port, post, process, rounds, serving
from featurestore.dtypes import instant_text

DAYS = 100
COLUMNS = tuple(f"f{i}" for i in range(5))

OURS = """
from featurestore import Entity, EventSource, FeatureView, Parquet, agg

rows = EventSource("rows", log=Parquet("../rows.parquet"), event_time="ts")
latest = FeatureView("latest", entity=Entity("entity", key="entity_id"), source=rows,
                     features=[agg.last(f"f{i}", name=f"f{i}") for i in range(5)])
"""

THEIRS = """
from datetime import timedelta
from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.types import Float32

entity = Entity(name="entity", join_keys=["entity_id"], value_type=ValueType.INT64)
latest = FeatureView(name="latest", entities=[entity], ttl=timedelta(0), online=True,
                     schema=[Field(name=f"f{i}", dtype=Float32) for i in range(5)],
                     source=FileSource(path="../rows.parquet", timestamp_field="ts"))
"""

SETTINGS = """
project: bench
registry: registry.db
provider: local
offline_store: {type: duckdb}
online_store: {type: sqlite, path: online.db}
entity_key_serialization_version: 3
materialization: {pull_latest_features: true}
"""


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("directory", type=Path, nargs="?")
    arguments.add_argument("--python", type=Path, required=True, help="the interpreter that has Feast")
    arguments.add_argument("--rows", type=int, default=1_000_000)
    arguments.add_argument("--entities", type=int, default=10_000)
    arguments.add_argument("--seconds", type=float, default=5.0)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        directory = (options.directory or Path(temporary)).resolve()
        write_rows(directory, options.rows, options.entities)
        ours, theirs = filled(directory), materialized(directory, options.python)
        compare(ours, theirs, options.python, options.entities)
        for line in measured(ours, theirs, options.python, options.entities, options.seconds):
            print(line, flush=True)


def write_rows(directory: Path, rows: int, entities: int) -> None:
    """``rows.parquet``: int64 ``entity_id``, ``ts``, float32 ``f0`` to ``f4``."""
    directory.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(7)
    ts = START_US + draw.integers(0, DAYS * DAY_US, rows)
    table = {"entity_id": draw.integers(0, entities, rows), "ts": pa.array(ts, pa.timestamp("us", "UTC"))}
    table |= {name: draw.standard_normal(rows, np.float32) for name in COLUMNS}
    pq.write_table(pa.table(table), directory / "rows.parquet")


def filled(directory: Path) -> Path:
    project = directory / "ours"
    project.mkdir(exist_ok=True)
    (project / "features.py").write_text(OURS)
    begin_s = time.perf_counter()
    for command in ("apply", "backfill"):
        subprocess.run([*featurestore(project), command], check=True, stdout=subprocess.DEVNULL)
    print(f"featurestore: all history in {time.perf_counter() - begin_s:.1f} s", flush=True)
    return project


def materialized(directory: Path, python: Path) -> Path:
    project = directory / "feast"
    project.mkdir(exist_ok=True)
    (project / "definitions.py").write_text(THEIRS)
    (project / "feature_store.yaml").write_text(SETTINGS)
    end = instant_text(START_US + DAYS * DAY_US)
    begin_s = time.perf_counter()
    for command in (["apply"], ["materialize", "2000-01-01T00:00:00", end.rstrip("Z")]):
        subprocess.run([*feast(python), *command], cwd=project, check=True, capture_output=True)
    print(f"Feast: the latest rows in {time.perf_counter() - begin_s:.1f} s", flush=True)
    return project


def feast(python: Path) -> list[str]:
    return [str(python.absolute()), "-m", "feast.cli.cli"]


@contextmanager
def feast_serving(project: Path, python: Path) -> Iterator[int]:
    port = free_port()
    options = ["--no-access-log", "--max-requests", "0", "--max-requests-jitter", "0"]
    command = [*feast(python), "--chdir", str(project), "serve", "--port", str(port), *options]
    with process(command, port, "/health"):
        yield port


def body(keys: list[int]) -> bytes:
    asked = {"features": [f"latest:{name}" for name in COLUMNS], "entities": {"entity_id": keys}}
    return json.dumps(asked, separators=(",", ":")).encode()


def compare(ours: Path, theirs: Path, python: Path, entities: int) -> None:
    """Both answer 1,000 entities alike."""
    asked = body(random.Random(2).sample(range(entities), min(1000, entities)))
    with serving(ours) as port:
        mine = _values(post(port, asked))
    with feast_serving(theirs, python) as port:
        other = _values(post(port, asked))
    assert mine == other, [pair for pair in zip(mine, other, strict=True) if pair[0] != pair[1]][:1]
    print(f"compared {len(mine)} columns of {len(mine[0]):,} entities: equal", flush=True)


def _values(answer: bytes) -> list[list[float]]:
    results = json.loads(answer)["results"][1:]
    return [np.asarray(one["values"], np.float32).tolist() for one in results]


def measured(ours: Path, theirs: Path, python: Path, entities: int, seconds: float) -> Iterator[str]:
    """A line for each load."""
    yield f"{'entities':>8} {'connections':>11} {'server':>12} {'requests/s':>11} {'p50 ms':>8} {'p99 ms':>8}"
    draw = random.Random(1)
    for count in (1, 100):
        bodies = [body([draw.randrange(entities) for _ in range(count)]) for _ in range(BODIES)]
        for connections in (1, 16):
            with serving(ours) as port:
                mine = rounds(port, bodies, connections, seconds)
            with feast_serving(theirs, python) as port:
                other = rounds(port, bodies, connections, seconds)
            for name, found in (("featurestore", mine), ("Feast", other)):
                yield (
                    f"{count:8} {connections:11} {name:>12} {found.requests_s:11.0f} {found.p50_ms:8.2f} "
                    f"{found.p99_ms:8.2f}" + (f"  {found.failed} FAILED" if found.failed else "")
                )
            yield f"{'':20} {'ratio':>12} {mine.requests_s / other.requests_s:11.2f}"


if __name__ == "__main__":
    sys.exit(main())
