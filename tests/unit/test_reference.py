"""The oracle itself, against others that define the same thing: NumPy, pandas, math.fsum, exact fractions."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tests.strategies as generated
from featurestore.dsl.aggregation import Aggregation, agg
from featurestore.dtypes import INT64, DType, parse
from featurestore.kernel.operations import OPERATIONS
from featurestore.testing import reference_operations
from featurestore.testing.bits import bits
from featurestore.testing.builders import event, instant, retraction, schema_of, view_of
from featurestore.testing.reference import Oracle
from featurestore.testing.reference_content import canonical_bytes, content_hash

FINITE = st.floats(allow_nan=False, allow_infinity=False)
COLUMNS = {"card": "string", "id": "string", "ts": "timestamp", "x": "float64"}


def over(values: Sequence[float], feature: Aggregation) -> Any:
    rows = [event(f"{i:04}", at="09:00", x=value) for i, value in enumerate(values)]
    oracle = Oracle(view_of([feature], columns=COLUMNS, id="id"), schema_of(COLUMNS), rows)
    [value] = oracle.answer(("c1",), as_of=instant("10:00"), known_at=None).values()
    return value.value


def test_every_operation_of_the_kernel_has_a_reference():
    assert set(reference_operations.OPERATIONS) == set(OPERATIONS)


@given(st.lists(FINITE, min_size=1, max_size=30), st.floats(0, 1))
def test_percentile_is_that_of_numpy(values: list[float], q: float):
    with np.errstate(all="ignore"):
        expected = float(np.quantile(np.array(values), q, method="linear"))
    if math.isfinite(expected):
        assert bits(over(values, agg.percentile("x", q=q or 1e-300))) == bits(expected + 0.0) or q == 0


@given(st.lists(FINITE, min_size=1, max_size=30))
def test_sum_is_that_of_fsum(values: list[float]):
    try:
        expected = math.fsum(values)
    except OverflowError:
        return
    assert bits(over(values, agg.sum("x"))) == bits(expected + 0.0)


@given(st.lists(st.integers(-(2**40), 2**40).map(float), min_size=2, max_size=30))
def test_variance_is_the_exact_one(values: list[float]):
    exact = [Fraction(value) for value in values]
    assert over(values, agg.variance("x")) == float(statistics.pvariance(exact))
    assert over(values, agg.variance("x", sample=True)) == float(statistics.variance(exact))
    assert over(values, agg.stddev("x")) == math.sqrt(float(statistics.pvariance(exact)))


def test_windows_are_those_of_pandas_closed_on_the_left():
    minutes = [0, 0, 1, 2, 5, 5, 6, 10, 11, 60]
    start = instant("09:00")
    assert start is not None
    rows = [event(f"{i:02}", at=start + m * 60_000_000, x=float(i)) for i, m in enumerate(minutes)]
    frame = pd.DataFrame(
        {"x": [row["x"] for row in rows]}, index=pd.to_datetime([row["ts"] for row in rows], unit="us")
    )
    expected = frame["x"].rolling("5min", closed="left").sum()
    oracle = Oracle(view_of([agg.sum("x", windows="5m")], columns=COLUMNS, id="id"), schema_of(COLUMNS), rows)
    # pandas gives each row what came before it in the frame; the first row of an instant sees what T sees.
    for moment, sums in expected.groupby(level=0):
        as_of = int(moment.value) // 1000
        value = oracle.answer(("c1",), as_of=as_of, known_at=None)["x_sum_5m"].value
        assert (math.nan if value is None else value) == pytest.approx(sums.iloc[0], nan_ok=True, abs=0)


def test_the_hash_is_murmur3_of_128_bits():
    row = {"a": "hello"}
    assert canonical_bytes("hello", parse("string")) == b"\x04hello"
    assert content_hash(row, {"a": parse("string")}) == content_hash(
        {**row, "z": None}, {"a": parse("string"), "z": INT64}
    )


@pytest.mark.parametrize(
    ("value", "text", "expected"),
    [
        (True, "bool", b"\x01\x01"),
        (-1, "int64", b"\x02" + b"\xff" * 8),
        (-0.0, "float64", b"\x03" + bytes(8)),
        (float("nan"), "float64", b"\x03\x00\x00\x00\x00\x00\x00\xf8\x7f"),
        (b"\x00", "binary", b"\x05\x00"),
        (1, "timestamp", b"\x06\x01" + bytes(7)),
        ([None], "list<int64>", b"\x09\x00"),
    ],
)
def test_canonical_bytes_are_a_tag_and_the_value(value: object, text: str, expected: bytes):
    assert canonical_bytes(value, parse(text)) == expected


def test_a_retraction_that_arrived_after_the_question_is_not_seen():
    columns = {**COLUMNS, "available_at": "timestamp", "deleted": "bool"}
    view = view_of([agg.count()], columns=columns, id="id", available_at="available_at", deleted="deleted")
    oracle = Oracle(view, schema_of(columns), [event(at="09:00"), retraction(available="12:00")])
    assert oracle.answer(("c1",), as_of=instant("11:00"), known_at="as_of")["count"].value == 1
    assert oracle.answer(("c1",), as_of=instant("13:00"), known_at="as_of")["count"].value == 0
    assert oracle.counts().corrections == 1


def test_the_latest_event_time_is_that_of_the_facts_that_contribute():
    rows = [event("a", at="09:00", x=1.0), event("b", at="09:30", x=None)]
    view = view_of([agg.sum("x"), agg.count()], columns=COLUMNS, id="id")
    answer = Oracle(view, schema_of(COLUMNS), rows).answer(("c1",), as_of=instant("10:00"), known_at=None)
    assert (answer["x_sum"].latest, answer["count"].latest) == (instant("09:00"), instant("09:30"))


@given(st.data())
def test_the_order_of_the_log_and_a_repetition_of_it_change_no_answer(data: st.DataObject):
    history = data.draw(generated.histories(max_events=5))
    asked = data.draw(generated.questions(history, at_most=3))
    known_at = data.draw(generated.horizons(history))
    view = history.view(generated.every_operation({"x": "float64", "s": "string"}))
    repeated = list(history.rows) * 2 if "id" in history.source else list(history.rows)
    one = Oracle(view, history.schema, history.rows)
    other = Oracle(view, history.schema, repeated[::-1])
    for question in asked:
        expected = one.answer(question.keys, as_of=question.as_of, known_at=known_at)
        found = other.answer(question.keys, as_of=question.as_of, known_at=known_at)
        assert {n: bits(v.value) for n, v in found.items()} == {n: bits(v.value) for n, v in expected.items()}


def test_generated_questions_meet_what_is_hard():
    totals = dict.fromkeys(generated.SEEN, 0.0)
    seen = 0

    @given(st.data())
    def collect(data: st.DataObject) -> None:
        nonlocal seen
        history = data.draw(generated.histories())
        asked = data.draw(generated.questions(history))
        seen += 1
        for name, share in generated.statistics(history, asked).items():
            totals[name] += share

    collect()
    assert all(total / seen >= 0.1 for total in totals.values()), {n: t / seen for n, t in totals.items()}


def test_every_operation_is_generated_over_every_type_that_it_takes():
    features = generated.every_operation()
    assert {feature.op for feature in features} == set(OPERATIONS)
    assert len({feature.name for feature in features}) == len(features)
    schema: dict[str, DType] = schema_of({"card": "string", "ts": "timestamp", **generated.VALUES})
    columns = {name: str(dtype) for name, dtype in schema.items()}
    Oracle(view_of(features, columns=columns), schema, [])
