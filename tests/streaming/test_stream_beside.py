"""What runs beside a stream does not fail and changes no answer: pushes over HTTP into the same
timelines, and the backfill of another source."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread

import httpx
import pytest

from featurestore import FeatureStore
from tests.integration.backfill_project import Row, answers, counters, messy_rows, pushed, write
from tests.integration.backfill_project import project as log_project
from tests.services.kafka import Broker
from tests.streaming.stream_project import (
    new_topic,
    project,
    send,
    stands,
    started,
    stopped,
    stream_counts,
    totals,
    value,
)
from tests.streaming.test_stream_postgres import on_postgres

CARDS = 40
REFUNDS_PY = """
refunds = EventSource(
    "refunds", log=Parquet("refunds/*.parquet"), event_time="ts", id="transaction_id",
    available_at="recorded_at", deleted="gone",
    columns={"transaction_id": "string", "card_id": "string", "ts": "timestamp", "amount": "float64",
             "recorded_at": "timestamp", "gone": "bool"},
)
refunded = FeatureView("refunded", entity=card, source=refunds, features=[
    agg.count(windows=["7d", "90d"]), agg.sum("amount"), agg.last_k("amount", k=3),
])
"""
COMMAND = [sys.executable, "-c", "from featurestore.cli import main; raise SystemExit(main())"]


def whole(rows: Sequence[Row]) -> list[Row]:
    """Those that no host refuses, or has to fill in."""
    return [one for one in rows if None not in one.values()]


def backfilled(root: Path, rows: Sequence[Row], refunds: Sequence[Row]) -> list[list[dict[str, object]]]:
    """The answers of a store that was filled from all rows as logs."""
    log_project(root)
    add_refunds(root, refunds)
    write(root, "all.parquet", rows)
    with FeatureStore(root) as store:
        store.apply()
        store.backfill()
        return [answers(store, CARDS, view) for view in ("activity", "refunded")]


def add_refunds(root: Path, refunds: Sequence[Row]) -> None:
    with (root / "features.py").open("a") as features:
        features.write(REFUNDS_PY)
    (root / "refunds").mkdir()
    write(root, "../refunds/all.parquet", refunds)


@contextmanager
def serving(root: Path) -> Iterator[httpx.Client]:
    port = 18_000 + random.SystemRandom().randrange(10_000)
    process = subprocess.Popen(
        [*COMMAND, "-C", str(root), "serve", "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            deadline_s = time.monotonic() + 120
            while True:
                assert process.poll() is None and time.monotonic() < deadline_s
                try:
                    if client.get("/health").status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                time.sleep(0.1)
            yield client
    finally:
        process.kill()
        process.communicate()


def send_in_pieces(broker: Broker, topic: str, rows: Sequence[Row]) -> None:
    for first in range(0, len(rows), 100):
        some = rows[first : first + 100]
        send(broker, topic, [value(one) for one in some], partitions=[n % 3 for n in range(len(some))])
        time.sleep(0.02)


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_pushes_and_a_backfill_beside_a_stream_do_not_fail_and_change_no_answer(
    tmp_path: Path, broker: Broker, database: str, request: pytest.FixtureRequest
):
    topic = new_topic(broker)
    root = project(tmp_path / "stream", broker, topic, batch=60)
    if database == "postgresql":
        on_postgres(root, request.getfixturevalue("postgres_url"))
    streamed, refunds = messy_rows(21, 2_500, cards=CARDS), messy_rows(22, 20_000, cards=CARDS)
    others = whole(messy_rows(23, 900, cards=CARDS))
    for number, one in enumerate(others):
        # A third are events of the stream, delivered again or corrected.
        one["transaction_id"] = f"t{number}" if number % 3 == 0 else f"p{number}"
    add_refunds(root, refunds)
    with FeatureStore(root) as store, ExitStack() as opened:
        store.apply()
        client = opened.enter_context(serving(root))
        worker = started(root)
        opened.callback(worker.kill)
        sending = Thread(target=send_in_pieces, args=(broker, topic, streamed))
        sending.start()
        deadline_s = time.monotonic() + 120
        while not stands(store):
            assert worker.poll() is None and time.monotonic() < deadline_s
            time.sleep(0.02)
        backfill = subprocess.Popen(
            [*COMMAND, "-C", str(root), "backfill", "refunded", "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        beside = 0
        told: list[Mapping[str, object]] = []
        for first in range(0, len(others), 10):
            rows = [pushed(one) for one in others[first : first + 10]]
            answer = client.post("/ingest/transactions", json=rows)
            assert answer.status_code == 200, answer.text
            told.append(answer.json())
            beside += backfill.poll() is None
        said = backfill.communicate(timeout=120)
        sending.join()
        while sum(one.next_offset for one in stands(store).values()) < len(streamed):
            assert worker.poll() is None and time.monotonic() < deadline_s
            time.sleep(0.05)
        stopped(worker)
        assert backfill.returncode == 0, said[1]
        (filled,) = json.loads(said[0])["timelines"]
        assert filled["counts"]["delivered"] == len(refunds) and beside > 3
        assert sum(int(one["accepted"]) for one in told) > 100  # type: ignore[call-overload]
        assert sum(
            int(one["accepted"]) + int(one["corrected"]) + int(one["duplicate"]) for one in told
        ) == len(  # type: ignore[call-overload]
            others
        )
        assert totals(stream_counts(store, topic))["delivered"] == len(streamed)
        counters(store)
        found = [answers(store, CARDS, view) for view in ("activity", "refunded")]
    assert found == backfilled(tmp_path / "log", [*streamed, *others], refunds)
