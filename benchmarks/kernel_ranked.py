"""Seconds for order statistics over 10M items and 1M questions: many entities or one, wide windows or narrow.

    python benchmarks/kernel_ranked.py [items] [questions]

A block is one shape: ``ordered`` windows of a timeline, or ``spans`` whose items leave in another order than
they came. One thread; medians of three; the data is made from a fixed seed.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

from featurestore.kernel.distinct import distinct, distinct_k, histogram, mode
from featurestore.kernel.edges import Edges
from featurestore.kernel.order import entity_order, entity_ranks, float_codes
from featurestore.kernel.quantile import quantile
from featurestore.kernel.ranked import extreme, k_extreme

DAY = 86_400 * 1_000_000
YEAR = 365 * DAY


def edges_of(n: int, nq: int, entities: int, window: int, *, ordered: bool) -> tuple[np.ndarray, Edges]:
    """Items at random instants of a year, live for ``window`` (``spans``: for a random part of it)."""
    random = np.random.default_rng(7)
    items = np.linspace(0, n, entities + 1).astype(np.int64)
    questions = np.linspace(0, nq, entities + 1).astype(np.int64)
    # The entity in the high part of each instant makes every merge one searchsorted: 2 years apart, since an
    # item ends within 13 months; 100,000 * 2 years are 6.3e18 us, which int64 holds.
    years = np.arange(entities, dtype=np.int64) * 2 * YEAR
    start = np.sort(np.repeat(years, np.diff(items)) + random.integers(0, YEAR, n))
    end = start + (window if ordered else random.integers(1, window + 1, n))
    asked = np.sort(np.repeat(years, np.diff(questions)) + random.integers(0, YEAR, nq))
    leave = np.arange(n) if ordered else np.argsort(end, kind="stable")
    hi, lo = np.searchsorted(start, asked), np.searchsorted(end[leave], asked)
    return items, Edges(np.arange(n), leave, items, questions, hi, lo, ordered)


def seconds(run: Callable[[], object]) -> float:
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def measure(values: np.ndarray, items: np.ndarray, edges: Edges) -> dict[str, float]:
    codes = float_codes(values)
    order = entity_order(codes, items)
    ranks, cardinality = entity_ranks(codes, items)
    few, few_cardinality = entity_ranks(codes % 50, items)
    steps: dict[str, Callable[[], object]] = {
        "entity_order": lambda: entity_order(codes, items),
        "entity_ranks": lambda: entity_ranks(codes, items),
        "max": lambda: extreme(codes if edges.ordered else order, edges, items, largest=True),
        "last": lambda: extreme(None, edges, items, largest=True),
        "top_5": lambda: k_extreme(order, edges, items, 5, largest=True),
        "last_5": lambda: k_extreme(None, edges, items, 5, largest=True),
        "p95": lambda: quantile(values, edges, items, 0.95, order=order),
        "distinct": lambda: distinct(ranks, edges, items, cardinality),
        "mode": lambda: mode(ranks, edges, items, cardinality),
        "histogram, k=5": lambda: histogram(ranks, edges, items, cardinality, k=5),
        "histogram of 50 values": lambda: histogram(few, edges, items, few_cardinality),
        "distinct_5": lambda: distinct_k(ranks, edges, items, cardinality, 5),
    }
    return {name: seconds(run) for name, run in steps.items()}


def main(n: int = 10_000_000, nq: int = 1_000_000) -> None:
    values = np.round(np.random.default_rng(8).lognormal(3, 2, n), 2)
    for entities in (100_000, 1):
        for ordered in (True, False):
            shape = "ordered" if ordered else "spans"
            narrow, wide = (
                measure(values, *edges_of(n, nq, entities, window, ordered=ordered))
                for window in (5 * DAY // 1440, 30 * DAY)
            )
            print(f"{entities} entities, {shape}: 5 minutes / 30 days")
            for name in wide:
                print(f"  {name:24}{narrow[name]:6.2f} {wide[name]:6.2f}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
