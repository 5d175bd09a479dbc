"""Workers over PostgreSQL: several commit at once, and the store's answers are those of a backfill."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from featurestore import FeatureStore
from tests.integration.backfill_project import answers, messy_rows, write
from tests.integration.backfill_project import project as log_project
from tests.services.kafka import Broker
from tests.services.postgres import Postgres
from tests.streaming.stream_project import new_topic, project, send, stands, stream_counts, totals, value
from tests.streaming.test_stream_group import held

CARDS = 60


def wait_for(what: Callable[[], bool], running: subprocess.Popen[str], within_s: float = 90) -> None:
    """Wait; what the command has said is told where it doesn't come."""
    deadline_s = time.monotonic() + within_s
    while not what():
        if time.monotonic() > deadline_s or running.poll() is not None:
            running.terminate()
            raise AssertionError(running.communicate(timeout=60))
        time.sleep(0.05)


def on_postgres(root: Path, url: str) -> Path:
    with (root / "featurestore.toml").open("a") as settings:
        settings.write(f'[store]\nurl = "{url}"\n')
    return root


def command(root: Path, *arguments: str) -> subprocess.Popen[str]:
    code = "from featurestore.cli import main; raise SystemExit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", code, "-C", str(root), "stream", "--json", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_workers_on_postgresql_share_the_partitions_and_give_the_answers_of_a_backfill(
    tmp_path: Path, broker: Broker, postgres: Postgres, postgres_url: str
):
    rows = messy_rows(12, 3_000, cards=CARDS)
    topic = new_topic(broker, partitions=4)
    root = on_postgres(project(tmp_path / "stream", broker, topic, batch=150), postgres_url)
    draw = random.Random(13)
    partitions = [draw.randrange(4) for _ in rows]
    with FeatureStore(root) as store:
        store.apply()
        running = command(root, "--workers", "3")
        try:
            # The group's first round may give all to one of them; the others take theirs right after.
            wait_for(lambda: len(held(store)) == 3, running)
            send(broker, topic, [value(one) for one in rows[:2_000]], partitions=partitions[:2_000])
            wait_for(lambda: _read(store) > 1_000, running)
            # PostgreSQL ends every connection under load, again and again; workers go on.
            for first in range(2_000, 3_000, 100):
                part = slice(first, first + 100)
                send(broker, topic, [value(one) for one in rows[part]], partitions=partitions[part])
                for _ in range(5):
                    postgres.terminate_backends(postgres_url.rpartition("/")[2])
                    time.sleep(0.02)
            with FeatureStore(root) as anew:
                wait_for(lambda: _read(anew) == 3_000, running)
            time.sleep(0.5)
            running.send_signal(signal.SIGTERM)
            out, said = running.communicate(timeout=60)
            assert running.returncode == 0, said
        finally:
            running.kill()
        reports = json.loads(out)
        assert len(reports) == 3
    whole = log_project(tmp_path / "whole")
    write(whole, "all.parquet", rows)
    with FeatureStore(whole) as expected, FeatureStore(root) as store:
        expected.apply()
        expected.backfill()
        counts = totals(stream_counts(store, topic))
        assert counts["delivered"] == 3_000
        assert answers(store, CARDS) == answers(expected, CARDS)


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_a_postgresql_that_is_killed_under_load_and_comes_back_costs_nothing(
    tmp_path: Path, broker: Broker, kills: int
):
    rows = messy_rows(14, 1_000 * (kills + 1), cards=CARDS)
    topic = new_topic(broker, partitions=4)
    draw, landed = random.Random(15), 0
    partitions = [draw.randrange(4) for _ in rows]
    with Postgres() as server:
        root = on_postgres(project(tmp_path / "stream", broker, topic, batch=50), server.database())
        with FeatureStore(root) as store:
            store.apply()
            running = command(root, "--workers", "2")
            try:
                wait_for(lambda: len(held(store)) == 2, running)
                for first in range(0, len(rows), 1_000):
                    part = slice(first, first + 1_000)
                    send(broker, topic, [value(one) for one in rows[part]], partitions=partitions[part])
                    wait_for(lambda: _read(store) > first, running)  # noqa: B023 - used at once
                    if first + 1_000 < len(rows):
                        time.sleep(draw.random() * 0.1)
                        server.kill()
                        server.start()
                        landed += _read(store) < first + 1_000
                # Workers had messages left to read; those that were quick once it was back are not known of.
                assert 2 * landed >= kills
                wait_for(lambda: _read(store) == len(rows), running)
                time.sleep(0.5)
                running.send_signal(signal.SIGTERM)
                out, said = running.communicate(timeout=60)
                assert running.returncode == 0, said
            finally:
                running.kill()
            # The workers lived through it.
            assert [report["restarts"] for report in json.loads(out)] == [0, 0], said
            assert totals(stream_counts(store, topic))["delivered"] == len(rows)
            whole = log_project(tmp_path / "whole")
            write(whole, "all.parquet", rows)
            with FeatureStore(whole) as expected:
                expected.apply()
                expected.backfill()
                assert answers(store, CARDS) == answers(expected, CARDS)


def _read(store: FeatureStore) -> int:
    return sum(one.next_offset for one in stands(store).values())


def test_workers_end_when_the_command_that_started_them_is_killed(
    tmp_path: Path, broker: Broker, postgres_url: str
):
    topic = new_topic(broker, partitions=2)
    root = on_postgres(project(tmp_path, broker, topic), postgres_url)
    with FeatureStore(root) as store:
        store.apply()
        running = command(root, "--workers", "2")
        wait_for(lambda: bool(held(store)), running)
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        assert len(children) == 2
        running.kill()
        running.communicate()
        deadline_s = time.monotonic() + 30
        while any(_alive(int(child)) for child in children):
            assert time.monotonic() < deadline_s
            time.sleep(0.1)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
