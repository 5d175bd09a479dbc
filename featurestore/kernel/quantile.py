"""The q-quantile of the live values of each question, by the rule of ``numpy.quantile(method="linear")``.

What is live at a question, and that a fact at exactly T is not, is what ``Edges`` says.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from featurestore.kernel.compiled import compiled
from featurestore.kernel.edges import I64, Edges
from featurestore.kernel.live import LEVELS, count, empty_counts, next_in_word, nth
from featurestore.kernel.order import entity_order, float_codes
from featurestore.kernel.sweep import (
    EDGES,
    FLOAT64S,
    INT64S,
    enter_from,
    item_at,
    leave_until,
    most_items,
    share,
)

F64 = NDArray[np.float64]


def quantile(
    values: F64,
    edges: Edges,
    items: I64,
    q: float,
    *,
    order: I64 | None = None,
    threads: ThreadPoolExecutor | None = None,
) -> tuple[F64, NDArray[np.bool_]]:
    """float64[nq] and whether there was any value. NaN if any live value is; no -0.0.

    Of n sorted values, h = (n - 1) * q; a and b are the neighbours of h and t its fraction: a if a = b or
    t = 0, else a + (b - a) * t for t < 0.5, else b - (b - a) * (1 - t). ``order`` is the ``entity_order`` of
    the values (NaN greatest), if the caller has it already.
    """
    assert 0.0 <= q <= 1.0
    if order is None:
        order = entity_order(float_codes(values), items, threads=threads)
    places = order
    found = np.empty(len(edges.hi), np.float64)
    share(
        lambda e0, e1: _quantile(
            e0, e1, values, places, q, items, edges.enter, edges.leave, edges.offsets, edges.questions,
            edges.hi, edges.lo, edges.ordered, found,
        ),
        items + edges.questions,
        threads,
    )  # fmt: skip
    return found, edges.hi > edges.lo


@compiled(f"void(int64, int64, {FLOAT64S}, {INT64S}, float64, {INT64S}, {EDGES}, float64[::1])")
def _quantile(
    e0: int, e1: int, values: F64, order: I64, fraction: float, items: I64,
    enter: I64, leave: I64, offsets: I64, questions: I64, hi: I64, lo: I64, ordered: bool, found: F64,
) -> None:  # fmt: skip
    most = most_items(items, e0, e1)
    words = np.zeros((most + 63) >> 6, np.uint64)
    counts = np.zeros(len(words) // 32 + 64, np.int64)
    base, sizes = np.zeros(LEVELS, np.int64), np.zeros(LEVELS, np.int64)
    in_order = np.empty(most, np.float64)
    for e in range(e0, e1):
        if questions[e] == questions[e + 1]:
            continue
        first, n = items[e], items[e + 1] - items[e]
        words[: (n + 63) >> 6] = 0
        levels = empty_counts(counts, base, sizes, n)
        for item in range(first, first + n):
            in_order[order[item]] = values[item]
        entered = left = offsets[e]
        nans = 0
        for q in range(questions[e], questions[e + 1]):
            for entry in range(enter_from(entered, lo[q], ordered), hi[q]):
                item = item_at(enter, entry, ordered)
                count(words, counts, base, levels, order[item], 1)
                nans += int(np.isnan(values[item]))
            for entry in range(left, leave_until(entered, lo[q], ordered)):
                item = item_at(leave, entry, ordered)
                count(words, counts, base, levels, order[item], -1)
                nans -= int(np.isnan(values[item]))
            entered, left = hi[q], lo[q]
            live = hi[q] - lo[q]
            if live == 0 or nans > 0:
                found[q] = np.nan
                continue
            h = (live - 1) * fraction
            below = int(np.floor(h))
            t = h - np.floor(h)
            place = nth(words, counts, base, levels, below)
            a = in_order[place]
            if t != 0.0:
                place = next_in_word(words, place)
                if place < 0:
                    place = nth(words, counts, base, levels, below + 1)
                b = in_order[place]
                if a != b:
                    a = a + (b - a) * t if t < 0.5 else b - (b - a) * (1.0 - t)
            found[q] = np.nan if np.isnan(a) else a + 0.0  # -0.0 + 0.0 is 0.0
