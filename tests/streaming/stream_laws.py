"""The laws of streams as checks that raise AssertionError: what a seeded fault must break.

Time: the wall clock decides nothing here; a store that is lost is lost at commits that are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import streaming.writer
from featurestore import FeatureStore
from featurestore.errors import FencedError, StalePositionError, StoreUnavailableError
from featurestore.store import Store
from featurestore.store.commit import Commit
from featurestore.store.dead_letters import read_dead_letters
from featurestore.store.positions import Span, read_positions
from featurestore.store.registry import read_registry
from featurestore.store.stream import StreamBatch
from streaming.assignment import Partition, read_sources, take
from tests.integration.backfill_project import answers, messy_rows, row, write
from tests.integration.backfill_project import project as log_project
from tests.services.kafka import Broker
from tests.streaming.stream_project import (
    Row,
    declare,
    new_topic,
    project,
    read_to_end,
    send,
    stream_counts,
    totals,
    value,
)

CARDS = 12
ROWS = messy_rows(21, 240, cards=CARDS)
BATCH = 30

Answers = list[dict[str, object]]


@dataclass(frozen=True)
class Bench:
    """``expected``: what a backfill of ``ROWS`` answers, asked before any fault is seeded."""

    directory: Path
    broker: Broker
    expected: Answers
    _numbers: Iterator[int]

    @classmethod
    def made(cls, directory: Path, broker: Broker) -> Bench:
        whole = log_project(directory / "whole")
        write(whole, "all.parquet", ROWS)
        with FeatureStore(whole) as store:
            store.apply()
            store.backfill()
            return cls(directory, broker, answers(store, CARDS), count())

    def stream(self, values: list[bytes | None], *, partitions: int = 2, options: str = "") -> Streamed:
        """A topic with these messages, and an applied project that has read none of them."""
        topic = new_topic(self.broker, partitions)
        root = self.directory / f"stream-{next(self._numbers)}"
        project(root, self.broker, topic, batch=BATCH, options=options)
        with FeatureStore(root) as store:
            store.apply()
        send(self.broker, topic, values, partitions=[i % partitions for i in range(len(values))])
        return Streamed(root, topic)


@dataclass(frozen=True)
class Streamed:
    root: Path
    topic: str


def values_of(rows: list[Row]) -> list[bytes | None]:
    return [value(one) for one in rows]


@contextmanager
def lost(places: dict[int, str]) -> Iterator[None]:
    """Lose the store at stream commits, by number: at their "end", so that nothing is kept, or "after" it."""
    commit, numbers = Store.commit, count(1)

    @contextmanager
    def losing(self: Store, kind: str, **options: Any) -> Iterator[Commit]:
        where = places.get(next(numbers)) if kind == "stream" else None
        with commit(self, kind, **options) as opened:
            yield opened
            if where == "end":
                raise StoreUnavailableError("the connection was lost")
        if where == "after":
            raise StoreUnavailableError("the connection was lost")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "commit", losing)
        yield


def check_answers(bench: Bench) -> None:
    """Law 1: messages in any partition, twice or once, answer as a backfill; so does a training set over what
    was archived, and so does a version that comes later."""
    made = bench.stream(values_of([*ROWS[::-1], *ROWS[::5]]), options=', archive="archive"')
    read_to_end(made.root, archive=True)
    with FeatureStore(made.root) as store:
        assert answers(store, CARDS) == bench.expected
    declare(made.root, made.topic, options=', archive="archive"')
    features = made.root / "features.py"
    features.write_text(
        features.read_text().replace('id="transaction_id"', 'id=["transaction_id", "card_id"]')
    )
    with FeatureStore(made.root) as store:
        store.apply()
        read_to_end(made.root, archive=True)
        assert [one.version for one in _views(store)] == [2]
        assert answers(store, CARDS) == bench.expected


def check_archive(bench: Bench) -> None:
    """Law 4, of the archive: where a worker ends right after a commit, what it committed is archived."""
    made = bench.stream(values_of(ROWS), options=', archive="archive"')
    with lost({2: "after", 4: "after"}):
        read_to_end(made.root, archive=True)
    spine = [{"card_id": f"c{i}", "ts": "2026-04-10T00:00:00Z"} for i in range(CARDS)]
    with FeatureStore(made.root) as store:
        online = store.online_features(
            ["activity"], {"card_id": [one["card_id"] for one in spine]}, as_of=spine[0]["ts"]
        ).to_arrow()
        trained = store.training_set(pa.Table.from_pylist(spine), "activity", time="ts").to_arrow()
    assert trained.drop_columns(["ts"]).to_pylist() == online.to_pylist()


def check_exactly_once(bench: Bench) -> None:
    """Law 4: a store that is lost before or after it has kept a commit, a batch that is written twice, a
    worker whose partition another one was given."""
    made = bench.stream(values_of(ROWS))
    batches: list[StreamBatch] = []
    commit_batch = streaming.writer.commit_batch

    def noted(store: Store, batch: StreamBatch, now_us: int) -> Any:
        kept = commit_batch(store, batch, now_us)
        batches.append(batch)
        return kept

    with pytest.MonkeyPatch.context() as patch, lost({2: "end", 4: "after", 6: "end"}):
        patch.setattr(streaming.writer, "commit_batch", noted)
        read_to_end(made.root)
    with FeatureStore(made.root) as store:
        counts = stream_counts(store, made.topic)
        assert totals(counts)["delivered"] == len(ROWS)
        assert answers(store, CARDS) == bench.expected
        last = batches[-1]
        assert refused(store.store, last, commit_batch) is StalePositionError
        _take_over(store, made.topic)
        one = last.slices[0]
        nothing = np.empty(0, np.int64)
        onwards = StreamBatch(
            last.plan, last.timelines, [replace(one, first=one.next, next=one.next + 5)],
            last.table.slice(0, 0), nothing, nothing, (), np.array([5]),
        )  # fmt: skip
        assert refused(store.store, onwards, commit_batch) is FencedError
        assert stream_counts(store, made.topic) == counts


def refused(store: Store, batch: StreamBatch, commit_batch: Callable[..., Any]) -> type[Exception] | None:
    """The error with which a batch is refused; None where it is taken."""
    try:
        commit_batch(store, batch, 1)
    except (FencedError, StalePositionError) as error:
        return type(error)
    return None


def _take_over(store: FeatureStore, topic: str) -> None:
    with store.store.snapshot() as snapshot:
        ends = {one.partition: one.next_offset for one in read_positions(snapshot, [1])}
    spans = {Partition(topic, number): Span(0, end) for number, end in ends.items()}
    _, sources = read_sources(store.store)
    take(store.store, sources.values(), spans, worker="another", accept_gap=False, now_us=1)


TRANSFERS_PY = """
from featurestore import Entity, EventSource, FeatureView, KafkaTopic, agg

debtor, creditor = Entity("debtor", key="debtor"), Entity("creditor", key="creditor")
transfers = EventSource(
    "transfers", topic=KafkaTopic("{topic}"), event_time="ts", id="number",
    columns={{"number": "int64", "debtor": "string", "creditor": "string",
              "ts": "timestamp", "cents": "int64"}},
)
sent = [agg.sum("cents", name="cents", default=0)]
paid = FeatureView("paid", entity=debtor, source=transfers, features=sent)
got = FeatureView("got", entity=creditor, source=transfers, features=sent)
"""


def check_one_snapshot(bench: Bench) -> None:
    """Law 5: two views over one source stand at one position, whenever they are asked."""
    topic = new_topic(bench.broker, 1)
    root = project(bench.directory / f"stream-{topic}", bench.broker, topic, batch=10)
    (root / "features.py").write_text(TRANSFERS_PY.format(topic=topic))
    accounts = ["a", "b", "c"]
    begun = b'{"number": 0, "debtor": "a", "creditor": "b", "ts": "2026-01-01T00:00:00Z", "cents": 1}'
    send(bench.broker, topic, [begun])
    commit, found = Store.commit, set()
    with FeatureStore(root) as store:
        store.apply()
        read_to_end(root)
        rows = [
            begun.replace(b": 0", b": %d" % i).replace(b'"b"', b'"%c"' % b"bc"[i % 2]) for i in range(1, 61)
        ]
        send(bench.broker, topic, rows)

        @contextmanager
        def watched(self: Store, kind: str, **options: Any) -> Iterator[Commit]:
            with commit(self, kind, **options) as opened:
                yield opened
            if kind == "stream":
                both = {"debtor": accounts, "creditor": accounts}
                asked = store.online_features(["paid", "got"], both).to_dict()
                assert sum(asked["paid__cents"]) == sum(asked["got__cents"])
                found.add(sum(asked["got__cents"]))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Store, "commit", watched)
            read_to_end(root)
    assert len(found) >= 4


def check_counters(bench: Bench) -> None:
    """Law 6: what became of each message is counted, and each that could not be read is kept as it was."""
    one, late = row(1), row(2, card=None)
    values: list[bytes | None] = [
        value(one), value(row(3)), value(one), value({**one, "amount": 7.0}), value(late), None,
        b"{", value({**row(4), "transaction_id": None}), b"\xff", value(row(5)),
    ]  # fmt: skip
    made = bench.stream(values, partitions=1)
    read_to_end(made.root)
    with FeatureStore(made.root) as store:
        assert totals(stream_counts(store, made.topic)) == {
            "accepted": 3, "corrected": 1, "dead_lettered": 3, "delivered": 10, "duplicate": 1, "ignored": 1,
            "keyless": 1,
        }  # fmt: skip
        with store.store.snapshot() as snapshot:
            letters = {letter.offset: letter.value for letter in read_dead_letters(snapshot)}
    assert letters == {number: values[number] for number in (6, 7, 8)}


def _views(store: FeatureStore) -> list[Any]:
    with store.store.snapshot() as snapshot:
        return [view.version for view in read_registry(snapshot).current.values()]


CHECKS: dict[str, Callable[[Bench], None]] = {
    "answers": check_answers,
    "archive": check_archive,
    "exactly once": check_exactly_once,
    "one snapshot": check_one_snapshot,
    "counters": check_counters,
}
