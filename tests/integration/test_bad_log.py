"""Logs as they come: damaged files and odd types are named; what can be read is one offline and online."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from featurestore import FeatureStore
from tests.integration import bad_input_project as made

FIRST = made.events().slice(0, 1)


def filled(root: Path) -> str:
    """What a backfill says."""
    made.succeeds(root, "apply")
    return made.succeeds(root, "backfill")


@pytest.mark.parametrize(
    ("add", "fact"),
    [
        (lambda whole: whole[:200],
         'log file "data/more.parquet" is truncated, damaged or no Parquet file: '),
        (lambda whole: whole[:-20],
         'log file "data/more.parquet" is truncated, damaged or no Parquet file: '),
        (lambda _: b"", 'log file "data/more.parquet" is empty (0 bytes): no Parquet file'),
        (lambda _: b"some text", 'log file "data/more.parquet" is truncated, damaged or no Parquet file: '),
        (lambda _: made.events(amount=["1", "2", "3"]),
         'column "amount" is double in log file "data/events.parquet" and string in "data/more.parquet"'),
    ],
)  # fmt: skip
def test_a_file_that_is_damaged_or_of_another_schema_is_named(
    tmp_path: Path, add: Callable[[bytes], Any], fact: str
) -> None:
    root = made.project(tmp_path)
    made.write(root / "data/more.parquet", add((root / "data/events.parquet").read_bytes()))
    for command in ("plan", "apply"):
        assert made.refused(root, command).startswith(fact)


@pytest.mark.parametrize(
    ("log", "file", "text", "fact"),
    [
        ('Parquet("none/*.parquet")', None, "", 'no file matches "none/*.parquet"'),
        ('Parquet("none.parquet")', None, "", 'log file "none.parquet" does not exist'),
        ('Parquet("none")', "none/readme.txt", "", 'log directory "none" holds no file to read'),
        ('CSV("log.csv")', "log.csv", "", 'log file "log.csv" is empty: no header'),
        ('CSV("log.csv")', "log.csv", "id,card,ts\na,c1\n",
         'log file "log.csv", line 2: 2 fields where the header has 3'),
        ('CSV("log.csv")', "log.csv", 'id,card,ts\n"a,c1\n',
         'log file "log.csv", line 2: a quote is not closed'),
        ('CSV("data/events.parquet")', None, "", 'log file "data/events.parquet" is not UTF-8'),
        ('JSONLines("log.jsonl")', "log.jsonl", '{"id": "a"}\n{"id":\n',
         'log file "log.jsonl", line 2: no JSON object'),
        ('JSONLines("log.jsonl")', "log.jsonl", "[1]\n", 'log file "log.jsonl", line 1: no JSON object'),
        ('DuckDBTable("log.duckdb", "t")', None, "", 'log file "log.duckdb" does not exist'),
        ('DuckDBTable("log.duckdb", "t")', "log.duckdb", "text" * 99,
         'log file "log.duckdb" can\'t be read as a DuckDB file'),
    ],
)  # fmt: skip
def test_a_log_that_can_not_be_read_is_named(
    tmp_path: Path, log: str, file: str | None, text: str, fact: str
) -> None:
    declared = made.SOURCE_PY.replace('Parquet("data/*.parquet")', log) + made.VIEW_PY
    root = made.project(tmp_path, declared)
    if file is not None:
        made.write(root / file, text)
    assert made.refused(root, "plan").startswith(fact)


def test_a_table_of_a_duckdb_file_is_a_log_and_another_one_is_suggested(tmp_path: Path) -> None:
    declared = made.SOURCE_PY.replace('Parquet("data/*.parquet")', 'DuckDBTable("log.duckdb", "TABLE")')
    root = made.project(tmp_path, declared.replace("TABLE", "evnts") + made.VIEW_PY)
    with duckdb.connect(str(root / "log.duckdb")) as connection:
        connection.execute(f"CREATE TABLE events AS SELECT * FROM '{root}/data/events.parquet'")
    assert made.refused(root, "plan") == 'log file "log.duckdb" has no table "evnts"'
    made.declare(root, declared.replace("TABLE", "events") + made.VIEW_PY)
    filled(root)
    assert made.asked_both_ways(root)["v__count_1d"] == [2, 1, 0]


def test_a_log_may_be_empty_or_lack_a_column_in_some_files(tmp_path: Path) -> None:
    root = made.project(tmp_path, log=made.events().slice(0, 0))
    filled(root)
    assert made.asked_both_ways(root)["v__count_1d"] == [0, 0, 0]
    made.write(root / "data/more.parquet", made.events(amount=None))
    filled(root)
    assert made.asked_both_ways(root) == {
        "v__count_1d": [2, 1, 0], "v__amount_sum": [None] * 3, "v__n_last": [2, 3, None],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "rejected"),
    [
        ({"id": ["a", None, "c"]}, 'data/events.parquet, row 2: no id: column "id" is null'),
        ({"ts": made.times("2026-01-01T00:00", None, "2026-01-01T02:00")},
         'data/events.parquet, row 2: no event time: column "ts" is null'),
        ({"ts": ["2026-01-01T00:00", "hello", "2026-01-01 02:00Z"]},
         "data/events.parquet, row 2: column \"ts\" holds no timestamp: 'hello'"),
        ({"extra": pa.array([1, 2**64 - 1, 3], pa.uint64())},
         'data/events.parquet, row 2: column "extra" holds no int64: 18446744073709551615'),
    ],
)  # fmt: skip
def test_a_row_that_can_not_be_held_is_counted_and_named(
    tmp_path: Path, changed: dict[str, Any], rejected: str
) -> None:
    root = made.project(tmp_path, log=made.events(**changed))
    said = filled(root)
    assert "2 facts, 1 rejected" in said
    assert rejected in said
    assert made.asked_both_ways(root)["v__count_1d"] == [1, 1, 0]


def test_a_row_without_a_key_is_counted(tmp_path: Path) -> None:
    root = made.project(tmp_path, log=made.events(card=["c1", None, "c2"]))
    assert "1 without an entity key" in filled(root)
    assert made.asked_both_ways(root)["v__count_1d"] == [1, 1, 0]


def test_an_id_with_different_content_is_accepted_counted_and_named(tmp_path: Path) -> None:
    log = made.events(id=["a", "a", "a"], card=["c1"] * 3, ts=made.times(*["2026-01-01T00:00"] * 3),
                      amount=[1.0, 2.0, 2.0], n=[1, 1, 1])  # fmt: skip
    root = made.project(tmp_path, log=log)
    said = filled(root)
    assert "1 facts, 1 corrections, 1 duplicates" in said
    assert "ids with different content: a" in said
    assert made.asked_both_ways(root)["v__count_1d"] == [1, 0, 0]
    made.write(root / "spine.parquet", made.spine())
    said = made.succeeds(root, "training-set", "spine.parquet", "-f", "v", "-o", "train.parquet")
    assert "corrected, for example: a" in said


def test_times_before_1970_and_after_2200_are_times(tmp_path: Path) -> None:
    times = ["1901-01-01T00:00", "1969-12-31T23:59:59.999999", "2250-01-01T00:00", "9999-12-31T23:59"]
    log = made.events(
        id=[*"abcd"], card=["c1"] * 4, ts=made.times(*times), amount=[1.0, 2.0, 4.0, 8.0], n=[1] * 4
    )
    root = made.project(tmp_path, log=log)
    filled(root)
    assert made.asked_both_ways(root)["v__amount_sum"] == [3.0, None, None]
    asked = [
        "1901-01-01T00:00:00Z",
        "1970-01-01T00:00:00Z",
        "2250-01-01T00:00:00.000001Z",
        "9999-12-31T23:59:59Z",
    ]
    with FeatureStore(root) as store:
        answer = store.online_features(["v:amount_sum"], {"card": ["c1"] * 4}, as_of=asked)
        offline = store.training_set(pa.table({"card": ["c1"] * 4, "ts": asked}), "v:amount_sum")
    assert answer.to_arrow()["v__amount_sum"].to_pylist() == [None, 3.0, 7.0, 15.0]
    assert offline.to_arrow()["v__amount_sum"].to_pylist() == [None, 3.0, 7.0, 15.0]


def test_nanoseconds_are_floored_before_1970_too(tmp_path: Path) -> None:
    stamps = pa.array([1999, -1, -1001], pa.timestamp("ns", "UTC"))
    root = made.project(tmp_path, log=made.events(card=["c1"] * 3, ts=stamps))
    filled(root)
    asked = pa.table({"card": ["c1"] * 4, "ts": pa.array([-1, 0, 1, 2], made.UTC_US)})
    with FeatureStore(root) as store:
        counts = store.training_set(asked, "v:count_1d").to_arrow()["v__count_1d"].to_pylist()
    assert counts == [1, 2, 2, 3]  # -1001 ns is -2 us, -1 ns is -1 us, 1999 ns is 1 us


@pytest.mark.parametrize(
    ("unit", "factor"), [("s", 1), ("ms", 1_000), ("us", 1_000_000), ("ns", 1_000_000_000)]
)
def test_integer_times_need_a_unit(tmp_path: Path, unit: str, factor: int) -> None:
    log = made.events(ts=[1_767_225_600 * factor, 1_767_229_200 * factor, 1_767_232_800 * factor])
    root = made.project(tmp_path, log=log)
    assert (
        made.refused(root, "plan") == 'source "tx", column "ts": its times are integers of no declared unit'
    )
    made.declare(root, made.SOURCE_PY.replace('id="id"', f'id="id", time_unit="{unit}"') + made.VIEW_PY)
    filled(root)
    assert made.asked_both_ways(root)["v__count_1d"] == [2, 1, 0]


def test_columns_may_be_named_like_keywords_or_with_quotes_and_spaces(tmp_path: Path) -> None:
    log = made.events().rename_columns(["order", "select", "time stamp", 'a"b', "group"])
    declared = """
k = Entity("k", key="select")
tx = EventSource("tx", log=Parquet("data/*.parquet"), event_time="time stamp", id="order")
v = FeatureView("v", k, tx, [
    agg.sum('"a""b"', name="ab"),
    agg.last("order"),
    agg.sum('"group" * 2', name="twice"),
    agg.max_by("group", order='"order"', name="by_order"),
    agg.count(where="\\"order\\" = 'a' and \\"time stamp\\" is not null", name="a"),
])
"""
    root = made.project(tmp_path, declared, log)
    filled(root)
    asked = pa.table({"select": ["c1", "c2"], "group by": made.times(*["2026-01-01T12:00"] * 2)})
    with FeatureStore(root) as store:
        offline = store.training_set(asked, "v", time="group by").to_arrow().drop_columns(["group by"])
        online = store.online_features("v", {"select": ["c1", "c2"]}, as_of=made.NOON).to_arrow()
    assert offline.to_pydict() == {
        "select": ["c1", "c2"], "v__ab": [3.0, 3.0], "v__order_last": ["b", "c"], "v__twice": [6, 6],
        "v__by_order": [2, 3], "v__a": [1, 0],
    }  # fmt: skip
    assert {name: online[name].to_pylist() for name in offline.column_names} == offline.to_pydict()


def test_odd_types_of_columns_are_read(tmp_path: Path) -> None:
    log = made.events(
        dec=pa.array([Decimal("1.10"), Decimal("2.20"), None], pa.decimal128(10, 2)),
        u64=pa.array([1, 2, 2**63 - 1], pa.uint64()),
        f32=pa.array([0.1, 0.2, None], pa.float32()),
        ints=[[1, 2], [3], None],
        words=[["x", "y"], ["x"], []],
        category=pa.array(["x", "y", None]).dictionary_encode(),
    )
    declared = (
        made.SOURCE_PY
        + """
v = FeatureView("v", card, tx, [
    agg.sum("dec"), agg.last("u64"), agg.max("f32"), agg.sum("ints"), agg.last("ints"), agg.count("ints"),
    agg.mode("words"), agg.histogram("words"), agg.last_k("words", k=2), agg.last("category"),
])
"""
    )
    root = made.project(tmp_path, declared, log)
    filled(root)
    assert made.asked_both_ways(root, cards=("c1", "c2")) == {
        "v__dec_sum": [Decimal("3.30"), None],
        "v__u64_last": [2, 2**63 - 1],
        "v__f32_max": [0.20000000298023224, None],
        "v__ints_sum": [6, None],
        "v__ints_last": [[3], None],
        "v__ints_count": [2, 0],
        "v__words_mode": ["x", None],
        "v__words_histogram": [[("x", 2), ("y", 1)], None],
        "v__words_last_2": [[["x"], ["x", "y"]], [[]]],
        "v__category_last": ["y", None],
    }


@pytest.mark.parametrize(
    "column", [pa.array([1, 2, 3], pa.time64("us")), pa.array([{"a": 1}] * 3), pa.nulls(3)]
)
def test_a_column_of_a_type_that_is_not_held_is_refused_when_it_is_declared(
    tmp_path: Path, column: pa.Array
) -> None:
    declared = made.SOURCE_PY.replace('id="id"', 'id="id", columns=["amount", "n", "odd"]') + made.VIEW_PY
    root = made.project(tmp_path, declared, made.events(odd=column))
    assert made.refused(root, "plan").startswith('source "tx", column "odd": ')
    made.declare(root, made.SOURCE_PY + made.VIEW_PY)
    filled(root)


def test_directories_of_partitions_are_columns(tmp_path: Path) -> None:
    declared = (
        made.SOURCE_PY.replace("data/*.parquet", "days")
        + """
v = FeatureView("v", card, tx, [agg.last("day"), agg.count(where="day = '2026-01-01'", name="first_day")])
"""
    )
    root = made.project(tmp_path, declared)
    for day, part in (("2026-01-01", FIRST), ("2026-01-02", made.events().slice(1))):
        made.write(root / f"days/day={day}/part.parquet", part)
    filled(root)
    assert made.asked_both_ways(root, cards=("c1", "c2")) == {
        "v__day_last": [date(2026, 1, 2)] * 2, "v__first_day": [1, 0],
    }  # fmt: skip
    made.write(root / "days/part.parquet", FIRST)
    assert made.refused(root, "plan").endswith("lie in directories of different columns")
