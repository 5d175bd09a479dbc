"""A project whose purchases look up the buyer's country and the seller's rating, by raters who have a country
themselves.

Clock times are on 2026-01-01, UTC. User u1 moved to DE at 09:30, which became known at midnight; a bad rating
of 09:45 became known at 12:00.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from featurestore import FeatureStore
from featurestore.testing.bits import bits

DECLARED = """
from featurestore import Entity, EventSource, FeatureService, FeatureView, JSONLines, TableSource, agg

user = Entity("user", key="user_id")
seller = Entity("seller", key="seller_id")
users = TableSource(
    "users", log=JSONLines("users.jsonl"), primary_key="id", changed_at="committed", position="lsn",
    event_time="born", available_at="known",
    columns={"id": "string", "committed": "timestamp", "known": "timestamp", "lsn": "int64",
             "born": "timestamp", "country": "string"},
)
ratings = EventSource(
    "ratings", log=JSONLines("ratings.jsonl"), event_time="ts", id="rating_id", available_at="known",
    columns={"rating_id": "string", "seller_id": "string", "user_id": "string", "stars": "int64",
             "ts": "timestamp", "known": "timestamp"},
)
seller_rating = FeatureView(
    "seller_rating", seller, ratings.lookup(users, on="user_id", columns={"rater_country": "country"}),
    features=[agg.mean("stars"), agg.count(where="rater_country = 'NL'", name="dutch")],
)
purchases = EventSource(
    "purchases", log=JSONLines("purchases.jsonl"), event_time="ts", id="purchase_id", available_at="known",
    columns={"purchase_id": "string", "user_id": "string", "seller_id": "string", "amount": "float64",
             "ts": "timestamp", "known": "timestamp"},
)
enriched = (
    purchases.lookup(users, on="user_id", columns=["country"])
    .lookup(seller_rating, on="seller_id", columns=["stars_mean", "dutch"])
)
plain = FeatureView("plain", user, purchases, features=[agg.count(windows=["1d"])])
spend = FeatureView(
    "spend", user, enriched,
    features=[
        agg.histogram("country"),
        agg.last("country"),
        agg.last("seller_rating__stars_mean", name="rating"),
        agg.last("seller_rating__dutch", name="dutch"),
        agg.sum("amount", where="country = 'NL'", name="at_home", windows=["30d"]),
    ],
)
model = FeatureService("model", features=[plain, spend])
"""
DAY = "2026-01-01T"


def at(clock: str) -> str:
    """``"09:00"`` on the day, ``"+09:00"`` on the next one."""
    return f"2026-01-02T{clock[1:]}Z" if clock.startswith("+") else f"{DAY}{clock}Z"


def user(
    op: str, name: str, country: str | None, committed: str, lsn: int, known: str | None = None
) -> dict[str, Any]:
    row = {"op": op, "id": name, "committed": at(committed), "known": at(known or committed), "lsn": lsn}
    return row if country is None else row | {"born": None, "country": country}


def rating(name: str, stars: int, ts: str, known: str | None = None) -> dict[str, Any]:
    return {"rating_id": name, "seller_id": "s1", "user_id": "u1", "stars": stars, "ts": at(ts),
            "known": at(known or ts)}  # fmt: skip


def purchase(
    name: str, who: str | None, seller: str, amount: float, ts: str, known: str | None = None
) -> dict[str, Any]:
    return {"purchase_id": name, "user_id": who, "seller_id": seller, "amount": amount, "ts": at(ts),
            "known": at(known or ts)}  # fmt: skip


USERS = [
    user("c", "u1", "NL", "08:00:00", 1),
    user("u", "u1", "DE", "09:30:00", 2, known="+00:00:00"),
    user("c", "u2", "BE", "08:00:00", 3),
]
RATINGS = [rating("r1", 5, "08:30:00"), rating("r2", 2, "09:45:00", known="12:00:00")]
PURCHASES = [
    purchase("p1", "u1", "s1", 10, "09:00:00"),
    purchase("p2", "u1", "s1", 20, "10:00:00"),
    purchase("p3", "u2", "s9", 40, "10:00:00"),
]
PUSHED_USERS = [user("u", "u2", "FR", "09:59:00", 4), user("d", "u1", None, "09:59:59", 5, known="11:00:00")]
PUSHED_PURCHASES = [
    purchase("p4", "u1", "s1", 100, "09:30:00", known="11:30:00"),
    purchase("p5", "u2", "s1", 200, "09:46:00", known="09:50:00"),
]
CLOCKS = (
    "08:00:00",
    "09:00:00",
    "09:30:00",
    "09:45:00",
    "10:00:00",
    "11:00:00",
    "11:30:00",
    "12:00:00",
    "+00:00:00",
)
TIMES = [at(clock + beside) for clock in CLOCKS for beside in ("", ".000001")]


def write(directory: Path, declared: str = DECLARED) -> Path:
    (directory / "features.py").write_text(declared)
    for name, rows in (("users", USERS), ("ratings", RATINGS), ("purchases", PURCHASES)):
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


def offline(store: FeatureStore, spine: pa.Table, known_at: str | None) -> pa.Table:
    return store.training_set(spine, "model", known_at=known_at).to_arrow().drop(["ts"])


def online(store: FeatureStore, spine: pa.Table, known_at: str | None) -> pa.Table:
    columns = spine.to_pydict()
    return store.online_features(
        "model", {"user_id": columns["user_id"]}, as_of=columns["ts"], known_at=known_at
    ).to_arrow()


def spine(
    users: Sequence[str | None] = ("u1", "u2", "nobody", None), times: Sequence[str] = TIMES
) -> pa.Table:
    pairs = [(user, time) for time in times for user in users]
    return pa.table(
        {"user_id": pa.array([user for user, _ in pairs], pa.string()), "ts": [time for _, time in pairs]}
    )


def same_bits(one: pa.Table, other: pa.Table) -> bool:
    assert one.column_names == other.column_names
    return all(
        [*map(bits, one[name].to_pylist())] == [*map(bits, other[name].to_pylist())]
        for name in one.column_names
    )
