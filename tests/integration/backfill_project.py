"""Projects for the tests of backfill and ingest: card transactions in files, a view over them, its answers.

Time: every event lies in the hundred days before ``AS_OF``.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore import FeatureStore

AS_OF = "2026-04-10T00:00:00Z"
BEGIN_US = 1_767_225_600_000_000  # 2026-01-01
DAY_US = 86_400_000_000

FEATURES_PY = """
from featurestore import Entity, EventSource, FeatureView, Parquet, agg

card = Entity("card", key="card_id")
transactions = EventSource(
    "transactions", log=Parquet("data/*.parquet"), event_time="ts", {roles}
    columns={{"transaction_id": "string", "card_id": "string", "ts": "timestamp", "amount": "float64",
              "recorded_at": "timestamp", "gone": "bool"}},
)
activity = FeatureView("activity", entity=card, source=transactions, features=[
    agg.count(windows=["7d", "90d"]), agg.count(name="n"),
    agg.sum("amount", windows=["30d"]), agg.sum("amount"),
    agg.last("amount"), agg.first_k("transaction_id", k=5), agg.last_k("amount", k=3),
])
"""

WITH_ID = 'id="transaction_id", available_at="recorded_at", deleted="gone",'
WITHOUT_ID = 'available_at="recorded_at",'

SCHEMA = pa.schema(
    [
        ("transaction_id", pa.string()),
        ("card_id", pa.string()),
        ("ts", pa.timestamp("us", "UTC")),
        ("amount", pa.float64()),
        ("recorded_at", pa.timestamp("us", "UTC")),
        ("gone", pa.bool_()),
    ]
)

Row = dict[str, object]


def project(root: Path, roles: str = WITH_ID) -> Path:
    """A project's directory without a log."""
    (root / "data").mkdir(parents=True, exist_ok=True)
    (root / "features.py").write_text(FEATURES_PY.format(roles=roles))
    return root


def row(
    number: int, *, card: str | None = "c1", day: float = 1, amount: float = 1.0, late_s: float = 0
) -> Row:
    """One transaction; ``late_s`` after it happened it was known."""
    ts = BEGIN_US + int(day * DAY_US)
    return {
        "transaction_id": f"t{number}",
        "card_id": card,
        "ts": ts,
        "amount": amount,
        "recorded_at": ts + int(late_s * 1e6),
        "gone": False,
    }


def pushed(one: Row) -> Row:
    """A transaction as a client sends it: times as text."""
    return {
        name: (datetime.fromtimestamp(0, UTC) + timedelta(microseconds=value)).isoformat()
        if name in ("ts", "recorded_at") and isinstance(value, int)
        else value
        for name, value in one.items()
    }


def write(root: Path, name: str, rows: Sequence[Mapping[str, object]]) -> Path:
    """A file of the log."""
    path = root / "data" / name
    pq.write_table(pa.Table.from_pylist(list(rows), SCHEMA), path, row_group_size=20_000)
    return path


def messy_rows(seed: int, rows: int, *, cards: int) -> list[Row]:
    """Transactions with duplicates, corrections, late ones, retractions, equal times, nulls and rejects."""
    draw = random.Random(seed)
    made: list[Row] = []
    for number in range(rows):
        kind = draw.random()
        if kind < 0.03 and made:
            made.append(dict(made[draw.randrange(len(made))]))
        elif kind < 0.06 and made:
            before = made[draw.randrange(len(made))]
            known = BEGIN_US + draw.randrange(100 * 86_400) * 1_000_000
            made.append(before | {"amount": float(draw.randrange(1000)), "recorded_at": known})
        else:
            one = row(
                number,
                card=f"c{min(draw.randrange(cards), draw.randrange(cards))}",
                day=draw.randrange(100 * 24) / 24,
                amount=draw.randrange(100_000) / 100,
                late_s=draw.choice((0, 2, 90_000)),
            )
            if kind < 0.065:
                one["card_id"] = None
            elif kind < 0.07:
                one["ts"] = None
            elif kind < 0.075:
                one["transaction_id"] = None
            elif kind < 0.08:
                one["recorded_at"] = None
            elif kind < 0.09:
                one["gone"] = True
            made.append(one)
    return made


def answers(store: FeatureStore, cards: int, view: str = "activity") -> list[dict[str, object]]:
    """Every feature of every card, as the store answers it under three horizons."""
    keys = [f"c{number}" for number in range(cards)]
    return [
        store.online_features(features=[view], entities={"card_id": keys}, as_of=AS_OF, known_at=known_at)
        .to_arrow()
        .to_pydict()
        for known_at in (None, "2026-03-01T00:00:00Z", "as_of")
    ]


def counters(store: FeatureStore) -> dict[str, dict[str, int]]:
    """The store's counters by partition; law 6 is checked here."""
    with store.store.snapshot() as snapshot:
        found = snapshot.counters()
    made: dict[str, dict[str, int]] = {}
    for key, n in found.items():
        made.setdefault(key.partition, {})[key.kind] = n
    for partition, counts in made.items():
        became = sum(n for kind, n in counts.items() if kind != "delivered")
        assert became == counts.get("delivered", 0), (partition, counts)
    return made


def assert_parity(store: FeatureStore, cards: int, view: str = "activity") -> None:
    """Law 1: the store's answers are the training set's."""
    keys = [f"c{number}" for number in range(cards)]
    at = pa.array([BEGIN_US + 99 * DAY_US] * cards, pa.timestamp("us", "UTC"))
    spine = pa.table({"card_id": keys, "ts": at})
    for known_at in (None, "as_of"):
        offline = store.training_set(spine, [view], known_at=known_at).to_arrow()
        online = store.online_features(
            features=[view], entities={"card_id": keys}, as_of="2026-04-10T00:00:00Z", known_at=known_at
        ).to_arrow()
        for name in offline.column_names[2:]:
            assert offline.column(name).to_pylist() == online.column(name).to_pylist(), (name, known_at)
