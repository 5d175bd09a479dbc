"""Data and answers from elsewhere, as far as their semantics are ours; where they are not, the test says how.

The cases lie beside the repository and are not part of it: in a user's clone these tests skip.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from featurestore import FeatureStore

CASES = Path(__file__).parents[3] / "shared" / "cases"

pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not here")


def project(root: Path, declarations: str) -> FeatureStore:
    (root / "features.py").write_text(f"from featurestore import *\n{declarations}")
    return FeatureStore(root)


def answers(
    store: FeatureStore, spine: dict[str, list[Any]], features: str, known_at: str | None = None
) -> pa.Table:
    return store.training_set(pa.table(spine), features, known_at=known_at).to_arrow()


def feast_cases() -> list[Any]:
    path = CASES / "feast_cases" / "pit_cases.json"
    return json.loads(path.read_text()) if path.exists() else []


@pytest.mark.parametrize("case", feast_cases(), ids=lambda case: case["name"])
def test_feast_point_in_time_joins(case: dict[str, Any], tmp_path: Path):
    """The created column is ``available_at``; rows of one driver and event time are versions of one event.

    ``known_at="as_of"`` is Feast's ``filter_by_created_timestamp``, ``known_at`` absent its default.
    """
    created = "created" if "created" in case["source"][0] else "created_ts"
    value = next(name for name in case["source"][0] if name not in ("driver_id", "event_timestamp", created))

    def instant(text: str | None) -> str | None:
        return text if text is None or "T" in text else f"{text}T00:00:00Z"

    rows = [{**row, "event_timestamp": instant(row["event_timestamp"]), created: instant(row[created])}
            for row in case["source"]]  # fmt: skip
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    store = project(
        tmp_path,
        f"""
source = EventSource(
    "stats", log=JSONLines("log.jsonl"), event_time="event_timestamp", id=["driver_id", "event_timestamp"],
    available_at="{created}", columns={{"driver_id": "int64", "{value}": "float64"}},
)
view = FeatureView("view", Entity("driver", key="driver_id"), source, [agg.last("{value}", name="value")])
""",
    )
    spine = {
        "driver_id": [query["driver_id"] for query in case["queries"]],
        "ts": [instant(query["event_timestamp"]) for query in case["queries"]],
    }
    found = {
        known_at: answers(store, spine, "view", known_at)["view__value"].to_pylist()
        for known_at in (None, "as_of")
    }
    if "expected" in case:
        assert found[None] == case["expected"]
    if "expected_leaky_default" in case:
        assert found[None] == case["expected_leaky_default"]
    if "expected_as_known" in case:
        assert found["as_of"] == case["expected_as_known"]


def test_chronon_quickstart_row(tmp_path: Path):
    """The one row of Chronon's documentation: all windows of purchases and returns, and the user's
    attributes.

    Chronon gives null for the count of no returns, we give 0. Its partition column ``ds`` differs from the
    day of ``ts`` in 481 of 500 purchases: time is ``ts`` here, and ``ds`` is a column like any other.
    """
    place = CASES / "chronon_quickstart"
    expected = json.loads((place / "expected_row.json").read_text())
    store = project(
        tmp_path,
        f"""
user = Entity("user", key="user_id")
purchases = EventSource("purchases", log=CSV({str(place / "purchases.csv")!r}), event_time="ts",
id="purchase_id",
                        time_unit="ms")
returns = EventSource("returns", log=CSV({str(place / "returns.csv")!r}), event_time="ts", id="return_id",
                      time_unit="ms")
users = TableSource("users", log=CSV({str(place / "users.csv")!r}), primary_key="user_id", format="snapshots")
W = ["3d", "14d", "30d"]
def money(column, k):
    return [agg.sum(column, windows=W), agg.count(column, windows=W), agg.mean(column, windows=W),
            agg.last_k(column, k=k)]
by_purchase = FeatureView("purchases", user, purchases, money("purchase_price", 10))
by_return = FeatureView("returns", user, returns, money("refund_amt", 2))
attributes = FeatureView("users", user, users, [agg.last("account_created_ds"), agg.last("email_verified")])
""",
    )
    asked = {"user_id": [expected["user_id"]], "ts": ["2023-11-30T05:01:15.364Z"]}
    row = answers(store, asked, ["purchases", "returns", "users"]).to_pylist()[0]  # type: ignore[arg-type]
    for view in ("purchases", "returns"):
        for name, value in expected[view].items():
            ours = (
                name.replace("_average_", "_mean_")
                .replace("_last10", "_last_10")
                .replace("_last2", "_last_2")
            )
            wanted = 0 if value is None and "_count_" in name else value
            assert row[f"{view}__{ours}"] == wanted, name
    assert str(row["users__account_created_ds_last"]) == expected["users"]["account_created_ds"]
    assert row["users__email_verified_last"] == expected["users"]["email_verified"]


def test_chronon_flink_aggregates(tmp_path: Path):
    """The same six events and windows. Chronon rounds windows to hops, which changes nothing here.

    Its other table of values (update, merge, delete) is not ours: there minima, firsts and distinct counts
    ignore deletes and counts may be negative, where every operation here is exact under deletes.
    """
    case = json.loads((CASES / "chronon_aggregator_cases" / "cases.json").read_text())[
        "flink_row_aggregation"
    ]
    rows = [
        {"id": i, "k": "a", **dict(zip(case["columns"], row, strict=True))}
        for i, row in enumerate(case["rows"])
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    store = project(
        tmp_path,
        """
source = EventSource("source", log=JSONLines("log.jsonl"), event_time="ts", id="id", time_unit="ms")
view = FeatureView("view", Entity("k", key="k"), source, [
    agg.mean("views", windows=["1h", "1d", "30d"]), agg.mean("rating", windows=["1h", "1d"]),
    agg.max("title", windows="1d"), agg.last("title", windows="1d")])
""",
    )
    row = answers(store, {"k": ["a"], "ts": ["2018-03-01T00:00:00Z"]}, "view").to_pylist()[0]
    wanted = case["expected"]
    for window in ("1h", "1d", "30d"):
        assert row[f"view__views_mean_{window}"] == wanted["AVERAGE(views) 1d/1h/30d"]
    for window in ("1h", "1d"):
        assert row[f"view__rating_mean_{window}"] == wanted["AVERAGE(rating) 1d/1h"]
    assert row["view__title_max_1d"] == wanted["MAX(title) 1d"]
    assert row["view__title_last_1d"] == wanted["LAST(title) 1d"]


def test_pandas_rolling_windows(tmp_path: Path):
    """``closed="left"`` is our window; ``closed="right"`` is ours asked a microsecond later, as instants are
    whole microseconds. "both" and "neither" are spans that no window here has."""
    closed, ragged = json.loads((CASES / "pandas_rolling" / "cases.json").read_text())

    def at(clock: str, later: str = "") -> str:
        return f"2013-01-01T{clock}{later}Z"

    for name, case in (("closed", closed), ("ragged", ragged)):
        values = case.get("value") or case["values"]
        rows = [{"k": "a", "ts": at(clock), "v": v} for clock, v in zip(case["ts"], values, strict=True)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    store = project(
        tmp_path,
        """
k = Entity("k", key="k")
def over(name):
    return EventSource(name, log=JSONLines(f"{name}.jsonl"), event_time="ts", columns={"v": "float64"})
closed = FeatureView("closed", k, over("closed"), [agg.sum("v", windows="2s")])
W = ["1s", "2s", "3s", "4s", "5s"]
ragged = FeatureView("ragged", k, over("ragged"), [
    agg.sum("v", windows=W), agg.mean("v", windows="2s"), agg.stddev("v", windows="3s"),
    agg.stddev("v", windows="5s", sample=True), agg.variance("v", windows="5s", sample=True),
    agg.count("v", windows="2s")])
""",
    )
    for side, later in (("left", ""), ("right", ".000001")):
        spine = {"k": ["a"] * 5, "ts": [at(clock, later) for clock in closed["ts"]]}
        assert answers(store, spine, "closed")["closed__v_sum_2s"].to_pylist() == closed["expected"][side]
    spine = {"k": ["a"] * 5, "ts": [at(clock, ".000001") for clock in ragged["ts"]]}
    found = answers(store, spine, "ragged")
    names = {
        "3s std ddof0": "v_stddev_3s",
        "5s std ddof1": "v_stddev_sample_5s",
        "5s var ddof1": "v_variance_sample_5s",
    }
    for name, wanted in ragged["expected"].items():
        window, op, *_ = name.split()
        column = names.get(name) or f"v_{op}_{window}"
        assert found[f"ragged__{column}"].to_pylist() == [
            None if value is None else pytest.approx(value, abs=1e-6) for value in wanted
        ], name
