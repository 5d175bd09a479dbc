"""A project whose facts concern several entities at once, its log as rows, and the oracle's answers about it.

Time: everything happens within a hundred days; what is pushed says itself when it was known.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore import FeatureStore
from featurestore.dtypes import instant_text
from featurestore.kernel.roles import KnownAt
from featurestore.testing.bits import bits
from featurestore.testing.builders import operation_of, schema_of
from featurestore.testing.hosts import python_values
from featurestore.testing.reference import Oracle, Row
from featurestore.testing.reference_tables import DELETE, OPERATION, TableOracle

BEGIN_US = 1_767_225_600_000_000  # 2026-01-01
DAY_US = 86_400_000_000
AS_OF = "2026-06-01T00:00:00Z"

EVENT_COLUMNS = {
    "id": "string", "card_id": "string", "merchant_id": "int64", "ts": "timestamp", "amount": "float64",
    "known": "timestamp", "gone": "bool", "note": "string",
}  # fmt: skip
ORDER_COLUMNS = {
    "order_id": "int64", "card_id": "string", "merchant_id": "int64", "lsn": "int64",
    "committed": "timestamp", "known": "timestamp", "placed": "timestamp", "amount": "float64",
    "note": "string",
}  # fmt: skip
CARD_COLUMNS = {
    "card_id": "string", "country": "string", "lsn": "int64", "committed": "timestamp", "note": "string",
}  # fmt: skip

DECLARED = f"""
from featurestore import Entity, EventSource, FeatureView, Parquet, TableSource, agg

card, merchant = Entity("card", key="card_id"), Entity("merchant", key="merchant_id")
pair = Entity("pair", key=["merchant_id", "card_id"])
country = Entity("country", key="country")
transactions = EventSource(
    "transactions", log=Parquet("transactions"), event_time="ts", id="id", available_at="known",
    deleted="gone", columns={EVENT_COLUMNS!r},
)
orders = TableSource(
    "orders", log=Parquet("orders"), primary_key="order_id", changed_at="committed", position="lsn",
    available_at="known", event_time="placed", columns={ORDER_COLUMNS!r},
)
cards = TableSource(
    "cards", log=Parquet("cards"), primary_key="card_id", changed_at="committed", position="lsn",
    columns={CARD_COLUMNS!r},
)
asked = lambda: [
    agg.count(name="n"), agg.sum("amount"), agg.sum("amount", windows=["30d"]), agg.max("amount"),
    agg.last_k("note", k=3), agg.count_distinct("card_id"),
]
card_activity = FeatureView("card_activity", card, transactions, features=asked())
merchant_activity = FeatureView("merchant_activity", merchant, transactions, features=asked())
pair_activity = FeatureView("pair_activity", pair, transactions, features=asked())
card_orders = FeatureView("card_orders", card, orders, features=asked())
merchant_orders = FeatureView("merchant_orders", merchant, orders, features=asked())
card_facts = FeatureView("card_facts", card, cards, features=[agg.last("country"), agg.last("note")])
country_facts = FeatureView(
    "country_facts", country, cards, features=[agg.count(name="n"), agg.last_k("card_id", k=9)]
)
"""

CARDS = [f"card-{number}" for number in range(6)]
MERCHANTS = [1, 2, 3]
COLUMNS = {"transactions": EVENT_COLUMNS, "orders": ORDER_COLUMNS, "cards": CARD_COLUMNS}
VIEWS = {
    "card_activity": ("transactions", ("card_id",)),
    "merchant_activity": ("transactions", ("merchant_id",)),
    "pair_activity": ("transactions", ("merchant_id", "card_id")),
    "card_orders": ("orders", ("card_id",)),
    "merchant_orders": ("orders", ("merchant_id",)),
    "card_facts": ("cards", ("card_id",)),
    "country_facts": ("cards", ("country",)),
}
KEYS: dict[tuple[str, ...], list[tuple[Any, ...]]] = {
    ("card_id",): [(card,) for card in CARDS],
    ("merchant_id",): [(merchant,) for merchant in MERCHANTS],
    ("merchant_id", "card_id"): [(merchant, card) for merchant in MERCHANTS for card in CARDS[:3]],
    ("country",): [("DE",), ("FR",), ("IT",)],
}


def generated(seed: int, rows: int = 60) -> dict[str, list[Row]]:
    """Rows by source: duplicates, corrections, retractions, moves, deletes, late knowledge, null keys. The
    notes of a card's rows say so, to be looked for in the store's files."""
    draw = random.Random(seed)

    def at(day: float | None = None) -> int:
        days = draw.randrange(100 * 24) / 24 if day is None else day
        return BEGIN_US + int(days * DAY_US)

    def note(card: object) -> str:
        return f"note-{card}-{draw.randrange(10**6)}"

    events: list[Row] = []
    for number in range(rows):
        card = draw.choice([*CARDS, *CARDS[:2], None])
        ts = at()
        one: Row = {
            "id": f"t{number}", "card_id": card, "merchant_id": draw.choice([*MERCHANTS, None]), "ts": ts,
            "amount": draw.choice([1.5, 2.0, float(draw.randrange(100)), None]),
            "known": ts + draw.choice([0, 1, 30 * DAY_US]), "gone": False, "note": note(card),
        }  # fmt: skip
        events.append(one)
        again = draw.random()
        if again < 0.1:
            events.append(dict(one))
        elif again < 0.3:
            changed: Row = draw.choice([{"amount": 7.25}, {"card_id": draw.choice(CARDS)}, {"gone": True}])
            if other := changed.get("card_id"):
                changed["note"] = note(other)
            events.append({**one, **changed, "known": ts + 2 * DAY_US})
    orders: list[Row] = []
    for lsn in range(1, rows):
        card, placed = draw.choice([*CARDS, *CARDS[:2], None]), at()
        committed = at()
        one = {
            "op": draw.choice("cuuuud"), "order_id": draw.randrange(rows // 4), "card_id": card,
            "merchant_id": draw.choice([*MERCHANTS, None]), "lsn": lsn, "committed": committed,
            "known": committed + draw.choice([0, 1, 30 * DAY_US]), "placed": placed,
            "amount": float(draw.randrange(100)), "note": note(card),
        }  # fmt: skip
        orders += [one, dict(one)] if draw.random() < 0.1 else [one]
    cards: list[Row] = []
    for lsn in range(1, rows // 2):
        card = draw.choice(CARDS)
        cards.append({
            "op": draw.choice("cuuud"), "card_id": card, "country": draw.choice(["DE", "FR", "IT", None]),
            "lsn": lsn, "committed": at(), "note": note(card),
        })  # fmt: skip
    for some in (events, orders, cards):
        draw.shuffle(some)
    return {"transactions": events, "orders": orders, "cards": cards}


class Project:
    """The project in a directory; ``rows`` is all that its log and its pushes have said."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        (root / "features.py").write_text(DECLARED)
        self.rows: dict[str, list[Row]] = {name: [] for name in COLUMNS}
        self.files = 0
        for name in COLUMNS:
            (root / name).mkdir()
            self.write(name, [])

    @property
    def store_files(self) -> list[Path]:
        return sorted((self.root / ".featurestore").iterdir())

    def open(self) -> FeatureStore:
        return FeatureStore(self.root)

    def table(self, name: str, rows: Sequence[Row]) -> pa.Table:
        schema = schema_of(COLUMNS[name])
        columns = {
            column: pa.array([row.get(column) for row in rows], dtype.arrow)
            for column, dtype in schema.items()
        }
        if name != "transactions":
            columns["op"] = pa.array([row["op"] for row in rows], pa.string())
        return pa.table(columns)

    def write(self, name: str, rows: Sequence[Row]) -> None:
        self.files += 1
        self.rows[name] += rows
        pq.write_table(self.table(name, rows), self.root / name / f"{self.files}.parquet")

    def push(self, store: FeatureStore, name: str, rows: Sequence[Row]) -> Any:
        self.rows[name] += rows
        return store.ingest(name, self.table(name, rows))

    def fill(self, store: FeatureStore, history: dict[str, list[Row]]) -> None:
        """A part of each source's rows by file, then a backfill, then the rest by push."""
        for name, rows in history.items():
            self.write(name, rows[: 2 * len(rows) // 3])
        store.apply()
        store.backfill()
        for name, rows in history.items():
            self.push(store, name, rows[2 * len(rows) // 3 :])

    def mismatches(
        self,
        store: FeatureStore,
        forgotten: Callable[[Row], bool] = lambda row: False,
        views: Sequence[str] = tuple(VIEWS),
    ) -> list[str]:
        """What training sets and answers say otherwise than the oracle does over a log without ``forgotten``
        rows: events are not in it; an order's change only ends the one before it; a card's own is not in
        it."""
        found: list[str] = []
        for view in views:
            source, keys = VIEWS[view]
            left = [
                self._ending(row) if forgotten(row) else row
                for row in self.rows[source]
                if source == "orders" or not forgotten(row)
            ]
            declared, schema = store.declarations.views[view], schema_of(COLUMNS[source])
            oracle: Oracle | TableOracle
            if source == "transactions":
                oracle = Oracle(declared, schema, left)
            else:
                coded = [
                    row if OPERATION in row else {**row, OPERATION: operation_of(str(row["op"]))}
                    for row in left
                ]
                oracle = TableOracle(declared, schema, coded)
            times = [BEGIN_US + int(day * DAY_US) for day in (20.5, 61, 140)]
            asked = [(key, as_of) for key in KEYS[keys] for as_of in times]
            for known_at in (None, "as_of", BEGIN_US + 50 * DAY_US):
                found += _differences(store, view, keys, asked, known_at, oracle)
        return found

    @staticmethod
    def _ending(row: Row) -> Row:
        stays = {name: row[name] for name in ("order_id", "lsn", "committed", "known")}
        return {**stays, OPERATION: DELETE}

    def bytes_of(self, *texts: str) -> dict[str, int]:
        """How often each text stands in the store's files."""
        data = b"".join(path.read_bytes() for path in self.store_files)
        return {text: data.count(text.encode()) for text in texts}


def _differences(
    store: FeatureStore,
    view: str,
    keys: Sequence[str],
    asked: Sequence[tuple[tuple[Any, ...], int]],
    known_at: KnownAt,
    oracle: Oracle | TableOracle,
) -> list[str]:
    said = instant_text(known_at) if isinstance(known_at, int) else known_at
    columns = {name: [key[i] for key, _ in asked] for i, name in enumerate(keys)}
    times = pa.array([as_of for _, as_of in asked], pa.timestamp("us", "UTC"))
    offline = store.training_set(pa.table({**columns, "ts": times}), view, known_at=said).to_arrow()
    online = store.online_features(
        [view], columns, as_of=[instant_text(as_of) for _, as_of in asked], known_at=said
    ).to_arrow()
    wanted = [oracle.answer(key, as_of=as_of, known_at=known_at) for key, as_of in asked]
    found = []
    for name in wanted[0]:
        column = f"{view}__{name}"
        hosts = [python_values(table.column(column).combine_chunks()) for table in (offline, online)]
        for i, values in enumerate(zip(*hosts, (one[name].value for one in wanted), strict=True)):
            if len({bits(value) for value in values}) > 1:
                found.append(f"{column} of {asked[i]} at K={known_at}: offline, online, oracle: {values}")
    return found
