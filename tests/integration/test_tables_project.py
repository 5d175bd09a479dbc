"""A project over mutable tables, as its user runs it: training sets and online answers are the same bits."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from featurestore import FeatureStore
from featurestore.errors import DefinitionError
from featurestore.testing.bits import bits

COLUMNS = {
    "id": "int64", "user_id": "string", "committed": "timestamp", "lsn": "int64", "placed": "timestamp",
    "amount": "float64", "status": "string",
}  # fmt: skip
DECLARED = f"""
from featurestore import Entity, FeatureService, FeatureView, JSONLines, TableSource, agg

user = Entity("user", key="user_id")
order = Entity("order", key="id")
orders = TableSource(
    "orders", log=JSONLines("orders.jsonl"), primary_key="id", changed_at="committed", position="lsn",
    event_time="placed", columns={COLUMNS!r},
)
by_user = FeatureView(
    "by_user", user, orders,
    features=[
        agg.sum("amount", windows=["30d"]),
        agg.count(where="status = 'open'", name="open"),
        agg.max("amount"),
        agg.percentile("amount", q=0.5),
        agg.last("status", delay="1h", name="status_then"),
    ],
)
by_order = FeatureView("by_order", order, orders, features=[agg.last("status")])
everything = FeatureService("everything", features=[by_user])
"""
LOG = [
    {"op": "c", "id": 1, "user_id": "a", "committed": "2026-01-01T10:00:00Z", "lsn": 1,
     "placed": "2026-01-01T09:00:00Z", "amount": 10.0, "status": "open"},
    {"op": "u", "id": 1, "user_id": "a", "committed": "2026-01-02T10:00:00Z", "lsn": 2,
     "placed": "2026-01-01T09:00:00Z", "amount": 12.5, "status": "closed"},
    {"op": "c", "id": 2, "user_id": "a", "committed": "2026-01-03T10:00:00Z", "lsn": 3,
     "placed": "2026-01-03T09:00:00Z", "amount": 100.0, "status": "open"},
]  # fmt: skip
PUSHED = [
    {"op": "u", "id": 2, "user_id": "b", "committed": "2026-01-04T10:00:00Z", "lsn": 4,
     "placed": "2026-01-03T09:00:00Z", "amount": 100.0, "status": "open"},
    {"op": "d", "id": 1, "committed": "2026-01-05T10:00:00Z", "lsn": 5},
]  # fmt: skip
TIMES = [
    f"2026-01-0{day}T{clock}Z"
    for day in (1, 2, 3, 4, 5)
    for clock in ("10:00:00", "10:00:00.000001", "11:00:00", "11:00:00.000001")
]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "features.py").write_text(DECLARED)
    (tmp_path / "orders.jsonl").write_text("\n".join(json.dumps(row) for row in LOG))
    return tmp_path


@pytest.mark.parametrize("known_at", [None, "as_of", "2026-01-04T12:00:00Z"])
def test_offline_equals_online_over_a_log_and_what_was_pushed(project: Path, known_at: str | None):
    users = ["a", "b", "nobody"] * len(TIMES)
    times = [time for time in TIMES for _ in range(3)]
    with FeatureStore(project) as store:
        store.apply()
        store.backfill()
        assert store.ingest("orders", PUSHED).accepted == 2
        spine = pa.table({"user_id": users, "ts": times})
        offline = store.training_set(spine, "everything", known_at=known_at).to_arrow().drop(["ts"])
        features = [f"by_user:{name.removeprefix('by_user__')}" for name in offline.column_names[1:]]
        online = store.online_features(
            features, {"user_id": users}, as_of=times, known_at=known_at
        ).to_arrow()
    assert offline.column_names == online.column_names
    for name in offline.column_names:
        assert [*map(bits, offline[name].to_pylist())] == [*map(bits, online[name].to_pylist())], name


def test_a_row_is_seen_as_its_last_change_left_it(project: Path):
    with FeatureStore(project) as store:
        store.apply()
        store.backfill()
        store.ingest("orders", PUSHED)

        def spent(user: str, as_of: str) -> object:
            vectors = store.online_features(["by_user:amount_sum_30d"], {"user_id": [user]}, as_of=as_of)
            return vectors.to_dict()["by_user__amount_sum_30d"][0]

        assert spent("a", "2026-01-01T10:00:00Z") is None  # a change at exactly T is in the future
        assert spent("a", "2026-01-01T10:00:00.000001Z") == 10.0
        assert spent("a", "2026-01-02T12:00:00Z") == 12.5  # updated in place
        assert spent("a", "2026-01-03T12:00:00Z") == 112.5
        assert (spent("a", "2026-01-04T12:00:00Z"), spent("b", "2026-01-04T12:00:00Z")) == (12.5, 100.0)
        assert spent("a", "2026-01-06T00:00:00Z") is None  # deleted, and the other moved away


def test_a_dimension_is_the_plain_lookup_of_an_attribute(project: Path):
    with FeatureStore(project) as store:
        spine = pa.table(
            {"id": [1, 1, 2], "ts": ["2026-01-02T10:00:00Z", "2026-01-03T00:00:00Z", "2026-01-02T00:00:00Z"]}
        )
        found = store.training_set(spine, "by_order").to_arrow()["by_order__status_last"].to_pylist()
    assert found == ["open", "closed", None]


def test_a_window_over_a_table_without_event_time_is_refused(project: Path):
    (project / "features.py").write_text(DECLARED.replace('    event_time="placed", ', "    "))
    with pytest.raises(DefinitionError, match=r"has no event_time(.|\n)*lifetime"):
        FeatureStore(project).plan()
