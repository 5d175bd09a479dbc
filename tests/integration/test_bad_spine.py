"""Spines as people bring them: every row and column is kept; what can't be asked is named with a way out."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import FeatureStore
from featurestore.batch.digest import digest
from featurestore.errors import FeatureStoreError
from tests.integration import bad_input_project as made

COUNT_PY = """
k = Entity("k", key={key!r})
tx = EventSource("tx", log=Parquet("data/*.parquet"), event_time="ts", id="id", columns={columns!r})
v = FeatureView("v", k, tx, [agg.count()])
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return FeatureStore(made.project(tmp_path_factory.mktemp("spines") / "project"))


def refused(ask: Callable[[], object]) -> str:
    """The first line of the refusal, which has a hint."""
    with pytest.raises(FeatureStoreError) as caught:
        ask()
    assert caught.value.hint
    return str(caught.value).splitlines()[0]


def naive(*texts: str) -> pa.Array:
    return pa.array([datetime.fromisoformat(text) for text in texts], pa.timestamp("us"))


FRAME = pd.DataFrame({"card": ["c1", "c2"], "ts": pd.to_datetime([made.NOON, made.NOON])})


@pytest.mark.parametrize(
    ("spine", "options", "fact"),
    [
        (made.spine().drop_columns(["ts"]), {}, 'spine: no time column "ts"'),
        (made.spine(), {"time": "when"}, 'spine: no time column "when"'),
        (made.spine(), {"time": None}, 'spine: no time column "None"'),
        (pa.table({}), {}, 'spine: no time column "ts"'),
        (FRAME.set_index("ts"), {}, 'spine: no time column "ts"'),
        (made.spine(ts=naive("2026-01-01T12:00", "2026-01-01T12:00")), {},
         'spine: time column "ts" has no timezone'),
        (FRAME.assign(ts=["2026-01-01 12:00", made.NOON]), {},
         'spine: time column "ts" has no timezone: "2026-01-01 12:00"'),
        (FRAME.assign(ts=[date(2026, 1, 1)] * 2), {}, 'spine: time column "ts" has no timezone'),
        (FRAME.assign(ts=[1, 2]), {}, 'spine: time column "ts" is int64'),
        (FRAME.assign(ts=["noon", made.NOON]), {"timezone": "UTC"},
         'spine: row 1, time column "ts": column "ts" holds no timestamp: \'noon\''),
        (made.spine(), {"timezone": "Europe/Berln"}, '"Europe/Berln" is not a time zone'),
        (made.spine(), {"timezone": 5}, "spine: timezone=5 is not a time zone"),
        (made.spine().rename_columns(["crd", "ts"]), {}, 'spine: no column "card", the key of entity "card"'),
        (made.spine([1, 2]), {}, 'spine: key "card" is int64, in the log it is string'),
        (made.spine([1.5, 2.5]), {}, 'spine: key "card" is double, in the log it is string'),
        (pa.Table.from_arrays([*made.spine().columns, pa.array([1, 2])], ["card", "ts", "card"]), {},
         'spine: two columns are named "card"'),
        (pd.concat([FRAME, FRAME[["card"]]], axis=1), {}, 'spine: two columns are named "card"'),
        (made.spine(v__count_1d=[1, 2]), {},
         'spine: column "v__count_1d" has the name of a feature\'s result'),
        (FRAME.assign(x=[1, "a"]), {},
         "spine: conversion failed for column x with type object; "
         "Could not convert 'a' with type str: tried to convert to int64"),
        ([{"card": "c1"}], {}, "spine: list is not a table"),
        (None, {}, "spine: NoneType is not a table"),
        (pl.LazyFrame({"card": ["c1"]}), {}, "spine: LazyFrame is not a table"),
        ("nope.parquet", {}, 'spine: log file "nope.parquet" does not exist'),
        ("features.py", {}, 'spine: "features.py" is of no known kind'),
        (made.spine(), {"known_at": "yesterday"}, 'known_at "yesterday" is not an instant'),
        (made.spine(), {"known_at": datetime(2026, 1, 1)}, "known_at 2026-01-01T00:00:00 has no timezone"),  # noqa: DTZ001
        (made.spine(), {"features": "w"}, 'no feature service or view "w"'),
        (made.spine(), {"features": ["v:amount_smu"]}, 'feature view "v" has no feature "amount_smu"'),
        (made.spine(), {"features": []}, "no features are named"),
        (made.spine(), {"features": ["v", 5]}, "5 is not a feature's name"),
        (made.spine(), {"features": None}, "None is not a feature's name"),
    ],
)  # fmt: skip
def test_a_spine_that_can_not_be_asked_is_refused(
    store: FeatureStore, spine: Any, options: dict[str, Any], fact: str
) -> None:
    assert refused(lambda: store.training_set(spine, **{"features": "v", **options})) == fact


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("", 'spine: log file "spine.csv" is empty: no header'),
        ("card,card,ts\n", 'spine: log file "spine.csv" has two columns "card"'),
        ("card,ts\nc1\n", 'spine: log file "spine.csv", line 2: 1 fields where the header has 2'),
        ('card,ts\n"c1,\n', 'spine: log file "spine.csv", line 2: a quote is not closed'),
        ("card,ts\nc1,1767225600\n", 'spine: time column "ts" is int64'),
        (
            "card,ts\nc1,2026-01-01 12:00:00\n",
            'spine: time column "ts" has no timezone: "2026-01-01 12:00:00"',
        ),
        (b"card,ts\nc1,\xff\n", 'spine: log file "spine.csv" is not UTF-8'),
    ],
)
def test_a_spine_file_that_can_not_be_read_is_refused(tmp_path: Path, text: str | bytes, fact: str) -> None:
    root = made.project(tmp_path)
    made.write(root / "spine.csv", text)
    assert made.refused(root, "training-set", "spine.csv", "-f", "v", "-o", "train.parquet") == fact
    assert not list(root.glob("*train*"))


def test_null_times_are_kept_and_counted(store: FeatureStore) -> None:
    asked = pa.table({"card": ["c1", "c1", "c2"], "ts": made.times(made.NOON[:-1], None, made.NOON[:-1])})
    answer = store.training_set(asked, "v")
    assert answer.to_arrow().select(["card", "ts"]) == asked
    assert answer.to_arrow()["v__count_1d"].to_pylist() == [2, None, 1]
    assert answer.manifest["counts"]["rows_without_time"] == 1


def test_times_may_all_be_null(store: FeatureStore) -> None:
    answer = store.training_set(pa.table({"card": ["c1"], "ts": pa.nulls(1)}), "v")
    assert answer.to_arrow()["v__count_1d"].to_pylist() == [None]


@pytest.mark.parametrize("key", [pa.array([None, "unknown"]), pa.nulls(2), pa.array([None, ""])])
def test_null_and_unknown_keys_give_the_values_of_the_empty_set(store: FeatureStore, key: pa.Array) -> None:
    answer = store.training_set(made.spine(key), "v")
    rows = answer.to_arrow().drop_columns(["card", "ts"]).to_pylist()
    assert rows == [{"v__count_1d": 0, "v__amount_sum": None, "v__n_last": None}] * 2
    assert answer.manifest["counts"]["rows_without_key"] == key.null_count


def test_an_empty_spine_gives_an_empty_training_set(store: FeatureStore, tmp_path: Path) -> None:
    answer = store.training_set(made.spine().slice(0, 0), "v")
    answer.write_parquet(tmp_path / "train.parquet")
    assert pq.read_table(tmp_path / "train.parquet").schema.names == [
        "card", "ts", "v__count_1d", "v__amount_sum", "v__n_last",
    ]  # fmt: skip


def test_rows_that_are_there_twice_stay_in_their_order(store: FeatureStore) -> None:
    cards = ["c2", "c1", "c2", "c1", "c1", None, "c2"]
    counts = store.training_set(made.spine(cards), "v").to_arrow()["v__count_1d"].to_pylist()
    assert counts == [1, 2, 1, 2, 2, 0, 1]


def test_naive_times_are_read_in_the_zone_that_is_named(tmp_path: Path) -> None:
    # 2026-10-25 02:30 comes twice in Berlin: the earlier is 00:30Z. 2026-03-29 02:30 never comes: 01:30Z.
    times = ["2026-03-29T01:29", "2026-03-29T01:30", "2026-10-25T00:29", "2026-10-25T00:30"]
    log = made.events(id=[*"abcd"], card=["c1"] * 4, ts=made.times(*times), amount=[1.0] * 4, n=[1] * 4)
    store = FeatureStore(made.project(tmp_path, log=log))
    local = naive("2026-03-29T02:30", "2026-10-25T02:30")
    asked = made.spine(["c1", "c1"]).set_column(1, "ts", local)
    answer = store.training_set(asked, "v", timezone="Europe/Berlin").to_arrow()
    assert answer["ts"].combine_chunks() == local
    assert answer["v__amount_sum"].to_pylist() == [1.0, 3.0]


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl", "pandas", "polars", "arrow", "batch", "chunks"])
def test_a_spine_may_be_a_file_a_frame_or_a_table(tmp_path: Path, kind: str) -> None:
    root = made.project(tmp_path)
    table = made.spine(["c1", "c2", "c1"])
    spines: dict[str, Callable[[], Any]] = {
        "pandas": table.to_pandas,
        "polars": lambda: pl.from_arrow(table),
        "arrow": lambda: table,
        "batch": lambda: table.to_batches()[0],
        "chunks": lambda: pa.concat_tables([table.slice(0, 1), table.slice(1)]),
    }
    made.write(root / "s.parquet", table)
    made.write(root / "s.csv", "card,ts\n" + "".join(f"{card},{made.NOON}\n" for card in ("c1", "c2", "c1")))
    made.write(
        root / "s.jsonl", "".join(f'{{"card":"{c}","ts":"{made.NOON}"}}\n' for c in ("c1", "c2", "c1"))
    )
    spine = spines[kind]() if kind in spines else f"s.{kind}"
    assert FeatureStore(root).training_set(spine, "v").to_arrow()["v__count_1d"].to_pylist() == [2, 1, 2]


def test_text_keys_of_a_csv_spine_may_all_look_like_numbers(tmp_path: Path) -> None:
    root = made.project(tmp_path, log=made.events(card=["7", "7", "1.5"]))
    made.write(root / "s.csv", f"card,ts,label\n7,{made.NOON},1\n1.5,{made.NOON},0\n1.50,{made.NOON},1\n")
    answer = FeatureStore(root).training_set("s.csv", "v").to_arrow()
    assert answer["card"].to_pylist() == ["7", "1.5", "1.50"]
    assert answer["label"].to_pylist() == [1, 0, 1]
    assert answer["v__count_1d"].to_pylist() == [2, 1, 0]


ODD = {
    "struct": pa.array([{"a": 1, "b": [1, 2]}]),
    "dictionary": pa.array(["x"]).dictionary_encode(),
    "large_string": pa.array(["x"], pa.large_string()),
    "string_view": pa.array(["x"], pa.string_view()),
    "binary_view": pa.array([b"x"], pa.binary_view()),
    "time64": pa.array([1], pa.time64("us")),
    "time32": pa.array([1], pa.time32("s")),
    "date64": pa.array([date(2026, 1, 1)], pa.date64()),
    "timestamp_ns": pa.array([1], pa.timestamp("ns")),
    "duration": pa.array([timedelta(1)]),
    "null": pa.nulls(1),
    "list": pa.array([[1, None]]),
    "large_list": pa.array([[1, 2]], pa.large_list(pa.int64())),
    "fixed_size_list": pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2)),
    "list_of_structs": pa.array([[{"a": None}]]),
    "map": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
    "decimal128": pa.array([Decimal("1.5")]),
    "decimal256": pa.array([Decimal("1.5")], pa.decimal256(50, 2)),
    "float16": pa.array([1.5], pa.float16()),
    "uint64": pa.array([2**64 - 1], pa.uint64()),
    "bool": pa.array([True]),
    "fixed_size_binary": pa.array([b"ab"], pa.binary(2)),
    "uuid": pa.array([b"0" * 16], pa.uuid()),
}
NOT_IN_PARQUET = {
    "interval": pa.array([(1, 2, 3)], pa.month_day_nano_interval()),
    "list_view": pa.array([[1, 2]], pa.list_view(pa.int64())),
    "run_end_encoded": pa.RunEndEncodedArray.from_arrays([1], [5]),
    "union": pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1])]),
}


@pytest.mark.parametrize("kind", [*ODD, *NOT_IN_PARQUET])
def test_extra_columns_of_any_type_stay_as_they_are(store: FeatureStore, kind: str) -> None:
    column = {**ODD, **NOT_IN_PARQUET}[kind]
    answer = store.training_set(made.spine(["c1"], extra=column), "v").to_arrow()
    assert answer.schema.field("extra").type == column.type
    assert answer["extra"].chunk(0).equals(column)


@pytest.mark.parametrize("kind", ODD)
def test_extra_columns_are_written(store: FeatureStore, tmp_path: Path, kind: str) -> None:
    answer = store.training_set(made.spine(["c1"], extra=ODD[kind]), "v")
    answer.write_parquet(tmp_path / "train.parquet")
    assert pq.read_table(tmp_path / "train.parquet")["extra"].to_pylist() == ODD[kind].to_pylist()


@pytest.mark.parametrize("kind", ["interval", "union"])
def test_a_column_that_parquet_has_no_type_for_is_refused(
    store: FeatureStore, tmp_path: Path, kind: str
) -> None:
    answer = store.training_set(made.spine(["c1"], extra=NOT_IN_PARQUET[kind]), "v")
    fact = refused(lambda: answer.write_parquet(tmp_path / "train.parquet"))
    assert fact.startswith("training set can't be written as Parquet: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", sorted({*ODD} - {"null"}))
def test_a_digest_depends_on_values_and_not_on_chunks_or_slices(kind: str) -> None:
    value, null = ODD[kind], pa.nulls(1, ODD[kind].type)

    def of(*parts: pa.Array) -> str:
        return digest(pa.table({"x": pa.chunked_array(parts)}))

    whole = pa.concat_arrays([value, null, value])
    assert of(value, null, value) == of(whole) == of(pa.concat_arrays([null, whole]).slice(1))
    assert len({of(whole), of(value, value, null), of(value, value, value), of(null, null, value)}) == 4


def test_a_polars_frame_with_nulls_and_categories_is_asked_and_written(
    store: FeatureStore, tmp_path: Path
) -> None:
    frame = pl.DataFrame(
        {
            "card": pl.Series(["c1", None], dtype=pl.Categorical),
            "ts": [made.NOON, None],
            "text": [None, "y"],
            "category": pl.Series(["a", None], dtype=pl.Categorical),
            "embedding": pl.Series([[1.0, 2.0], None], dtype=pl.Array(pl.Float32, 2)),
        }
    )
    answer = store.training_set(frame, "v")
    answer.write_parquet(tmp_path / "train.parquet")
    assert answer.to_arrow()["v__count_1d"].to_pylist() == [2, None]
    assert pl.read_parquet(tmp_path / "train.parquet")["embedding"].to_list() == [[1.0, 2.0], None]


U = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"


@pytest.mark.parametrize(
    ("key", "asked", "counts"),
    [
        (pa.array([1, 1, 2], pa.int32()), pa.array([1, 2, 3, None], pa.int32()), [2, 1, 0, 0]),
        (pa.array([1, 1, 2]), pa.array([1, 2, None], pa.int8()), [2, 1, 0]),
        (pa.array([1, 1, 2]), pa.array([1, 2**63 + 1], pa.uint64()), [2, 0]),
        (pa.array([1, 1, 2], pa.uint64()), pa.array([1, 2, 3]), [2, 1, 0]),
        (pa.array(["", "a", None]), pa.array(["", "a", None]), [1, 1, 0]),
        (pa.array(["a", "a"]), pa.array(["a", "b"]).dictionary_encode(), [2, 0]),
        (pa.array(["a", "a"]), pa.array(["a", "b"], pa.large_string()), [2, 0]),
        (pa.array(["a", "a"]), pa.array(["a", "b"], pa.string_view()), [2, 0]),
        (pa.array([True, False]), pa.array([True, None]), [1, 0]),
        (pa.array([date(2026, 1, 1)]), pa.array([date(2026, 1, 1), date(2026, 1, 2)]), [1, 0]),
        (pa.array([Decimal("1.50"), Decimal("1.00")]), pa.array([Decimal("1.5"), Decimal("1.0")]), [1, 1]),
        (pa.array([Decimal("1.50"), Decimal("1.00")]), pa.array([1, 2]), [1, 0]),
        (pa.array([uuid.UUID(U).bytes], pa.uuid()), pa.array([U.upper(), "{" + U + "}", "no"]), [1, 1, 0]),
        (pa.array([uuid.UUID(U).bytes], pa.uuid()), pa.array([uuid.UUID(U).bytes], pa.uuid()), [1]),
        (pa.array([b"a"]), pa.array([b"a", b"b"]), [1, 0]),
    ],
)
def test_keys_are_compared_by_value(
    tmp_path: Path, key: pa.Array, asked: pa.Array, counts: list[int]
) -> None:
    log = pa.table({"id": [*"abc"[: len(key)]], "k": key, "ts": made.times(*["2026-01-01T00:00"] * len(key))})
    store = FeatureStore(made.project(tmp_path, COUNT_PY.format(key="k", columns=None), log))
    answer = store.training_set(made.spine(asked).rename_columns(["k", "ts"]), "v").to_arrow()
    assert answer["v__count"].to_pylist() == counts
    assert answer.schema.field("k").type == asked.type


def test_a_uuid_key_is_found_in_any_spelling(tmp_path: Path) -> None:
    spellings = [U, U.upper(), "{" + U + "}", U.replace("-", ""), "urn:uuid:" + U]
    log = pa.table({"id": [*"abcde"], "k": spellings, "ts": made.times(*["2026-01-01T00:00"] * 5)})
    declared = COUNT_PY.format(key="k", columns={"id": "string", "k": "uuid", "ts": "timestamp"})
    store = FeatureStore(made.project(tmp_path, declared, log))
    answer = store.training_set(made.spine(spellings).rename_columns(["k", "ts"]), "v").to_arrow()
    assert answer["v__count"].to_pylist() == [5] * 5
    assert answer["k"].to_pylist() == spellings


@pytest.mark.parametrize("one", [int, str])
@pytest.mark.parametrize("other", [int, str])
def test_composite_keys_never_collide(tmp_path: Path, one: type, other: type) -> None:
    log = pa.table(
        {
            "id": ["x", "y"],
            "a": [one(1), one(12)],
            "b": [other(23), other(3)],
            "ts": made.times("2026-01-01T00:00", "2026-01-01T00:00"),
        }
    )
    store = FeatureStore(made.project(tmp_path, COUNT_PY.format(key=["a", "b"], columns=None), log))
    asked = pa.table(
        {
            "a": [one(1), one(12), one(12), None, one(123)],
            "b": [other(23), other(3), other(23), other(3), other(3)],
            "ts": made.times(*["2026-01-01T12:00"] * 5),
        }
    )
    assert store.training_set(asked, "v").to_arrow()["v__count"].to_pylist() == [1, 1, 0, 0, 0]


def test_the_same_inputs_give_the_same_bytes_with_any_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = np.random.default_rng(7)
    n = 5_000
    moments = 1_767_225_600_000_000 + draw.integers(0, 40_000_000_000, n)
    log = made.events(
        id=[str(i) for i in draw.integers(0, n, n)],
        card=[f"c{i}" for i in draw.integers(0, 50, n)],
        ts=pa.array(moments, made.UTC_US),
        amount=draw.random(n),
        n=draw.integers(0, 9, n),
    )
    declared = (
        made.SOURCE_PY
        + """
v = FeatureView("v", card, tx, [
    agg.sum("amount", windows=["1h", "6h"]), agg.mean("amount"), agg.stddev("amount", windows="2h"),
    agg.last_k("n", k=3), agg.histogram("n"), agg.count_distinct("n"), agg.percentile("amount", q=0.9),
])
"""
    )
    root = made.project(tmp_path, declared, log)
    table = pa.table({"card": log["card"], "ts": pa.array(moments + 1, made.UTC_US)})
    pq.write_table(table, root / "spine.parquet", row_group_size=700)
    bytes_of = []
    for threads in (0, 0, 1, 2, 5):
        monkeypatch.setenv("FEATURESTORE_ENGINE__THREADS", str(threads))
        made.succeeds(root, "training-set", "spine.parquet", "-f", "v", "-o", "train.parquet")
        written = (root / "train.parquet", root / "train.manifest.json")
        bytes_of.append([path.read_bytes() for path in written])
    assert bytes_of == [bytes_of[0]] * 5
