"""Each operation over the items that each question sees: one small function an operation.

``OPERATORS`` has one for every name in ``operations.OPERATIONS``. An operator is given ``Work`` and returns a
``Result`` in the questions' sorted order; what a question sees was settled when the edges were made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.kernel import distinct, moments, sums
from featurestore.kernel.blocks import I64, Bools
from featurestore.kernel.edges import Edges
from featurestore.kernel.feature import Feature
from featurestore.kernel.finish import Result, decimals, lists, maps, numbers, seconds
from featurestore.kernel.items import Items, Values
from featurestore.kernel.quantile import quantile
from featurestore.kernel.questions import Questions
from featurestore.kernel.ranked import entity_order, entity_ranks, extreme, k_extreme, order_codes
from featurestore.kernel.versions import Timeline


@dataclass(frozen=True)
class Work:
    """What an operator is given: its feature, the items, and what each question sees of them."""

    feature: Feature
    items: Items
    edges: Edges
    timeline: Timeline
    questions: Questions
    threads: ThreadPoolExecutor | None

    @property
    def blocks(self) -> I64:
        """The items of entity e are ``[blocks[e], blocks[e + 1])``."""
        offsets = self.timeline.offsets
        return offsets if self.items.first is None else self.items.first[offsets]

    @property
    def seen(self) -> I64:
        """How many items each question sees."""
        return self.edges.hi - self.edges.lo

    @property
    def empty(self) -> Bools:
        made: Bools = self.edges.hi == self.edges.lo
        return made

    @property
    def values(self) -> pa.Array:
        """All values, as one array."""
        return self.inputs.array

    @property
    def inputs(self) -> Values:
        assert self.items.values is not None
        return self.items.values

    def of_value(self, values: pa.Array, *, flagged: Bools | None = None) -> Result:
        return Result(values, self.empty, flagged)


def _floats(array: pa.Array) -> NDArray[np.float64]:
    made: NDArray[np.float64] = array.to_numpy(zero_copy_only=False)
    return made


def _words(array: pa.Array) -> NDArray[np.uint64]:
    words = np.frombuffer(array.buffers()[1] or b"", np.uint64)
    return words[2 * array.offset : 2 * (array.offset + len(array))].reshape(-1, 2)


def _count(work: Work) -> Result:
    return work.of_value(pa.array(work.seen))


def _sum(work: Work) -> Result:
    match work.feature.input_type.kind:
        case "int64":
            totals, valid, flagged = sums.integer_sum(
                _integers(work.values), work.edges, threads=work.threads
            )
            return work.of_value(numbers(totals, valid), flagged=flagged)
        case "decimal":
            words, valid, flagged = sums.decimal_sum(_words(work.values), work.edges, threads=work.threads)
            return work.of_value(decimals(words, valid, work.feature.dtype.arrow), flagged=flagged)
    exact, valid = sums.float_sum(_floats(work.values), work.edges, threads=work.threads)
    return work.of_value(numbers(exact, valid))


def _integers(array: pa.Array) -> I64:
    made: I64 = array.to_numpy(zero_copy_only=False)
    return made


def _mean(work: Work) -> Result:
    dtype = work.feature.input_type
    match dtype.kind:
        case "int64":
            means, valid = sums.integer_mean(_integers(work.values), work.edges, threads=work.threads)
        case "decimal":
            means, valid = sums.decimal_mean(
                _words(work.values), dtype.scale, work.edges, threads=work.threads
            )
        case _:
            means, valid = sums.float_mean(_floats(work.values), work.edges, threads=work.threads)
    return work.of_value(numbers(means, valid))


def _moment(
    name: moments.Statistic, sample_name: moments.Statistic | None = None
) -> Callable[[Work], Result]:
    def operator(work: Work) -> Result:
        statistic = sample_name if sample_name is not None and work.feature.parameter("sample") else name
        dtype, edges, threads = work.feature.input_type, work.edges, work.threads
        match dtype.kind:
            case "int64":
                found = moments.integer_moments(_integers(work.values), [statistic], edges, threads=threads)
            case "decimal":
                words = _words(work.values)
                found = moments.decimal_moments(words, dtype.scale, [statistic], edges, threads=threads)
            case _:
                found = moments.float_moments(_floats(work.values), [statistic], edges, threads=threads)
        return work.of_value(numbers(*found[0]))

    return operator


def _extreme_value(*, largest: bool) -> Callable[[Work], Result]:
    def operator(work: Work) -> Result:
        # NaN is made the last choice; it wins only where there is nothing else.
        codes = order_codes(work.values, nan="least" if largest else "greatest")
        return work.of_value(work.inputs.at(_most(work, codes, largest=largest)))

    return operator


def _most(work: Work, codes: I64, *, largest: bool) -> I64:
    order = codes if work.edges.ordered else entity_order(codes, work.blocks, threads=work.threads)
    return extreme(order, work.edges, work.blocks, largest=largest, threads=work.threads)


def _extreme_by(*, largest: bool) -> Callable[[Work], Result]:
    def operator(work: Work) -> Result:
        assert work.items.order is not None
        codes = order_codes(work.items.order.array, nan="least" if largest else "greatest")
        # The later of two equals is the larger; the complement turns the order round and keeps that.
        position = _most(work, codes if largest else ~codes, largest=True)
        return work.of_value(work.inputs.at(position))

    return operator


def _end(*, last: bool) -> Callable[[Work], Result]:
    def operator(work: Work) -> Result:
        position = extreme(None, work.edges, work.blocks, largest=last, threads=work.threads)
        return work.of_value(work.inputs.at(position))

    return operator


def _k(work: Work) -> int:
    k = work.feature.parameter("k")
    assert isinstance(k, int)
    return k


def _k_ends(*, last: bool) -> Callable[[Work], Result]:
    def operator(work: Work) -> Result:
        found = k_extreme(None, work.edges, work.blocks, _k(work), largest=last, threads=work.threads)
        return work.of_value(lists(work.inputs, *found))

    return operator


def _k_extremes(*, largest: bool) -> Callable[[Work], Result]:
    def operator(work: Work) -> Result:
        codes = order_codes(work.values, nan="least" if largest else "greatest")
        order = entity_order(codes, work.blocks, threads=work.threads)
        skip = None
        if pa.types.is_floating(work.values.type):
            nans = np.isnan(_floats(work.values))
            skip = nans if nans.any() else None
        found = k_extreme(
            order, work.edges, work.blocks, _k(work), largest=largest, skip=skip, threads=work.threads
        )
        return work.of_value(lists(work.inputs, *found))

    return operator


def _ranks(work: Work) -> tuple[I64, Edges, I64, I64]:
    ranks, sizes = entity_ranks(order_codes(work.values), work.blocks, threads=work.threads)
    return ranks, work.edges, work.blocks, sizes


def _count_distinct(work: Work) -> Result:
    return work.of_value(pa.array(distinct.distinct(*_ranks(work), threads=work.threads)))


def _distinct_k(work: Work) -> Result:
    return work.of_value(
        lists(work.inputs, *distinct.distinct_k(*_ranks(work), _k(work), threads=work.threads))
    )


def _mode(work: Work) -> Result:
    return work.of_value(work.inputs.at(distinct.mode(*_ranks(work), threads=work.threads)))


def _histogram(work: Work) -> Result:
    k = work.feature.parameter("k")
    found = distinct.histogram(*_ranks(work), k=k if isinstance(k, int) else -1, threads=work.threads)
    return work.of_value(maps(work.inputs, *found))


def _percentile(work: Work) -> Result:
    q = work.feature.parameter("q")
    assert isinstance(q, float)
    values = as_floats(work.values)
    made, valid = quantile(values, work.edges, work.blocks, q, threads=work.threads)
    return work.of_value(numbers(made, valid))


def as_floats(array: pa.Array) -> NDArray[np.float64]:
    """Numbers rounded to the nearest float64."""
    if pa.types.is_decimal(array.type):
        # Arrow's own conversion rounds more than once; Python's is exact to the last bit.
        return np.fromiter((float(value) for value in array.to_pylist()), np.float64, len(array))
    return np.asarray(array.to_numpy(zero_copy_only=False), np.float64)


def _time_since(*, last: bool) -> Callable[[Work], Result]:
    def operator(work: Work) -> Result:
        position = extreme(None, work.edges, work.blocks, largest=last, threads=work.threads)
        fact = work.items.fact_of(position)
        valid = fact >= 0
        if not valid.any():
            return work.of_value(numbers(np.zeros(len(fact)), valid))
        event_time = work.timeline.event_time[fact]
        elapsed = np.where(valid, work.questions.as_of - event_time, 0)
        return work.of_value(numbers(seconds(elapsed), valid))

    return operator


OPERATORS: Mapping[str, Callable[[Work], Result]] = {
    "count": _count,
    "sum": _sum,
    "mean": _mean,
    "variance": _moment("variance", "sample_variance"),
    "stddev": _moment("stddev", "sample_stddev"),
    "skew": _moment("skew"),
    "kurtosis": _moment("kurtosis"),
    "min": _extreme_value(largest=False),
    "max": _extreme_value(largest=True),
    "first": _end(last=False),
    "last": _end(last=True),
    "first_k": _k_ends(last=False),
    "last_k": _k_ends(last=True),
    "min_by": _extreme_by(largest=False),
    "max_by": _extreme_by(largest=True),
    "top_k": _k_extremes(largest=True),
    "bottom_k": _k_extremes(largest=False),
    "count_distinct": _count_distinct,
    "distinct_k": _distinct_k,
    "mode": _mode,
    "histogram": _histogram,
    "percentile": _percentile,
    "time_since_first": _time_since(last=False),
    "time_since_last": _time_since(last=True),
    "bool_any": _extreme_value(largest=True),
    "bool_all": _extreme_value(largest=False),
}
