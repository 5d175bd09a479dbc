"""Faults in what an operation makes of its facts.

Time: none; the facts in the window are the right ones here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

import featurestore.kernel.evaluate
import featurestore.kernel.operators
from featurestore.kernel import moments, sums
from featurestore.kernel.edges import Edges
from tests.faults.fault import Patch, breaks


def _operator(patch: Patch, op: str, change: Callable[[Any, Any], Any]) -> None:
    real = featurestore.kernel.operators.OPERATORS[op]
    patch.setitem(featurestore.kernel.operators.OPERATORS, op, lambda work: change(real, work))  # type: ignore[arg-type]


def _seen(edges: Edges, entity: int, q: int) -> np.ndarray[Any, Any]:
    """The items that a question sees, in timeline order."""
    if edges.ordered:
        return np.arange(edges.lo[q], edges.hi[q])
    first = edges.offsets[entity]
    return np.setdiff1d(edges.enter[first : edges.hi[q]], edges.leave[first : edges.lo[q]])


def _per_question(edges: Edges) -> Iterator[tuple[int, np.ndarray[Any, Any]]]:
    for entity in range(len(edges.questions) - 1):
        for q in range(edges.questions[entity], edges.questions[entity + 1]):
            yield q, _seen(edges, entity, q)


@breaks(1)
def sums_of_floats_are_differences_of_float_prefixes(patch: Patch) -> None:
    def float_sum(values: Any, edges: Edges, **_: Any) -> Any:
        with np.errstate(all="ignore"):
            if edges.ordered:
                prefix = np.concatenate([[0.0], np.cumsum(values)])
                return prefix[edges.hi] - prefix[edges.lo], edges.hi > edges.lo
            entered = np.concatenate([[0.0], np.cumsum(values[edges.enter])])
            left = np.concatenate([[0.0], np.cumsum(values[edges.leave])])
            return entered[edges.hi] - left[edges.lo], edges.hi > edges.lo

    patch.setattr(sums, "float_sum", float_sum)


@breaks(1)
def a_sum_that_nothing_can_hold_wraps_around(patch: Patch) -> None:
    def integer_sum(values: Any, edges: Edges, **_: Any) -> Any:
        made = np.zeros(len(edges.hi), np.int64)
        for q, seen in _per_question(edges):
            made[q] = values[seen].sum()
        filled = edges.hi > edges.lo
        return made, filled, np.zeros(len(made), np.bool_)

    patch.setattr(sums, "integer_sum", integer_sum)


@breaks(1)
def a_default_replaces_a_flagged_sum(patch: Patch) -> None:
    real = featurestore.kernel.evaluate.with_default

    def with_default(feature: Any, result: Any) -> Any:
        if result.flagged is not None:
            result = replace(result, empty=result.empty | result.flagged)
        return real(feature, result)

    patch.setattr(featurestore.kernel.evaluate, "with_default", with_default)


@breaks(1)
def negative_zero_is_returned(patch: Patch) -> None:
    real = featurestore.kernel.evaluate.with_default

    def with_default(feature: Any, result: Any) -> Any:
        made = real(feature, result)
        if not pa.types.is_floating(made.type):
            return made
        values = [None if one is None else (-0.0 if one == 0 else one) for one in made.to_pylist()]
        return pa.array(values, made.type)

    patch.setattr(featurestore.kernel.evaluate, "with_default", with_default)


@breaks(1, only=lambda name: name.startswith("max_x"))
def nan_is_the_maximum(patch: Patch) -> None:
    real = featurestore.kernel.operators.order_codes
    patch.setattr(
        featurestore.kernel.operators,
        "order_codes",
        lambda array, nan="greatest": real(array, nan="greatest"),
    )


@breaks(1)
def ties_of_max_by_go_to_the_earliest_fact(patch: Patch) -> None:
    def max_by(_: Any, work: Any) -> Any:
        codes = featurestore.kernel.operators.order_codes(work.items.order.array, nan="least")
        position = featurestore.kernel.operators._most(work, ~codes, largest=False)
        return work.of_value(work.inputs.at(position))

    _operator(patch, "max_by", max_by)


@breaks(1)
def a_percentile_takes_the_lower_neighbour(patch: Patch) -> None:
    def quantile(values: Any, edges: Edges, items: Any, q: float, **_: Any) -> Any:
        made = np.zeros(len(edges.hi))
        for question, seen in _per_question(edges):
            ordered = np.sort(values[seen])
            if len(ordered):
                made[question] = ordered[math.floor((len(ordered) - 1) * q)]
        return made, edges.hi > edges.lo

    patch.setattr(featurestore.kernel.operators, "quantile", quantile)


@breaks(1)
def a_population_counts_one_less(patch: Patch) -> None:
    real = moments.float_moments
    patch.setattr(
        moments, "float_moments",
        lambda values, names, edges, **rest: real(
            values, [f"sample_{one}" if one in ("variance", "stddev") else one for one in names], edges,
            **rest,
        ),
    )  # fmt: skip


@breaks(1)
def a_null_is_counted(patch: Patch) -> None:
    def first(_: Any, work: Any) -> Any:
        # The first of all facts in the window, whether its input is null or not.
        edges = featurestore.kernel.evaluate.fact_edges(
            work.timeline, work.questions, window_us=work.feature.window_us, delay_us=work.feature.delay_us
        )
        facts = np.array([seen[0] if len(seen) else -1 for _, seen in _per_question(edges)], np.int64)
        items = np.arange(work.items.count) if work.items.fact is None else work.items.fact
        place = {int(fact): item for item, fact in enumerate(items.tolist())}
        return work.of_value(work.inputs.at(np.array([place.get(int(fact), -1) for fact in facts], np.int64)))

    _operator(patch, "first", first)
