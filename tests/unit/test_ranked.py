"""Order statistics over sweeps against an oracle that looks at the set of live items of each question."""

from __future__ import annotations

import datetime
import math
import struct
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.kernel.distinct import distinct, distinct_k, histogram, mode
from featurestore.kernel.edges import Edges
from featurestore.kernel.quantile import quantile
from featurestore.kernel.ranked import (
    entity_order,
    entity_ranks,
    extreme,
    first_last,
    k_extreme,
    order_codes,
)

FLOATS = (-math.inf, -1.5, -0.0, 0.0, 1.5, 1e300, math.inf, math.nan)


@dataclass(frozen=True)
class History:
    """Items in entity blocks, live on (start, end], and questions; ``live[q]`` is what the oracle sees."""

    values: np.ndarray
    items: np.ndarray
    edges: Edges
    live: list[list[int]]
    entity: list[int]

    @property
    def codes(self) -> np.ndarray:
        return order_codes(pa.array(self.values))


def history(entities: list[tuple[list[tuple[float, int, int]], list[int]]], *, ordered: bool) -> History:
    """``entities``: the items (value, start, end) in timeline order, and the instants of the questions."""
    enter: list[int] = []
    leave: list[int] = []
    hi: list[int] = []
    lo: list[int] = []
    values: list[float] = []
    live: list[list[int]] = []
    entity: list[int] = []
    items, offsets, questions = [0], [0], [0]
    for e, (facts, instants) in enumerate(entities):
        first, begin = len(values), len(enter)
        at = {first + i: span[1:] for i, span in enumerate(facts) if ordered or span[1] < span[2]}
        enter += sorted(at, key=lambda item: (at[item][0], item))
        leave += sorted(at, key=lambda item: (at[item][1], item))
        for instant in sorted(instants):
            hi.append(begin + sum(start < instant for start, _ in at.values()))
            lo.append(begin + sum(end < instant for _, end in at.values()))
            live.append([item for item, (start, end) in at.items() if start < instant <= end])
            entity.append(e)
        values += [value for value, _, _ in facts]
        items.append(len(values))
        offsets.append(len(enter))
        questions.append(len(hi))
    if ordered:
        assert enter == leave == list(range(len(values)))
    edges = Edges(*(np.array(x, np.int64) for x in (enter, leave, offsets, questions, hi, lo)), ordered)
    return History(np.array(values, np.float64), np.array(items, np.int64), edges, live, entity)


@st.composite
def histories(draw: st.DrawFn, floats: tuple[float, ...] = FLOATS) -> History:
    """Up to five entities, some empty; ordered runs of one window, or any spans (empty ones included)."""
    ordered = draw(st.booleans())
    window = draw(st.integers(1, 15))
    value = st.sampled_from(floats)
    instant = st.integers(0, 30)
    entities = []
    for _ in range(draw(st.integers(0, 5))):
        if ordered:
            starts = sorted(draw(st.lists(instant, max_size=25)))
            facts = [(draw(value), start, start + window) for start in starts]
        else:
            facts = draw(st.lists(st.tuples(value, instant, instant), max_size=25))
        entities.append((facts, draw(st.lists(instant, max_size=10))))
    return history(entities, ordered=ordered)


def large_history(*, ordered: bool, seed: int) -> History:
    """One entity of 9,000 items (three levels of 64) among small ones, few distinct instants, many ties."""
    random = np.random.default_rng(seed)
    entities = []
    for n in (3, 9000, 0, 70, 300):
        starts = np.sort(random.integers(0, 1000, n))
        ends = starts + (200 if ordered else random.integers(-5, 400, n))
        values = np.round(random.normal(size=n), 2) if n < 9000 else random.normal(size=n)
        values[random.random(n) < 0.1] = 1.0
        facts = list(zip(values.tolist(), starts.tolist(), ends.tolist(), strict=True))
        entities.append((facts, random.integers(0, 1300, 25).tolist()))
    return history(entities, ordered=ordered)


LARGE = [large_history(ordered=ordered, seed=1) for ordered in (True, False)]


@pytest.fixture(params=[None, 2], ids=["calling thread", "two threads"], scope="module")
def threads(request: pytest.FixtureRequest) -> Iterator[ThreadPoolExecutor | None]:
    if request.param is None:
        yield None
        return
    with ThreadPoolExecutor(request.param) as pool:
        yield pool


def runs(offsets: np.ndarray, *arrays: np.ndarray) -> list[Any]:
    """The entries of each question; tuples when there are several arrays."""
    rows = arrays[0].tolist() if len(arrays) == 1 else list(zip(*(a.tolist() for a in arrays), strict=True))
    assert offsets[0] == 0 and offsets[-1] == len(rows)
    return [rows[a:b] for a, b in pairwise(offsets)]


def bits(values: Any) -> list[bytes]:
    return [struct.pack("<d", value) for value in values]


# --- codes, ranks and places ---


def test_every_type_is_coded_in_the_order_of_its_values() -> None:
    midnight = datetime.datetime(1969, 12, 31, tzinfo=datetime.UTC)
    for ascending, kind in [
        ([-(2**63), -1, 0, 2**63 - 1], pa.int64()),
        ([-math.inf, -2.0, -5e-324, 0.0, 5e-324, 2.0, math.inf, math.nan], pa.float64()),
        ([False, True], pa.bool_()),
        ([midnight, midnight + datetime.timedelta(days=9)], pa.timestamp("us", "UTC")),
        ([datetime.date(1900, 1, 1), datetime.date(2000, 1, 1)], pa.date32()),
        (["", "A", "a", "aa", "\u00e9", "\uffff", "\U0001f600"], pa.string()),
        ([b"", b"\0", b"a", b"\xff"], pa.binary()),
        ([Decimal(text) for text in ("-10.50", "-2.00", "0.00", "9.00", "10.00")], pa.decimal128(9, 2)),
    ]:  # fmt: skip
        array = pa.array([*ascending, *reversed(ascending)], kind)
        codes = order_codes(array)
        assert codes.dtype == np.int64
        assert (np.diff(codes[: len(ascending)]) > 0).all(), kind
        assert codes.tolist() == codes.tolist()[::-1]
        assert (order_codes(pa.chunked_array([array.slice(0, 1), array.slice(1)])) == codes).all()
        ranks = np.argsort(np.argsort(codes[1 : len(ascending)]))
        assert (np.argsort(np.argsort(order_codes(array.slice(1, len(ascending) - 1)))) == ranks).all()


def test_nan_is_one_value_above_or_below_all_numbers_and_zeros_are_equal() -> None:
    (other_nan,) = struct.unpack("<d", struct.pack("<Q", 0xFFF0000000000001))
    array = pa.array(np.array([math.nan, other_nan, -math.inf, 0.0, -0.0]))
    high, low = order_codes(array), order_codes(array, nan="least")
    assert high[0] == high[1] == high.max() and low[0] == low[1] == low.min()
    assert low[0] < low[2] and high[3] == high[4]


def test_nulls_and_lists_have_no_order() -> None:
    with pytest.raises(ValueError, match="1 nulls have no order"):
        order_codes(pa.array([1, None]))
    with pytest.raises(TypeError, match="list<item: int64> have no order"):
        order_codes(pa.array([[1]]))


@given(st.lists(st.lists(st.integers(-3, 3) | st.integers(-(2**63), 2**63 - 1), max_size=90), max_size=4))
def test_ranks_are_dense_and_places_unique_within_each_entity(blocks: list[list[int]]) -> None:
    codes = np.array([code for block in blocks for code in block], np.int64)
    items = np.cumsum([0, *map(len, blocks)], dtype=np.int64)
    ranks, cardinality = entity_ranks(codes, items)
    places = entity_order(codes, items)
    assert cardinality.tolist() == [len(set(block)) for block in blocks]
    assert ranks.tolist() == [sorted(set(block)).index(code) for block in blocks for code in block]
    by_place = [sorted(range(len(block)), key=lambda i, block=block: (block[i], i)) for block in blocks]
    assert places.tolist() == [order.index(i) for order in by_place for i in range(len(order))]


def test_ranks_of_a_long_entity_are_dense(threads: ThreadPoolExecutor | None) -> None:
    codes = np.random.default_rng(2).integers(-(2**63), 2**63 - 1, 5000) // 2**40 * 2**40
    items = np.array([0, 0, 4000, 4000, 5000])
    ranks, cardinality = entity_ranks(codes, items, threads=threads)
    places = entity_order(codes, items, threads=threads)
    for a, b, size in [(0, 4000, cardinality[1]), (4000, 5000, cardinality[3])]:
        values, expected = np.unique(codes[a:b], return_inverse=True)
        assert (ranks[a:b] == expected).all() and size == len(values)
        assert (np.argsort(codes[a:b], kind="stable") == np.argsort(places[a:b])).all()


# --- extremes ---


def check_extremes(h: History, threads: ThreadPoolExecutor | None) -> None:
    codes = h.codes
    order = entity_order(codes, h.items)
    for largest, choose in ((True, max), (False, min)):
        expected = [choose(live, key=lambda i: (codes[i], i), default=-1) for live in h.live]
        assert extreme(order, h.edges, h.items, largest=largest, threads=threads).tolist() == expected
        if h.edges.ordered:
            assert extreme(codes, h.edges, h.items, largest=largest, threads=threads).tolist() == expected
            ends = first_last(h.edges, last=largest).tolist()
            assert ends == [choose(live, default=-1) for live in h.live]
        in_time = extreme(None, h.edges, h.items, largest=largest, threads=threads).tolist()
        assert in_time == [choose(live, default=-1) for live in h.live]


def check_k_extremes(h: History, k: int, threads: ThreadPoolExecutor | None) -> None:
    codes, skip = h.codes, np.isnan(h.values)
    order = entity_order(codes, h.items)
    for largest in (True, False):
        found = runs(*k_extreme(None, h.edges, h.items, k, largest=largest, threads=threads))
        assert found == [sorted(live, reverse=largest)[:k] for live in h.live]
        ranked = [sorted(live, key=lambda i: (codes[i], i), reverse=largest) for live in h.live]
        found = runs(*k_extreme(order, h.edges, h.items, k, largest=largest, threads=threads))
        assert found == [live[:k] for live in ranked]
        kept = [[i for i in live if not skip[i]] or live for live in ranked]
        found = runs(*k_extreme(order, h.edges, h.items, k, largest=largest, skip=skip, threads=threads))
        assert found == [live[:k] for live in kept]
        found = runs(*k_extreme(None, h.edges, h.items, k, largest=largest, skip=skip, threads=threads))
        assert found == [sorted(live, reverse=largest)[:k] for live in kept]


@given(histories())
def test_the_extreme_is_the_live_item_of_the_greatest_or_least_order(h: History) -> None:
    check_extremes(h, None)


@given(histories(), st.integers(1, 6))
def test_the_k_extremes_are_the_first_of_the_live_items_in_order(h: History, k: int) -> None:
    check_k_extremes(h, k, None)


# --- quantiles ---


def expected_quantile(values: np.ndarray, q: float) -> float:
    """The rule of the semantics, step by step."""
    if len(values) == 0 or np.isnan(values).any():
        return math.nan
    ascending = sorted((values + 0.0).tolist())
    h = (len(values) - 1) * q
    t = h - math.floor(h)
    a = ascending[math.floor(h)]
    b = ascending[min(math.floor(h) + 1, len(values) - 1)]
    if a == b or t == 0:
        return a
    result = a + (b - a) * t if t < 0.5 else b - (b - a) * (1 - t)
    return math.nan if math.isnan(result) else result + 0.0


def check_quantiles(h: History, q: float, threads: ThreadPoolExecutor | None) -> None:
    found, valid = quantile(h.values, h.edges, h.items, q, threads=threads)
    assert valid.tolist() == [len(live) > 0 for live in h.live]
    expected = [expected_quantile(h.values[live], q) for live in h.live]
    assert bits(found) == bits(expected)
    order = entity_order(h.codes, h.items)
    shared, _ = quantile(h.values, h.edges, h.items, q, order=order, threads=threads)
    assert bits(shared) == bits(found)
    for live, result in zip(h.live, found.tolist(), strict=True):
        if live and math.isfinite(result) and np.isfinite(h.values[live]).all():
            assert bits([result]) == bits([float(np.quantile(h.values[live], q)) + 0.0])


FRACTIONS = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.95, 1.0]) | st.floats(0, 1)


@given(histories(), FRACTIONS)
def test_a_quantile_follows_the_rule_to_the_bit(h: History, q: float) -> None:
    check_quantiles(h, q, None)


@given(histories(floats=(-3.3, -0.1, 0.1, 0.7, 1e16, 123456.789)), FRACTIONS)
def test_a_quantile_of_finite_values_is_that_of_numpy(h: History, q: float) -> None:
    check_quantiles(h, q, None)


# --- how often each value is live ---


def check_frequencies(h: History, k: int, threads: ThreadPoolExecutor | None) -> None:
    ranks, cardinality = entity_ranks(h.codes, h.items)
    arguments = (ranks, h.edges, h.items, cardinality)
    tallies = [Counter(ranks[live].tolist()) for live in h.live]
    assert distinct(*arguments, threads=threads).tolist() == [len(tally) for tally in tallies]

    most = [[rank for rank, _ in sorted(t.items(), key=lambda entry: (-entry[1], entry[0]))] for t in tallies]
    modes = mode(*arguments, threads=threads).tolist()
    assert [-1 if item < 0 else ranks[item] for item in modes] == [
        order[0] if order else -1 for order in most
    ]

    def same_entity(rows: list[list[int]]) -> bool:
        return all(
            h.items[e] <= i < h.items[e + 1] for e, row in zip(h.entity, rows, strict=True) for i in row
        )

    assert same_entity([[item] if item >= 0 else [] for item in modes])
    for limit in (-1, k):
        offsets, items, counts = histogram(*arguments, k=limit, threads=threads)
        assert same_entity(runs(offsets, items))
        keep = [order if limit < 0 else order[:limit] for order in most]
        expected = [
            [(rank, t[rank]) for rank in sorted(order)] for t, order in zip(tallies, keep, strict=True)
        ]
        assert runs(offsets, ranks[items], counts) == expected

    newest = [{ranks[i]: i for i in sorted(live)}.values() for live in h.live]
    assert runs(*distinct_k(*arguments, k, threads=threads)) == [sorted(x, reverse=True)[:k] for x in newest]


@given(histories(), st.integers(1, 6))
def test_values_are_counted_as_often_as_they_are_live(h: History, k: int) -> None:
    check_frequencies(h, k, None)


# --- entities of many levels, and threads ---


@pytest.mark.parametrize("h", LARGE, ids=["ordered", "spans"])
def test_long_and_short_entities_agree_with_the_oracle_in_any_number_of_threads(
    h: History, threads: ThreadPoolExecutor | None
) -> None:
    check_extremes(h, threads)
    check_k_extremes(h, 5, threads)
    check_frequencies(h, 5, threads)
    for q in (0.0, 0.37, 0.5, 0.999):
        check_quantiles(h, q, threads)


def test_no_entities_and_no_questions_give_empty_answers() -> None:
    for h in (history([], ordered=True), history([([(1.0, 0, 5)], [])], ordered=False)):
        check_extremes(h, None)
        check_k_extremes(h, 2, None)
        check_frequencies(h, 2, None)
        check_quantiles(h, 0.5, None)


def test_a_quantile_between_infinities_is_what_the_formula_gives() -> None:
    facts = [(-math.inf, 0, 9), (math.inf, 1, 10)]
    h = history([(facts, [5])], ordered=True)
    assert math.isnan(quantile(h.values, h.edges, h.items, 0.75)[0][0])
    assert quantile(h.values, h.edges, h.items, 1.0)[0][0] == math.inf


def test_halfway_between_two_values_the_quantile_counts_down_from_the_greater() -> None:
    h = history([([(0.1, 0, 9), (1.7, 0, 9)], [5])], ordered=True)
    assert 0.1 + (1.7 - 0.1) * 0.5 == 0.8999999999999999
    assert quantile(h.values, h.edges, h.items, 0.5)[0].tolist() == [0.9]
