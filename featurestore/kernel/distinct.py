"""How often each value is live at each question: distinct values, the most frequent ones, the last ones.

What is live at a question, and that a fact at exactly T is not, is what ``Edges`` says. ``ranks`` and
``cardinality`` come from ``entity_ranks``; a value is named by the position of an item that has it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from featurestore.kernel.compiled import compiled
from featurestore.kernel.edges import I64, Edges
from featurestore.kernel.live import LEVELS, add, discard, greatest, lay_out, preceding, words_for
from featurestore.kernel.sweep import (
    EDGES,
    INT64S,
    enter_from,
    item_at,
    leave_until,
    most_items,
    share,
)
from featurestore.kernel.tallies import (
    TALLY_LEVELS,
    lay_out_tallies,
    most_frequent,
    next_live,
    put,
    tallies_for,
)


def distinct(
    ranks: I64, edges: Edges, items: I64, cardinality: I64, *, threads: ThreadPoolExecutor | None = None
) -> I64:
    """int64[nq], how many distinct values are live."""
    found = np.empty(len(edges.hi), np.int64)
    share(
        lambda e0, e1: _count_distinct(
            e0, e1, ranks, cardinality, edges.enter, edges.leave, edges.offsets, edges.questions,
            edges.hi, edges.lo, edges.ordered, found,
        ),
        items + edges.questions,
        threads,
    )  # fmt: skip
    return found


def mode(
    ranks: I64, edges: Edges, items: I64, cardinality: I64, *, threads: ThreadPoolExecutor | None = None
) -> I64:
    """int64[nq], an item that has the most frequent live value (ties: the smallest value), -1 for none."""
    offsets = np.zeros(len(edges.hi) + 1, np.int64)
    np.cumsum(edges.hi > edges.lo, out=offsets[1:])
    found = np.full(len(edges.hi), -1, np.int64)
    _, entries, _ = _histogram_of(ranks, edges, items, cardinality, offsets, threads)
    found[edges.hi > edges.lo] = entries
    return found


def histogram(
    ranks: I64,
    edges: Edges,
    items: I64,
    cardinality: I64,
    *,
    k: int = -1,
    threads: ThreadPoolExecutor | None = None,
) -> tuple[I64, I64, I64]:
    """The live values in ascending order and how often each is live: offsets int64[nq + 1], items, counts.

    With ``k`` only the k most frequent (ties: the smallest values), still in ascending order.
    """
    sizes = distinct(ranks, edges, items, cardinality, threads=threads)
    offsets = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes if k < 0 else np.minimum(sizes, k), out=offsets[1:])
    return _histogram_of(ranks, edges, items, cardinality, offsets, threads)


def distinct_k(
    ranks: I64,
    edges: Edges,
    items: I64,
    cardinality: I64,
    k: int,
    *,
    threads: ThreadPoolExecutor | None = None,
) -> tuple[I64, I64]:
    """The last k distinct live values, newest first, as the newest live item of each: offsets, items."""
    sizes = distinct(ranks, edges, items, cardinality, threads=threads)
    offsets = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(np.minimum(sizes, k), out=offsets[1:])
    found = np.empty(offsets[-1], np.int64)
    share(
        lambda e0, e1: _distinct_k(
            e0, e1, ranks, cardinality, items, edges.enter, edges.leave, edges.offsets, edges.questions,
            edges.hi, edges.lo, edges.ordered, offsets, found,
        ),
        items + edges.questions,
        threads,
    )  # fmt: skip
    return offsets, found


def _histogram_of(
    ranks: I64, edges: Edges, items: I64, cardinality: I64, offsets: I64, threads: ThreadPoolExecutor | None
) -> tuple[I64, I64, I64]:
    found, counts = np.empty(offsets[-1], np.int64), np.empty(offsets[-1], np.int64)
    share(
        lambda e0, e1: _histogram(
            e0, e1, ranks, cardinality, edges.enter, edges.leave, edges.offsets, edges.questions,
            edges.hi, edges.lo, edges.ordered, offsets, found, counts,
        ),
        items + edges.questions,
        threads,
    )  # fmt: skip
    return offsets, found, counts


@compiled(f"void(int64, int64, {INT64S}, {INT64S}, {EDGES}, int64[::1])")
def _count_distinct(
    e0: int, e1: int, ranks: I64, cardinality: I64,
    enter: I64, leave: I64, offsets: I64, questions: I64, hi: I64, lo: I64, ordered: bool, found: I64,
) -> None:  # fmt: skip
    most = 0
    for e in range(e0, e1):
        most = max(most, cardinality[e])
    tally = np.empty(most, np.int32)
    for e in range(e0, e1):
        if questions[e] == questions[e + 1]:
            continue
        tally[: cardinality[e]] = 0
        entered = left = offsets[e]
        there = 0
        for q in range(questions[e], questions[e + 1]):
            for entry in range(enter_from(entered, lo[q], ordered), hi[q]):
                rank = ranks[item_at(enter, entry, ordered)]
                there += int(tally[rank] == 0)
                tally[rank] += 1
            for entry in range(left, leave_until(entered, lo[q], ordered)):
                rank = ranks[item_at(leave, entry, ordered)]
                tally[rank] -= 1
                there -= int(tally[rank] == 0)
            entered, left = hi[q], lo[q]
            found[q] = there


@compiled(f"void(int64, int64, {INT64S}, {INT64S}, {EDGES}, {INT64S}, int64[::1], int64[::1])")
def _histogram(
    e0: int, e1: int, ranks: I64, cardinality: I64,
    enter: I64, leave: I64, offsets: I64, questions: I64, hi: I64, lo: I64, ordered: bool,
    starts: I64, found: I64, counts: I64,
) -> None:  # fmt: skip
    """The ``starts[q + 1] - starts[q]`` most frequent values in ascending order: all of them, or fewer."""
    most = 0
    for e in range(e0, e1):
        most = max(most, cardinality[e])
    tallies = np.empty(tallies_for(most), np.int32)
    base, sizes = np.empty(TALLY_LEVELS, np.int64), np.empty(TALLY_LEVELS, np.int64)
    item_of = np.empty(most, np.int64)
    for e in range(e0, e1):
        if questions[e] == questions[e + 1]:
            continue
        levels = lay_out_tallies(tallies, base, sizes, cardinality[e])
        entered = left = offsets[e]
        there = 0
        for q in range(questions[e], questions[e + 1]):
            for entry in range(enter_from(entered, lo[q], ordered), hi[q]):
                item = item_at(enter, entry, ordered)
                rank = ranks[item]
                there += int(tallies[rank] == 0)
                put(tallies, base, sizes, levels, rank, int(tallies[rank]) + 1)
                item_of[rank] = item
            for entry in range(left, leave_until(entered, lo[q], ordered)):
                rank = ranks[item_at(leave, entry, ordered)]
                put(tallies, base, sizes, levels, rank, int(tallies[rank]) - 1)
                there -= int(tallies[rank] == 0)
            entered, left = hi[q], lo[q]
            k = starts[q + 1] - starts[q]
            chosen = found[starts[q] : starts[q + 1]]
            if k == there:
                rank = -1
                for i in range(k):
                    rank = next_live(tallies, base, levels, rank + 1)
                    chosen[i] = rank
            elif k == 1:
                chosen[0] = most_frequent(tallies, base, levels)
            else:
                # Take the most frequent out k times, then put them back.
                for i in range(k):
                    chosen[i] = most_frequent(tallies, base, levels)
                    counts[starts[q] + i] = tallies[chosen[i]]
                    put(tallies, base, sizes, levels, chosen[i], 0)
                for i in range(k):
                    put(tallies, base, sizes, levels, chosen[i], counts[starts[q] + i])
                chosen.sort()
            for i in range(k):
                counts[starts[q] + i] = tallies[chosen[i]]
                chosen[i] = item_of[chosen[i]]


@compiled(f"void(int64, int64, {INT64S}, {INT64S}, {INT64S}, {EDGES}, {INT64S}, int64[::1])")
def _distinct_k(
    e0: int, e1: int, ranks: I64, cardinality: I64, items: I64,
    enter: I64, leave: I64, offsets: I64, questions: I64, hi: I64, lo: I64, ordered: bool,
    starts: I64, found: I64,
) -> None:  # fmt: skip
    """A set of the newest live item of each value.

    When items leave in any order, a second set, of all live items with those of one value side by side, tells
    which is the newest of a value once the newest has left.
    """
    most = most_items(items, e0, e1)
    newest = np.empty(words_for(most), np.uint64)
    live = np.empty(words_for(0 if ordered else most), np.uint64)
    base = np.empty(LEVELS, np.int64)
    last = np.empty(most, np.int64)
    begins = np.empty(most + 1, np.int64)
    place, item_of = np.empty(0 if ordered else most, np.int64), np.empty(0 if ordered else most, np.int64)
    for e in range(e0, e1):
        if questions[e] == questions[e + 1]:
            continue
        first, n = items[e], items[e + 1] - items[e]
        levels = lay_out(newest, base, n)
        last[: cardinality[e]] = -1
        if not ordered:
            lay_out(live, base, n)
            begins[: cardinality[e] + 1] = 0
            for i in range(n):
                begins[ranks[first + i] + 1] += 1
            for rank in range(cardinality[e]):
                begins[rank + 1] += begins[rank]
            for i in range(n):
                rank = ranks[first + i]
                place[i], item_of[begins[rank]] = begins[rank], i
                begins[rank] += 1
        entered = left = offsets[e]
        for q in range(questions[e], questions[e + 1]):
            for entry in range(enter_from(entered, lo[q], ordered), hi[q]):
                i = item_at(enter, entry, ordered) - first
                rank = ranks[first + i]
                if i > last[rank]:
                    if last[rank] >= 0:
                        discard(newest, base, levels, last[rank])
                    add(newest, base, levels, i)
                    last[rank] = i
                if not ordered:
                    add(live, base, levels, place[i])
            for entry in range(left, leave_until(entered, lo[q], ordered)):
                i = item_at(leave, entry, ordered) - first
                rank = ranks[first + i]
                if not ordered:
                    discard(live, base, levels, place[i])
                if last[rank] == i:
                    discard(newest, base, levels, i)
                    last[rank] = -1
                    if not ordered:
                        before = preceding(live, base, levels, place[i])
                        if before >= 0 and ranks[first + item_of[before]] == rank:
                            last[rank] = item_of[before]
                            add(newest, base, levels, last[rank])
            entered, left = hi[q], lo[q]
            i = -1
            for at in range(starts[q], starts[q + 1]):
                i = greatest(newest, base, levels, 0) if i < 0 else preceding(newest, base, levels, i)
                found[at] = first + i
