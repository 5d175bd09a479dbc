"""Writers take turns: while one process backfills, pushes of another are answered, and none fails."""

from __future__ import annotations

import multiprocessing
import random
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import FeatureStore
from featurestore.batch import timeline_fill
from tests.integration.backfill_project import (
    BEGIN_US,
    DAY_US,
    SCHEMA,
    assert_parity,
    counters,
    project,
    pushed,
    row,
    write,
)


def run_backfill(root: Path) -> None:
    with FeatureStore(root) as store:
        store.backfill()


def run_slow_backfill(root: Path) -> None:
    timeline_fill.LEAST_CHUNK_ROWS = timeline_fill.FIRST_CHUNK_ROWS = 400
    timeline_fill.MOST_CHUNK_ROWS = 400
    run_backfill(root)


def run_pushes(root: Path, seed: int) -> None:
    """The same rows as every other seed's, in another order, some of them those of the log."""
    rows = [row(number, card=f"c{number % 100}", day=number % 90) for number in range(19_000, 20_600)]
    random.Random(seed).shuffle(rows)
    with FeatureStore(root) as store:
        for first in range(0, len(rows), 16):
            report = store.ingest("transactions", [pushed(one) for one in rows[first : first + 16]])
            assert report.rejected == [] and report.corrected == 0


def test_two_processes_push_the_same_rows_while_a_third_backfills_them(tmp_path: Path):
    root = project(tmp_path)
    write(
        root, "a.parquet", [row(number, card=f"c{number % 100}", day=number % 90) for number in range(20_000)]
    )
    with FeatureStore(root) as store:
        store.apply()
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["featurestore.batch.backfill", "featurestore.store.ingest", __name__])
        processes = [
            context.Process(target=run_slow_backfill, args=(root,)),
            context.Process(target=run_pushes, args=(root, 1)),
            context.Process(target=run_pushes, args=(root, 2)),
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(120)
            assert process.exitcode == 0
        counts = counters(store)
        assert counts["log/card@1"]["delivered"] == 20_000
        assert counts["arrivals"]["delivered"] == 2 * 1_600
        new = sum(one.get("accepted", 0) + one.get("corrected", 0) for one in counts.values())
        assert new == 20_600
        with store.store.snapshot() as snapshot:
            assert snapshot.sizes()[1].versions == 20_600
        assert_parity(store, 100)


@pytest.mark.parametrize("events", [100_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_pushes_are_answered_within_a_second_during_a_backfill(tmp_path: Path, events: int):
    root = project(tmp_path)
    draw = np.random.default_rng(3)
    ts = pa.array(BEGIN_US + draw.integers(0, 90 * DAY_US, events), pa.timestamp("us", "UTC"))
    table = pa.table(
        {
            "transaction_id": pa.array([f"e{number}" for number in range(events)]),
            "card_id": pa.array([f"c{number}" for number in draw.integers(0, events // 20, events)]),
            "ts": ts,
            "amount": draw.gamma(2.0, 30.0, events),
            "recorded_at": ts,
            "gone": pa.nulls(events, pa.bool_()),
        },
        schema=SCHEMA,
    )
    pq.write_table(table, root / "data" / "a.parquet")
    with FeatureStore(root) as store:
        store.apply()
        store.ingest("transactions", [pushed(row(0))])
        process = multiprocessing.get_context("spawn").Process(target=run_backfill, args=(root,))
        process.start()
        took_s: list[float] = []
        while process.is_alive():
            number = len(took_s) + 1
            start = time.monotonic()
            report = store.ingest("transactions", [pushed(row(number, card=f"c{number % 1000}"))])
            took_s.append(time.monotonic() - start)
            assert report.accepted == 1
        process.join()
        assert process.exitcode == 0
        assert len(took_s) > 50
        assert float(np.quantile(took_s, 0.99)) < 1
        counts = counters(store)
        assert counts["log/card@1"] == {"accepted": events, "delivered": events}
        assert counts["arrivals"]["accepted"] == len(took_s) + 1
        assert_parity(store, 300)
