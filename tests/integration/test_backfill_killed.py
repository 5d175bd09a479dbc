"""Law 4, exactly once: a backfill that is killed at any moment and run again ends as if nothing had happened.

The moments are drawn from a seed, as numbers of commits that the backfill has made when it is killed.
"""

from __future__ import annotations

import multiprocessing
import random
import shutil
import sqlite3
import time
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from featurestore import FeatureStore
from tests.integration.backfill_project import (
    SCHEMA,
    WITH_ID,
    WITHOUT_ID,
    answers,
    counters,
    messy_rows,
    project,
)

ROWS = 200_000
CARDS = 2_000
KILLS = 12


def run_backfill(root: Path) -> None:
    from featurestore.batch import parts, timeline_fill

    # Small parts and commits, so that there are many moments to be killed at.
    parts.PART_ROWS = 60_000
    timeline_fill.LEAST_CHUNK_ROWS = timeline_fill.FIRST_CHUNK_ROWS = 3_000
    timeline_fill.MOST_CHUNK_ROWS = 3_000
    with FeatureStore(root) as store:
        store.backfill()


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Processes that begin with everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["featurestore.batch.backfill", "featurestore.feature_store", __name__])
    return context


def started(processes: ForkServerContext, root: Path) -> ForkServerProcess:
    process = processes.Process(target=run_backfill, args=(root,))
    process.start()
    return process


def commits(store: Path) -> int:
    with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as connection:
        return int(connection.execute("SELECT max(number) FROM commits").fetchone()[0])


def history() -> pa.Table:
    """Ten times the same events, each under five ids, twice under each."""
    events = pa.Table.from_pylist(messy_rows(5, ROWS // 10, cards=CARDS), SCHEMA)
    ids = events.column("transaction_id")
    return pa.concat_tables(
        events.set_column(0, "transaction_id", pc.binary_join_element_wise(ids, str(times // 2), ""))
        for times in range(10)
    )


@pytest.mark.parametrize("roles", [WITH_ID, WITHOUT_ID], ids=["id", "no id"])
def test_a_killed_backfill_goes_on_without_loss_or_double_counting(
    tmp_path: Path, processes: ForkServerContext, roles: str
):
    table = history()
    whole = project(tmp_path / "whole", roles)
    at = 0
    for number, rows in enumerate((90_000, 30, 50_000, 59_970)):
        pq.write_table(table.slice(at, rows), whole / "data" / f"{number}.parquet", row_group_size=20_000)
        at += rows
    with FeatureStore(whole) as store:
        store.apply()
    killed = tmp_path / "killed"
    shutil.copytree(whole, killed)

    process = started(processes, whole)
    process.join(60)
    assert process.exitcode == 0
    total = commits(whole / ".featurestore" / "store.db")
    assert total > 3 * KILLS

    draw = random.Random(11)
    moments = sorted(draw.sample(range(2, total), KILLS))
    database = killed / ".featurestore" / "store.db"
    kills = 0
    for moment in moments:
        process = started(processes, killed)
        while process.is_alive() and commits(database) < moment:
            time.sleep(0.0005)
        time.sleep(draw.random() * 0.004)
        process.kill()
        process.join(60)
        kills += process.exitcode != 0
    process = started(processes, killed)
    process.join(60)
    assert process.exitcode == 0
    assert kills >= 10

    with FeatureStore(whole) as expected, FeatureStore(killed) as store:
        assert counters(store) == counters(expected)
        assert counters(store)["log/card@1"]["delivered"] == ROWS
        assert answers(store, 200) == answers(expected, 200)
        with store.store.snapshot() as found, expected.store.snapshot() as wanted:
            assert found.progress(1) == {}
            assert found.sizes()[1].versions == wanted.sizes()[1].versions
            assert found.loaded_files(1).keys() == wanted.loaded_files(1).keys()
