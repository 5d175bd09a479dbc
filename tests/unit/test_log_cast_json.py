"""Rows of JSON, pushed or in a log: each value is held as its type or is bad, the same in both."""

from __future__ import annotations

import datetime
import decimal
import json
import math
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from featurestore import dtypes
from featurestore.dsl.log import JSONLines
from featurestore.dtypes import BINARY, BOOL, DATE, FLOAT64, INT64, STRING, TIMESTAMP, UUID, DType
from featurestore.log.cast import cast_rows, cast_table
from featurestore.log.scan import scan

COLUMNS: dict[str, DType] = {
    "i": INT64, "f": FLOAT64, "d": dtypes.decimal(20, 10), "s": STRING, "b": BOOL, "t": TIMESTAMP,
    "day": DATE,
    "u": UUID, "raw": BINARY, "l": dtypes.list_of(FLOAT64),
}  # fmt: skip


def pushed(*rows: dict[str, object], time_unit: str | None = None) -> list[object]:
    cast = cast_rows(rows, COLUMNS, timezone="UTC", time_unit=time_unit)
    bad = [False] * len(rows) if cast.bad is None else cast.bad.tolist()
    return ["bad" if is_bad else row for is_bad, row in zip(bad, cast.table.to_pylist(), strict=True)]


def test_pushed_json_values_are_held_or_bad():
    d = decimal.Decimal
    for name, value, expected in (
        ("i", 5, 5), ("i", "5", 5), ("i", 5.0, 5), ("i", 5.5, "bad"), ("i", True, "bad"), ("i", 2**63, "bad"),
        ("i", 10**5000, "bad"), ("f", 1, 1.0), ("f", "-Infinity", -math.inf), ("f", -0.0, 0.0),
        ("f", False, "bad"),
        ("f", d("0.1"), 0.1), ("d", d("0.0000000001"), d("0.0000000001")), ("d", 0.1, d("0.1")),
        ("d", "1e3", d(1000)),
        ("d", d("1e-11"), "bad"), ("d", d("NaN"), "bad"), ("s", "x", "x"), ("s", 7, "7"), ("s", 7.5, "bad"),
        ("s", True, "bad"), ("s", ["x"], "bad"), ("s", "\ud800", "bad"), ("s", "", ""), ("b", True, True),
        ("b", "true", True), ("b", 1, "bad"), ("b", 0, "bad"), ("t", 5, "bad"), ("t", None, None),
        ("day", "2026-01-01", datetime.date(2026, 1, 1)), ("day", 1, "bad"), ("u", 1, "bad"),
        ("raw", "aGk=", b"hi"),
        ("l", [1, "NaN", None, 0.5, d("0.25")], [1.0, math.nan, None, 0.5, 0.25]), ("l", [[1]], "bad"),
        ("l", 1, "bad"),
        ("l", {"x": 1}, "bad"), ("l", [{"x": 1}], "bad"), ("l", [True], "bad"), ("nope", 1, "bad"),
    ):  # fmt: skip
        (row,) = pushed({name: value})
        if expected == "bad":
            assert row == "bad", (name, value)
        else:
            assert repr(row[name]) == repr(expected) or row[name] == expected, (name, value, row)


def test_pushed_times_are_iso_text_integers_of_the_unit_or_python_s_classes():
    instant = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    east = instant.astimezone(datetime.timezone(datetime.timedelta(hours=5)))
    for value in (
        "2026-01-01T00:00:00Z",
        "2026-01-01",
        1767225600,
        "1767225600",
        instant,
        east,
        instant.replace(tzinfo=None),
    ):
        (row,) = pushed({"t": value}, time_unit="s")
        assert row["t"] == instant
    assert pushed({"t": 1.5}, {"t": True}, time_unit="s") == ["bad", "bad"]


def test_an_unknown_key_is_named():
    cast = cast_rows([{"i": 1}, {"i": 1, "j": 2}], COLUMNS, timezone="UTC", time_unit=None)
    assert cast.reasons == [(1, 'no column "j" in the source: 2')]


JSON_NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.decimals(-(10**12), 10**12, places=11),
)
JSON_VALUES = st.one_of(
    st.none(), st.booleans(), JSON_NUMBERS, st.text(max_size=5),
    st.sampled_from(["NaN", "12", "1.5", "true", "2026-01-01"]),
    st.datetimes().map(lambda moment: moment.isoformat()), st.uuids().map(str), st.just({"x": 1}),
    st.lists(st.one_of(JSON_NUMBERS, st.none(), st.sampled_from(["NaN", "x", 'a"\\'])), max_size=3),
)  # fmt: skip


def to_json(value: object) -> str:
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, list):
        return "[" + ",".join(map(to_json, value)) + "]"
    return json.dumps(value)


@given(
    st.lists(st.dictionaries(st.sampled_from(list(COLUMNS)), JSON_VALUES, max_size=5), min_size=1, max_size=8)
)
def test_a_pushed_row_and_the_same_row_in_a_json_lines_log_are_the_same(rows):
    lines = [
        "{" + ", ".join(f'"{key}": {to_json(value)}' for key, value in row.items()) + "}" for row in rows
    ]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
        parts = [
            cast_table(batch.table, COLUMNS, timezone="Europe/Berlin", time_unit="ms")
            for batch in scan(JSONLines("a.jsonl"), Path(folder), list(COLUMNS))
        ]
    read = pa.concat_tables([part.table for part in parts])
    bad = np.concatenate(
        [np.zeros(part.table.num_rows, bool) if part.bad is None else part.bad for part in parts]
    )
    sent = cast_rows(
        [json.loads(line, parse_float=decimal.Decimal) for line in lines],
        COLUMNS,
        timezone="Europe/Berlin",
        time_unit="ms",
    )
    for name, dtype in COLUMNS.items():  # as text: NaN is NaN, and times may lie beyond Python's calendar
        one, other = (table.column(name) for table in (read, sent.table))
        if dtype == TIMESTAMP:
            one, other = one.cast(pa.int64()), other.cast(pa.int64())
        assert repr(one.to_pylist()) == repr(other.to_pylist())
    assert bad.any() == (sent.bad is not None)
    assert sent.bad is None or bad.tolist() == sent.bad.tolist()
