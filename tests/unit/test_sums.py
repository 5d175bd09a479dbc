"""Sums and means are the exact ones rounded once, over any sliding set of items."""

from __future__ import annotations

import math
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from live_intervals import Entity, bits, histories, history, number, words

from featurestore.kernel import exact, sums
from featurestore.kernel.edges import Edges

NAN, INF = float("nan"), float("inf")
LARGEST = sys.float_info.max

plain = st.floats(-1e6, 1e6)
awkward = st.sampled_from(
    [
        0.0,
        -0.0,
        5e-324,
        -5e-324,
        2.2250738585072014e-308,
        1e300,
        -1e300,
        LARGEST,
        -LARGEST,
        1.0,
        2.0**53,
        2.0**-53,
    ]
)
anything = st.floats() | awkward | st.sampled_from([NAN, INF, -INF])
int64s = st.integers(-(2**63), 2**63 - 1) | st.integers(-100, 100) | st.sampled_from([2**63 - 1, -(2**63)])
digits_38 = 10**38 - 1
decimals = (
    st.integers(-digits_38, digits_38) | st.integers(-1000, 1000) | st.sampled_from([digits_38, -digits_38])
)


def rounded(value: Fraction) -> float:
    """Nearest float64, ties to even; beyond it an infinity; never -0.0."""
    try:
        return value.numerator / value.denominator + 0.0
    except OverflowError:
        return INF if value > 0 else -INF


def true_sum(values: list[float]) -> float:
    if any(map(math.isnan, values)) or {INF, -INF} <= set(values):
        return NAN
    if infinities := [value for value in values if math.isinf(value)]:
        return infinities[0]
    return rounded(sum(map(Fraction, values), Fraction()))


def check(answers, valid, seen, truth) -> None:
    for answer, is_value, values in zip(answers.tolist(), valid.tolist(), seen, strict=True):
        assert is_value == bool(values)
        assert bits(answer) == bits(truth(values) if values else 0.0)


@st.composite
def float_histories(draw):
    return histories(draw, draw(st.sampled_from([plain, awkward, anything])))


@st.composite
def integer_histories(draw):
    return histories(draw, draw(st.sampled_from([int64s, st.integers(-100, 100)])))


@st.composite
def decimal_histories(draw):
    return histories(draw, draw(st.sampled_from([decimals, st.integers(-1000, 1000)])))


@given(float_histories())
def test_the_sum_of_floats_is_the_exact_sum_rounded_once(case):
    values = np.array(case.values, np.float64)
    check(*sums.float_sum(values, case.edges), case.seen, true_sum)
    check(*sums.float_mean(values, case.edges), case.seen, lambda seen: true_sum(seen) / len(seen) + 0.0)


@given(integer_histories())
def test_the_sum_of_integers_is_exact_or_flagged(case):
    values = np.array(case.values, np.int64)
    answers, valid, flagged = sums.integer_sum(values, case.edges)
    for q, seen in enumerate(case.seen):
        fits = -(2**63) <= sum(seen) < 2**63
        assert (bool(valid[q]), bool(flagged[q])) == (bool(seen) and fits, not fits)
        assert answers[q] == (sum(seen) if fits else 0)
    check(*sums.integer_mean(values, case.edges), case.seen, lambda seen: float(sum(seen)) / len(seen))


@given(decimal_histories(), st.integers(0, 38))
def test_the_sum_of_decimals_is_exact_or_flagged(case, scale):
    values = words(case.values)
    answers, valid, flagged = sums.decimal_sum(values, case.edges)
    for q, seen in enumerate(case.seen):
        fits = abs(sum(seen)) < 10**38
        assert (bool(valid[q]), bool(flagged[q])) == (bool(seen) and fits, not fits)
        assert number(answers[q]) == (sum(seen) if fits else 0)
    means, valid = sums.decimal_mean(values, scale, case.edges)
    check(means, valid, case.seen, lambda seen: rounded(Fraction(sum(seen), 10**scale)) / len(seen))


@pytest.mark.parametrize(
    ("values", "total"),
    [
        ([1e308, 1e308], INF),
        ([-1e308, -1e308], -INF),
        ([1e308, 1e308, -1e308], 1e308),
        ([LARGEST, 2.0**970], INF),  # half of the last place: the tie goes up, out of range
        ([LARGEST, math.nextafter(2.0**970, 0)], LARGEST),
        ([1e300, 5e-324, -1e300], 5e-324),
        ([1.0, 2.0**-53], 1.0),
        ([1.0, 2.0**-53, 5e-324], 1.0000000000000002),
        ([-1.0, -(2.0**-53), -5e-324], -1.0000000000000002),
        ([2.2250738585072014e-308, -5e-324], 2.225073858507201e-308),
        ([-0.0], 0.0),
        ([1.5, -1.5], 0.0),
        ([INF, 1.0], INF),
        ([INF, -INF], NAN),
        ([-INF, NAN], NAN),
    ],
)
def test_a_sum_by_hand(values, total):
    case = history([Entity([(value, 0, 9) for value in values], asked=[5])], ordered=True)
    (answer,), (valid,) = sums.float_sum(np.array(values), case.edges)
    assert valid
    assert bits(answer) == bits(total)


@pytest.mark.parametrize("spread", [1.0, 1e200])
def test_nan_and_infinities_leave_cleanly(spread):
    items = [(0.1, 0, 9), (spread, 0, 9), (NAN, 1, 3), (INF, 2, 5), (-INF, 4, 7)]
    case = history([Entity(items, asked=[1, 2, 4, 5, 6, 8])], ordered=False)
    answers, _ = sums.float_sum(np.array(case.values), case.edges)
    total = 0.1 + spread
    assert [bits(answer) for answer in answers] == [bits(x) for x in [total, NAN, INF, NAN, -INF, total]]


def test_a_read_only_view_is_taken():
    case = history([Entity([(1.5, 0, 9), (2.0, 0, 9)], asked=[5])], ordered=True)
    values = np.frombuffer(np.array([1.5, 2.0]).tobytes())
    assert not values.flags.writeable
    assert sums.float_sum(values, case.edges)[0].tolist() == [3.5]


def many(items: int, entities: int) -> Edges:
    """Entities of very unequal size, with a question at every third item about the last hundred."""
    offsets = (np.linspace(0, 1, entities + 1) ** 3 * items).astype(np.int64)
    hi = np.arange(3, items, 3)
    questions = np.searchsorted(hi, offsets, side="right")
    questions[0] = 0
    lo = np.maximum(hi - 100, offsets[np.searchsorted(questions, np.arange(hi.size), side="right") - 1])
    positions = np.arange(items)
    return Edges(positions, positions, offsets, questions, hi, lo, True)


def test_large_entities_agree_with_fsum_on_any_number_of_threads():
    edges = many(60_000, 50)
    random = np.random.default_rng(3)
    with ThreadPoolExecutor(3) as threads:
        for values in (
            random.gamma(2.0, 30.0, 60_000),
            random.normal(size=60_000) * 10.0 ** random.integers(-90, 90, 60_000),
        ):
            alone, valid = sums.float_sum(values, edges)
            assert valid.all()
            assert alone.tolist() == [
                math.fsum(values[lo:hi]) for lo, hi in zip(edges.lo.tolist(), edges.hi.tolist(), strict=True)
            ]
            shared, _ = sums.float_sum(values, edges, threads=threads)
            assert shared.tobytes() == alone.tobytes()
        whole = random.integers(-(2**40), 2**40, 60_000)
        prefix = np.concatenate([[0], np.cumsum(whole)])
        answers, _, _ = sums.integer_sum(whole, edges, threads=threads)
        assert (answers == prefix[edges.hi] - prefix[edges.lo]).all()


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9)), min_size=1, max_size=30), st.integers(1, 8))
def test_entity_ranges_cover_every_entity_once(sizes, parts):
    offsets = np.cumsum([0, *(items for items, _ in sizes)])
    questions = np.cumsum([0, *(asked for _, asked in sizes)])
    ranges = list(exact.entity_ranges(offsets, questions, parts))
    assert len(ranges) <= parts
    assert [e for e0, e1 in ranges for e in range(e0, e1)] == list(range(len(sizes)))
