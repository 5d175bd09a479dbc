"""A project over a store in PostgreSQL: several processes fill it, are killed, or lose their server."""

from __future__ import annotations

import multiprocessing
import threading
import time
from pathlib import Path

import psycopg
import pytest

from featurestore import FeatureStore
from tests.integration.backfill_project import (
    answers,
    assert_parity,
    counters,
    messy_rows,
    project,
    pushed,
    row,
    write,
)
from tests.services.postgres import Postgres


def on_postgres(root: Path, url: str) -> Path:
    (root / "featurestore.toml").write_text(f'[store]\nurl = "{url}"\n')
    return root


def run_backfill(root: Path) -> None:
    from featurestore.batch import timeline_fill

    timeline_fill.LEAST_CHUNK_ROWS = timeline_fill.FIRST_CHUNK_ROWS = 400
    timeline_fill.MOST_CHUNK_ROWS = 400
    with FeatureStore(root) as store:
        store.backfill()


def run_pushes(root: Path, seed: int) -> None:
    rows = [row(number, card=f"c{number % 100}", day=number % 90) for number in range(7_500, 8_300)]
    with FeatureStore(root) as store:
        for first in range(0, len(rows), 16):
            store.ingest("transactions", [pushed(one) for one in rows[first : first + 16][:: 1 - 2 * seed]])


def test_law_4_two_processes_push_the_same_rows_while_a_third_backfills_them(
    tmp_path: Path, postgres_url: str
):
    root = on_postgres(project(tmp_path), postgres_url)
    write(
        root, "a.parquet", [row(number, card=f"c{number % 100}", day=number % 90) for number in range(8_000)]
    )
    with FeatureStore(root) as store:
        store.apply()
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["featurestore.batch.backfill", "featurestore.store.ingest", __name__])
        processes = [
            context.Process(target=run_backfill, args=(root,)),
            context.Process(target=run_pushes, args=(root, 0)),
            context.Process(target=run_pushes, args=(root, 1)),
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(200)
        assert [process.exitcode for process in processes] == [0, 0, 0]
        counts = counters(store)
        assert counts["log/card@1"]["delivered"] == 8_000 and counts["arrivals"]["delivered"] == 1_600
        assert sum(one.get("accepted", 0) + one.get("corrected", 0) for one in counts.values()) == 8_300
        with store.store.snapshot() as snapshot:
            assert snapshot.sizes()[1].versions == 8_300
        assert_parity(store, 100)


def test_law_4_a_backfill_killed_at_any_moment_and_run_again_ends_as_if_nothing_had_happened(
    tmp_path: Path, postgres: Postgres, postgres_url: str
):
    rows = messy_rows(5, 12_000, cards=300)
    expected_root = project(tmp_path / "sqlite")
    root = on_postgres(project(tmp_path / "postgresql"), postgres_url)
    for one in (expected_root, root):
        write(one, "a.parquet", rows[:7_000])
        write(one, "b.parquet", rows[7_000:])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["featurestore.batch.backfill", "featurestore.feature_store", __name__])
    with FeatureStore(expected_root) as expected, FeatureStore(root) as store:
        expected.apply()
        expected.backfill()
        store.apply()
        kills = 0
        with psycopg.connect(postgres_url, autocommit=True) as watching:
            for moment in (3, 6, 10, 15, 20):
                process = context.Process(target=run_backfill, args=(root,))
                process.start()
                while process.is_alive():
                    found = watching.execute("SELECT max(number) FROM commits").fetchone()
                    if found is not None and found[0] >= moment:
                        break
                    time.sleep(0.001)
                time.sleep(kills * 0.0009)
                process.kill()
                process.join(60)
                kills += process.exitcode != 0
        assert kills >= 4
        store.backfill()
        assert counters(store) == counters(expected)
        assert answers(store, 300) == answers(expected, 300)
        with store.store.snapshot() as found_state, expected.store.snapshot() as wanted:
            assert found_state.progress(1) == {}
            assert found_state.sizes()[1].versions == wanted.sizes()[1].versions


def test_a_backfill_goes_on_through_a_restart_of_the_server(tmp_path: Path, own_server: Postgres):
    root = on_postgres(project(tmp_path), own_server.database())
    write(root, "a.parquet", messy_rows(7, 12_000, cards=300))
    stopped = threading.Event()
    with FeatureStore(root) as store:
        store.apply()
        from featurestore.batch import timeline_fill

        def restart(done: int, total: int, what: str) -> None:
            if done > 3_000 and not stopped.is_set():
                stopped.set()
                own_server.stop()
                threading.Timer(0.5, own_server.start).start()

        with pytest.MonkeyPatch.context() as patch:
            for name in ("LEAST_CHUNK_ROWS", "FIRST_CHUNK_ROWS", "MOST_CHUNK_ROWS"):
                patch.setattr(timeline_fill, name, 800)
            store.backfill(progress=restart)
        assert stopped.is_set() and counters(store)["log/card@1"]["delivered"] == 12_000
        assert_parity(store, 100)
