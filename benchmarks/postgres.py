"""The store in PostgreSQL beside the store in SQLite: the same work in one run, turn by turn.

    python -m benchmarks.postgres [--data DIR] [--directory DIR] [--events 1000000] [--rounds 3]

A server of its own is started in DIR (default: the temporary directory), with fsync on; both stores lie on
the same disk. Backfill of one file of events with ids; reads by the store's own calls and by
`online_features`; pushes of one row; commits of 20 deltas by one process, two and four at once. Medians of
the rounds.

Last run: see benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.synchronize
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.backfill import _iso, declared
from benchmarks.data import make
from tests.services.postgres import SETTINGS, Postgres

DURABLE = {
    **SETTINGS, "fsync": "on", "full_page_writes": "on", "shared_buffers": "512MB", "max_wal_size": "4GB",
}  # fmt: skip
AS_OF = "2025-06-01T00:00:00Z"
DELTAS = 20
COMMITS = 150


def one_round(directory: Path, log: Path, entities: int, url: str | None) -> dict[str, float]:
    """What one store takes for everything; seconds."""
    from featurestore import FeatureStore

    (directory / "features.py").write_text(declared(log, 'id="id"'))
    if url is not None:
        (directory / "featurestore.toml").write_text(f'[store]\nurl = "{url}"\n')
    draw = random.Random(1)
    taken: dict[str, float] = {}
    with FeatureStore(directory) as project:
        project.apply()
        began_s = time.perf_counter()
        project.backfill()
        taken["backfill"] = time.perf_counter() - began_s
        with project.store.snapshot() as snapshot:
            keys = snapshot.entity_keys(1, limit=entities)
            sizes = snapshot.sizes()[1]
        assert sizes.versions > 0

        def read(count: int) -> Callable[[], object]:
            def once() -> object:
                with project.store.snapshot() as snapshot:
                    return snapshot.read(1, draw.sample(keys, count))

            return once

        def answer(count: int) -> Callable[[], object]:
            return lambda: project.online_features(
                ["activity:n", "activity:amount_sum"],
                {"entity_id": draw.sample(range(entities), count)},
                as_of=AS_OF,
            )

        for name, make_one in (("snapshot, read", read), ("online_features", answer)):
            for count, times in ((1, 1500), (100, 150)):
                taken[f"{name} {count}, median"], taken[f"{name} {count}, p99"] = each(make_one(count), times)
        number = iter(range(10**9, 2 * 10**9))

        def push() -> object:
            n = next(number)
            row = {"id": n, "entity_id": n % 1000, "ts": _iso(n % 100_000), "amount": 1.0}
            return project.ingest("events", [row])

        taken["push of one row, median"], taken["push of one row, p99"] = each(push, 200)
        place = url or str(directory / ".featurestore" / "store.db")
    for processes in (1, 2, 4):
        taken[f"commit of {DELTAS} deltas, {processes} processes"] = together(place, processes)
    return taken


def each(once: Callable[[], object], times: int) -> tuple[float, float]:
    """The median and the 99th percentile of one call, in seconds."""
    for _ in range(times // 5):
        once()
    taken = []
    for _ in range(times):
        began_s = time.perf_counter()
        once()
        taken.append(time.perf_counter() - began_s)
    return statistics.median(taken), statistics.quantiles(taken, n=100)[98]


def together(place: str, processes: int) -> float:
    """Seconds a commit, of all processes together."""
    context = multiprocessing.get_context("spawn")
    started = context.Barrier(processes + 1)
    running = [context.Process(target=_commit, args=(place, started, n)) for n in range(processes)]
    for process in running:
        process.start()
    started.wait()
    began_s = time.perf_counter()
    for process in running:
        process.join()
        assert process.exitcode == 0
    return (time.perf_counter() - began_s) / (processes * COMMITS)


def _commit(place: str, started: multiprocessing.synchronize.Barrier, process: int) -> None:
    from featurestore.store import DELTA_LEVEL, SegmentRow, Store

    draw = random.Random(process)
    with Store.open(place, migrate=False) as store:
        started.wait()
        for n in range(COMMITS):
            with store.commit("ingest", now_us=1) as commit:
                keys = {b"%06d" % draw.randrange(100_000) for _ in range(DELTAS)}
                commit.append(1, [SegmentRow(key, DELTA_LEVEL, n, 1, b"x" * 120) for key in keys])
                commit.count("events", str(process), {"delivered": DELTAS, "accepted": DELTAS})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "featurestore-benchmarks")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--entities", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    log = make(options.data, events=options.events, entities=options.entities, spine=1_000)
    taken: dict[str, dict[str, list[float]]] = {"sqlite": {}, "postgresql": {}}
    with Postgres(DURABLE, place=options.directory) as server:
        for _ in range(options.rounds):
            for name, found in taken.items():
                url = server.database() if name == "postgresql" else None
                with tempfile.TemporaryDirectory(dir=options.directory) as directory:
                    measured = one_round(Path(directory), log / "corrected.parquet", options.entities, url)
                for what, seconds in measured.items():
                    found.setdefault(what, []).append(seconds)
                if url is not None:
                    server.drop(url)
    print(f"{options.events:,} events of {options.entities:,} entities, medians of {options.rounds}")
    print(f"{'':40} {'SQLite':>12} {'PostgreSQL':>12} {'ratio':>7}")
    for what in taken["sqlite"]:
        one, other = (statistics.median(found[what]) for found in taken.values())
        print(f"{what:40} {shown(one):>12} {shown(other):>12} {other / one:7.2f}")


def shown(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.2f} ms"


if __name__ == "__main__":
    main()
