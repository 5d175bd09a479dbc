"""Law 5, one snapshot: transfers between accounts, read through a view by debtor and one by creditor while
they are taken in, never show money that was debited and not yet credited."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path
from threading import Event

import httpx
import pytest
from kafka import KafkaProducer

from featurestore import FeatureStore
from tests.services.kafka import Broker
from tests.streaming.stream_project import make_topic, stands, started, stopped, stream_counts, totals
from tests.streaming.transfers_project import (
    VIEWS,
    Balance,
    balance,
    command,
    gains,
    moved,
    project,
    served,
    transfers,
    until_it_is_answered,
)

PARTITIONS = 3
TIMELINES = (1, 2)
STALLED_S = 120.0
COMPACTED_EVERY_S = 5.0


class Ingest:
    """Transfers on their way: sent by the test, taken in by a worker process."""

    def __init__(
        self, broker: Broker, topic: str, store: FeatureStore, worker: subprocess.Popen[str]
    ) -> None:
        self._topic = topic
        self._store = store
        self._worker = worker
        self._draw = random.Random(5)
        self._producer = KafkaProducer(bootstrap_servers=broker.bootstrap, linger_ms=0)
        self.sent: list[bytes] = []

    def send(self, count: int) -> None:
        """More transfers, on their way when it returns; they take their effect when they take it."""
        made = transfers(5, len(self.sent), count)
        for one in made:
            self._producer.send(self._topic, one, partition=self._draw.randrange(PARTITIONS))
        self.sent += made

    @property
    def taken(self) -> int:
        """How many are below the committed positions, which all views share."""
        return sum(one.next_offset for one in stands(self._store, TIMELINES).values())

    def taken_beyond(self, count: int) -> int:
        """Wait for more than ``count``."""
        deadline_s = time.monotonic() + STALLED_S
        while (taken := self.taken) <= count:
            assert time.monotonic() < deadline_s and self._worker.poll() is None, taken
            time.sleep(0.001)
        return taken

    def close(self) -> None:
        self._producer.close()


def read_while_it_goes_on(
    ingest: Ingest, client: httpx.Client, reads: int, total: int
) -> tuple[list[Balance], int]:
    """``reads`` answers spread evenly over the ingest of ``total`` transfers, and during how many of them a
    commit came in between.

    Three reads of five wait until more is taken in than the last one saw, then send the next transfers and
    ask at once: these are decoded and committed while the question is answered.
    """
    answers: list[Balance] = []
    raced = 0
    moving = [number for number in range(reads) if number % 5 in (0, 2, 4)]
    for number in range(reads):
        seen = answers[-1].debited if answers else 0
        if number % 5 in (0, 2, 4) and seen < total:
            left = sum(one >= number for one in moving)
            if seen == len(ingest.sent):
                ingest.send(-(-(total - seen) // (left + 1)))
            ingest.taken_beyond(seen)
            ingest.send(-(-(total - len(ingest.sent)) // left))
        before = ingest.taken
        answers.append(balance(*gains(client)))
        raced += ingest.taken > before
    return answers, raced


@contextmanager
def working(root: Path) -> Iterator[subprocess.Popen[str]]:
    """A worker process, gone afterwards."""
    worker = started(root)
    try:
        yield worker
    finally:
        worker.kill()
        worker.communicate()


@contextmanager
def compacted(root: Path, every_s: float | None) -> Iterator[None]:
    """A process that folds the store again and again beside the others; None for no such process."""
    if every_s is None:
        yield
        return
    stop = Event()

    def compact() -> None:
        while not stop.wait(every_s):
            subprocess.run(command(root, "compact"), check=True, capture_output=True, timeout=600)

    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(compact)
        try:
            yield
        finally:
            stop.set()
        running.result()


@pytest.mark.parametrize(
    ("empty_store_url", "total", "reads"),
    [
        pytest.param("sqlite", 50_000, 1_000),
        pytest.param("postgresql", 10_000, 200),
        pytest.param("postgresql", 50_000, 1_000, marks=[pytest.mark.slow]),
        pytest.param("sqlite", 1_000_000, 10_000, marks=[pytest.mark.slow, pytest.mark.timeout(7200)]),
        pytest.param("postgresql", 1_000_000, 10_000, marks=[pytest.mark.slow, pytest.mark.timeout(7200)]),
    ],
    indirect=["empty_store_url"],
)
def test_the_money_of_all_accounts_adds_up_to_nothing_in_every_answer_while_transfers_come_in(
    tmp_path: Path, broker: Broker, empty_store_url: str, total: int, reads: int
):
    topic = f"transfers-{time.monotonic_ns()}"
    make_topic(broker, topic, PARTITIONS)
    root = project(tmp_path / "project", broker, topic, empty_store_url)
    with FeatureStore(root) as store:
        store.apply()
        with (
            working(root) as worker,
            closing(Ingest(broker, topic, store, worker)) as ingest,
            served(root) as client,
            # A long run reads hot accounts thousands of times, as a store would be run that has such.
            compacted(root, COMPACTED_EVERY_S if total > 50_000 else None),
        ):
            until_it_is_answered(client)
            answers, raced = read_while_it_goes_on(ingest, client, reads, total)
            assert len(answers) == reads
            assert [one for one in answers if not one.is_whole] == []
            seen = [one.debited for one in answers]
            assert seen == sorted(seen), "an answer was of an older state than the one before it"
            assert len({one for one in seen if seen[0] < one < seen[-1]}) >= reads // 2
            assert raced >= reads // 100, "hardly anything was committed while questions were answered"
            _each_view_alone_shows_another_state(ingest, client)

            ingest.taken_beyond(len(ingest.sent) - 1)
            values, _ = gains(client)
            stopped(worker)
        gained = {
            account: (n - m, int(cents) - int(lost), Decimal(amount) - Decimal(less))
            for account, n, m, cents, lost, amount, less in zip(
                values["creditor"],
                *(
                    values[f"{view}__{name}"]
                    for name in ("n", "cents_sum", "amount_sum")
                    for view in reversed(VIEWS)
                ),
                strict=True,
            )
        }
        assert gained == moved(ingest.sent)
        counts = totals(stream_counts(store, topic))
        assert counts == {"accepted": len(ingest.sent), "delivered": len(ingest.sent)}


def _each_view_alone_shows_another_state(ingest: Ingest, client: httpx.Client) -> None:
    """What the answers above would look like if they were of two states: two requests, a commit between."""
    ingest.taken_beyond(len(ingest.sent) - 1)
    debits, commit = gains(client, VIEWS[:1])
    ingest.send(1)
    ingest.taken_beyond(len(ingest.sent) - 1)
    credits, _ = gains(client, VIEWS[1:])
    torn = balance(debits | credits, commit)
    assert torn.credited == torn.debited + 1 and torn.cents > 0 and torn.amount > 0
