"""A project whose pushes move amounts between accounts, so that at any moment all accounts sum to 0; and what
its store holds, version by version.

Time: transfers happen within 90 days from 2026-01-01, and become known at once, late, or twice.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore import FeatureStore
from featurestore.dtypes import instant_text
from featurestore.kernel.roles import KnownAt
from featurestore.store import Store
from featurestore.store.changes import ChangeLayout, is_table
from featurestore.store.delivery import Layout
from featurestore.store.payload import entry_commits, reader
from featurestore.testing.bits import bits
from featurestore.testing.hosts import python_values

BEGIN_US = 1_767_225_600_000_000  # 2026-01-01
DAY_US = 86_400_000_000
AS_OF = "2026-06-01T00:00:00Z"
ACCOUNTS = [f"account-{number}" for number in range(12)]

COLUMNS = {"account": "string", "id": "int64", "ts": "timestamp", "known": "timestamp", "amount": "int64"}

DECLARED = f"""
from featurestore import Entity, EventSource, FeatureView, Parquet, agg

account = Entity("account", key="account")
transfers = EventSource(
    "transfers", log=Parquet("transfers"), event_time="ts", id="id", available_at="known", columns={COLUMNS!r}
)
balance = FeatureView("balance", account, transfers, features=[
    agg.sum("amount"), agg.count(), agg.count(windows=["30d"]), agg.last_k("amount", k=5), agg.min("id"),
])
"""

Event = dict[str, Any]


def transfers(seed: int, pairs: int, accounts: Sequence[str] = ACCOUNTS) -> list[Event]:
    """``pairs`` of events that cancel each other, some late."""
    draw = random.Random(seed)
    made: list[Event] = []
    for number in range(pairs):
        ts = BEGIN_US + draw.randrange(90 * 24) * DAY_US // 24
        known = ts + (draw.choice([1, 30 * DAY_US]) if draw.random() < 0.05 else 0)
        amount = draw.randrange(1, 100)
        for side, account in enumerate(draw.sample(accounts, 2)):
            made.append({
                "account": account, "id": 2 * (seed * 1_000_000 + number) + side, "ts": ts, "known": known,
                "amount": amount - 2 * side * amount,
            })  # fmt: skip
    return made


def table(rows: Sequence[Event]) -> pa.Table:
    instants = pa.timestamp("us", "UTC")
    types = {
        "account": pa.string(),
        "id": pa.int64(),
        "ts": instants,
        "known": instants,
        "amount": pa.int64(),
    }
    return pa.table({name: pa.array([row[name] for row in rows], of) for name, of in types.items()})


class Transfers:
    """The project in ``root``, its store at ``url``, applied and empty."""

    def __init__(self, root: Path, url: str) -> None:
        self.root = root
        (root / "transfers").mkdir(parents=True)
        (root / "features.py").write_text(DECLARED)
        (root / "featurestore.toml").write_text(f'[store]\nurl = "{url}"\n')
        self.write([])
        with self.open() as store:
            store.apply()
            store.backfill()

    def open(self) -> FeatureStore:
        return FeatureStore(self.root)

    def write(self, rows: Sequence[Event]) -> None:
        """Another file of the log."""
        number = len(list((self.root / "transfers").iterdir()))
        pq.write_table(table(rows), self.root / "transfers" / f"{number}.parquet")


def push(store: FeatureStore, rows: Sequence[Event], pushes: int) -> None:
    """``rows`` in so many pushes; the two sides of a transfer stay together."""
    pairs = [rows[i : i + 2] for i in range(0, len(rows), 2)]
    for part in range(pushes):
        store.ingest("transfers", table([row for pair in pairs[part::pushes] for row in pair]))


def answers(
    store: FeatureStore, accounts: Sequence[str] = ACCOUNTS, known_at: KnownAt = None
) -> list[list[object]]:
    """The bits of every feature of every account, at three instants."""
    made: list[list[object]] = []
    for day in (20, 61, 200):
        vectors = store.online_features(
            ["balance"], {"account": accounts}, as_of=instant_text(BEGIN_US + day * DAY_US),
            known_at=instant_text(known_at) if isinstance(known_at, int) else known_at,
        )  # fmt: skip
        made += ([bits(value) for value in python_values(vector.values)] for vector in vectors.vectors)
    return made


def all_answers(store: FeatureStore) -> list[list[list[object]]]:
    return [answers(store, known_at=known_at) for known_at in (None, "as_of", BEGIN_US + 40 * DAY_US)]


def held(store: Store) -> list[tuple[object, ...]]:
    """All versions that a store holds, each with its timeline, its entity and the commit at which it
    entered."""
    found: list[tuple[object, ...]] = []
    with store.snapshot() as snapshot:
        for timeline in snapshot.timeline_versions():
            layout = ChangeLayout.of(timeline) if is_table(timeline) else Layout.of(timeline)
            keys = [key for key, _ in snapshot.fragments(timeline.id, rows=1, limit=1_000_000)]
            rows = snapshot.stored_rows(timeline.id, keys)
            payloads = [row.payload for row in rows]
            versions, counts = reader(layout.stored).read(payloads)
            commits = np.array([row.commit_number for row in rows], np.int64)
            entered = entry_commits(payloads, counts, commits).tolist()
            owners = [row.entity_key for row, count in zip(rows, counts, strict=True) for _ in range(count)]
            columns = [column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
                       for column in versions.columns]  # fmt: skip
            values = zip(*(column.to_pylist() for column in columns), strict=True)
            found += [
                (timeline.id, owner, commit, *(bits(value) for value in row))
                for owner, commit, row in zip(owners, entered, values, strict=True)
            ]
    return sorted(found, key=repr)


def rows_of(store: Store) -> dict[bytes, list[int]]:
    """Entity key -> how many versions each of its stored rows has."""
    found: dict[bytes, list[int]] = {}
    with store.snapshot() as snapshot:
        for timeline in snapshot.timeline_versions():
            keys = [key for key, _ in snapshot.fragments(timeline.id, rows=1, limit=1_000_000)]
            for row in snapshot.stored_rows(timeline.id, keys):
                found.setdefault(row.entity_key, []).append(row.versions)
    return found


@contextmanager
def between(store: Store, kind: str, do: Any) -> Iterator[None]:
    """``do()`` each time between the preparation of a commit of this ``kind`` and the commit, but not inside
    of itself."""
    attempts, busy = store.attempts, False

    def interposed(of: str, *, now_us: int, detail: str = "") -> Iterator[Any]:
        nonlocal busy
        if of == kind and not busy:
            busy = True
            try:
                do()
            finally:
                busy = False
        yield from attempts(of, now_us=now_us, detail=detail)

    store.attempts = interposed  # type: ignore[method-assign]
    try:
        yield
    finally:
        store.attempts = attempts  # type: ignore[method-assign]
