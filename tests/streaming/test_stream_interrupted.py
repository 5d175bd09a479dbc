"""A worker whose store is lost again and again, before and inside its reads and its commits."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from featurestore import FeatureStore
from featurestore.errors import StoreInterruptedError, StoreUnavailableError
from featurestore.store import Store
from featurestore.store.commit import Commit
from featurestore.store.snapshot import Snapshot
from streaming.settings import WorkerOptions
from streaming.worker import Worker
from tests.integration.backfill_project import row
from tests.services.kafka import Broker
from tests.streaming.stream_project import new_topic, project, send, stream_counts, totals, value


def lose(monkeypatch: pytest.MonkeyPatch, seed: int) -> Counter[str]:
    """Lose an eighth of all snapshots and commits: as they begin, as they end, or (commits) with nobody
    knowing that they were kept. Returns how often, by place."""
    draw, lost = random.Random(seed), Counter[str]()
    snapshot, commit = Store.snapshot, Store.commit
    where = [*["nowhere"] * 21, "begin", "end", "after"]

    def fail(what: str, here: str, at: str) -> None:
        if here == at:
            lost[f"{what} {at}"] += 1
            kind = StoreUnavailableError if at == "after" else StoreInterruptedError
            raise kind("the connection was lost")

    @contextmanager
    def losing_snapshot(self: Store) -> Iterator[Snapshot]:
        here = draw.choice(where)
        fail("snapshot", here, "begin")
        with snapshot(self) as opened:
            yield opened
            fail("snapshot", here, "end")

    @contextmanager
    def losing_commit(self: Store, kind: str, **options: Any) -> Iterator[Commit]:
        here = draw.choice(where)
        fail(kind, here, "begin")
        with commit(self, kind, **options) as opened:
            yield opened
            fail(kind, here, "end")
        fail(kind, here, "after")

    monkeypatch.setattr(Store, "snapshot", losing_snapshot)
    monkeypatch.setattr(Store, "commit", losing_commit)
    return lost


@pytest.mark.parametrize("seed", range(2))
def test_a_worker_goes_on_wherever_its_store_is_lost_and_takes_each_message_once(
    tmp_path: Path, broker: Broker, seed: int, monkeypatch: pytest.MonkeyPatch
):
    topic = new_topic(broker, partitions=3)
    root = project(tmp_path, broker, topic, batch=20)
    rows = [row(number, card=f"c{number % 20}", day=number % 80) for number in range(1_000)]
    values: list[bytes | None] = [value(one) for one in rows]
    values[500] = b"{"
    with FeatureStore(root) as store:
        store.apply()
        send(broker, topic, values, partitions=[number % 3 for number in range(1_000)])
        options = WorkerOptions(until_end=True)
        with monkeypatch.context() as patch:
            lost = lose(patch, seed)
            Worker(store.store, store.root, store.settings.streaming, options).run()
        assert {"snapshot begin", "snapshot end"} <= lost.keys() and any("stream" in at for at in lost), lost
        assert totals(stream_counts(store, topic)) == {
            "accepted": 999,
            "dead_lettered": 1,
            "delivered": 1_000,
        }
        n = store.online_features(["activity:n"], {"card_id": [f"c{i}" for i in range(20)]}).to_dict()
        assert n["activity__n"] == [49 if i == 0 else 50 for i in range(20)]


def test_a_worker_ends_with_what_its_store_says_once_the_store_is_away_for_too_long(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    topic = new_topic(broker, partitions=1)
    with FeatureStore(project(tmp_path, broker, topic)) as store:
        store.apply()
        worker = Worker(store.store, store.root, store.settings.streaming, WorkerOptions(until_end=True))
        monkeypatch.setattr(store.store._database, "busy_timeout_s", 0.5)

        def away(_: Store) -> Any:
            raise StoreInterruptedError("the connection was lost")

        monkeypatch.setattr(Store, "snapshot", away)
        with pytest.raises(StoreInterruptedError, match="the connection was lost"):
            worker.run()
        assert "the store was away, trying again: the connection was lost" in caplog.text
