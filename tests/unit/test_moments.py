"""Moments are the exact rational ones rounded once, over any sliding set of items."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from live_intervals import Entity, bits, histories, history, words

from featurestore.kernel import moments
from featurestore.kernel.edges import Edges

NAN, INF = math.nan, math.inf
STATISTICS = ("variance", "sample_variance", "stddev", "sample_stddev", "skew", "kurtosis")

plain = st.floats(-1e6, 1e6) | st.integers(-20, 20).map(float)
narrow = st.floats(1.0, 1.0000001) | st.floats(-1e-150, 1e-150) | st.floats(-1e160, 1e160)
awkward = st.sampled_from(
    [0.0, -0.0, 5e-324, -5e-324, 2.0**-1022, 1e300, -1e300, 1.7976931348623157e308, 1.0]
)
anything = st.floats() | awkward | st.sampled_from([NAN, INF, -INF])
digits_38 = 10**38 - 1


def rounded(value: Fraction) -> float:
    """Nearest float64, ties to even; beyond it an infinity; never -0.0."""
    try:
        return value.numerator / value.denominator + 0.0
    except OverflowError:
        return INF if value > 0 else -INF


def divided(a: float, b: float) -> float:
    """By IEEE 754, with the one NaN."""
    with np.errstate(all="ignore"):
        quotient = float(np.float64(a) / np.float64(b))
    return NAN if math.isnan(quotient) else quotient


def truth(statistic: str, values: list[Fraction], special: bool) -> float | None:
    """The statistic as semantics defines it, None for null; ``special``: a NaN or infinity is there too."""
    n = len(values)
    if n < {"skew": 3, "kurtosis": 4}.get(statistic, 2 if "sample" in statistic else 1):
        return None
    if special:
        return NAN
    mean = sum(values, Fraction()) / n

    def moment(order: int, divisor: int = n) -> float:
        return rounded(sum(((x - mean) ** order for x in values), Fraction()) / divisor)

    m2 = moment(2)
    match statistic:
        case "variance":
            return m2
        case "stddev":
            return math.sqrt(m2)
        case "sample_variance":
            return moment(2, n - 1)
        case "sample_stddev":
            return math.sqrt(moment(2, n - 1))
    if m2 == 0.0:
        return None
    if statistic == "skew":
        return divided(moment(3), m2 * math.sqrt(m2)) + 0.0
    return divided(moment(4), m2 * m2) - 3.0


def check(answers, statistics, seen) -> None:
    for statistic, (values, valid) in zip(statistics, answers, strict=True):
        for answer, is_value, live in zip(values.tolist(), valid.tolist(), seen, strict=True):
            special = not all(map(math.isfinite, live))
            expected = truth(statistic, [Fraction(0) if special else Fraction(x) for x in live], special)
            assert is_value == (expected is not None)
            assert bits(answer) == bits(0.0 if expected is None else expected)


some = st.lists(st.sampled_from(STATISTICS), min_size=1, max_size=3) | st.just(list(STATISTICS))


@st.composite
def float_histories(draw):
    return histories(draw, draw(st.sampled_from([plain, narrow, awkward, anything])))


@st.composite
def integer_histories(draw):
    return histories(draw, draw(st.sampled_from([st.integers(-(2**63), 2**63 - 1), st.integers(-100, 100)])))


@st.composite
def decimal_histories(draw):
    least = draw(st.sampled_from([digits_38, 2**64 + 5, 1000]))
    return histories(draw, st.integers(-least, least) | st.sampled_from([least, -least, 0]))


@given(float_histories(), some)
def test_moments_of_floats_are_the_exact_ones_rounded_once(case, statistics):
    answers = moments.float_moments(np.array(case.values, np.float64), statistics, case.edges)
    check(answers, statistics, case.seen)


@given(integer_histories(), some)
def test_moments_of_integers_are_the_exact_ones_rounded_once(case, statistics):
    answers = moments.integer_moments(np.array(case.values, np.int64), statistics, case.edges)
    check(answers, statistics, case.seen)


@given(decimal_histories(), some, st.integers(0, 38))
def test_moments_of_decimals_are_the_exact_ones_rounded_once(case, statistics, scale):
    answers = moments.decimal_moments(words(case.values), scale, statistics, case.edges)
    check(answers, statistics, [[Fraction(x, 10**scale) for x in live] for live in case.seen])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], [None, None, None, None, None, None]),
        ([3.0], [0.0, None, 0.0, None, None, None]),
        ([1.0, 3.0], [1.0, 2.0, 1.0, math.sqrt(2.0), None, None]),
        ([2.0, 2.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0, None, None]),
        ([0.0, 0.0, 3.0], [2.0, 3.0, math.sqrt(2.0), math.sqrt(3.0), 2.0 / (2.0 * math.sqrt(2.0)), None]),
        ([1.0, 2.0, 3.0, 4.0], [1.25, 5 / 3, math.sqrt(1.25), math.sqrt(5 / 3), 0.0, 2.5625 / 1.5625 - 3]),
        ([1e200, -1e200, 0.0, 0.0], [INF, INF, INF, INF, 0.0, NAN]),
        ([5e-324, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, None, None]),  # the rounded m2 is 0
        ([NAN], [NAN, None, NAN, None, None, None]),
        ([INF, 1.0, 2.0, 3.0], [NAN, NAN, NAN, NAN, NAN, NAN]),
    ],
)
def test_moments_by_hand(values, expected):
    case = history([Entity([(value, 0, 9) for value in values], asked=[5])], ordered=True)
    answers = moments.float_moments(np.array(values, np.float64), STATISTICS, case.edges)
    found = [float(value[0]) if valid[0] else None for value, valid in answers]
    assert [x if x is None else bits(x) for x in found] == [x if x is None else bits(x) for x in expected]


def test_the_widest_sets_are_exact():
    """The least and the greatest float together: S4 has more than 8,000 bits."""
    values = [5e-324, 1.7976931348623157e308, 1.0, -1.7976931348623157e308, 1e-300, -5e-324, 1e300]
    items = [(value, at, at + 5) for at, value in enumerate(values)]
    case = history([Entity(items, asked=range(20))], ordered=True)
    check(moments.float_moments(np.array(case.values), STATISTICS, case.edges), STATISTICS, case.seen)


def test_nan_leaves_cleanly():
    items = [(1.0, 0, 9), (4.0, 0, 9), (NAN, 1, 3), (INF, 2, 5)]
    case = history([Entity(items, asked=[1, 2, 4, 5, 6])], ordered=False)
    ((answers, valid),) = moments.float_moments(np.array(case.values), ["variance"], case.edges)
    assert valid.all()
    assert [bits(answer) for answer in answers] == [bits(x) for x in [2.25, NAN, NAN, NAN, 2.25]]


@pytest.mark.parametrize("items", [1000, 70_000])
def test_many_items_agree_with_numpy_on_any_number_of_threads(items):
    values = np.random.default_rng(5).gamma(2.0, 30.0, items)
    hi = np.arange(items, 0, -items // 7)[::-1].copy()
    lo = np.maximum(hi - items // 2, 0)
    positions = np.arange(items)
    edges = Edges(positions, positions, np.array([0, items]), np.array([0, hi.size]), hi, lo, True)
    alone = moments.float_moments(values, STATISTICS, edges)
    for q, (start, stop) in enumerate(zip(lo.tolist(), hi.tolist(), strict=True)):
        live = values[start:stop]
        m2, m3, m4 = (np.mean((live - live.mean()) ** order) for order in (2, 3, 4))
        expected = [m2, np.var(live, ddof=1), np.sqrt(m2), np.std(live, ddof=1), m3 / m2**1.5, m4 / m2**2 - 3]
        assert [answers[q] for answers, _ in alone] == pytest.approx(expected, rel=1e-9)
    with ThreadPoolExecutor(2) as threads:
        shared = moments.float_moments(values, STATISTICS, edges, threads=threads)
    assert [answers.tobytes() for answers, _ in shared] == [answers.tobytes() for answers, _ in alone]
