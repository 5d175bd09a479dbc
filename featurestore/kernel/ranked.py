"""Which live item is the least or the greatest, or are the k least or greatest, for each question.

What is live at a question, and that a fact at exactly T is not, is what ``Edges`` says. ``order`` places the
items of an entity: int64, from ``entity_order``; None is the timeline itself, the last one greatest. The
items of entity e are ``[items[e], items[e + 1])``; answers are positions of items.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from featurestore.kernel.compiled import compiled
from featurestore.kernel.edges import I64, Edges
from featurestore.kernel.live import (
    LEVELS,
    add,
    discard,
    following,
    greatest,
    lay_out,
    least,
    preceding,
    words_for,
)
from featurestore.kernel.order import entity_order, entity_ranks, order_codes
from featurestore.kernel.sweep import (
    BOOLS,
    EDGES,
    INT64S,
    enter_from,
    item_at,
    leave_until,
    most_items,
    share,
)

__all__ = ["entity_order", "entity_ranks", "extreme", "first_last", "k_extreme", "order_codes"]

Bools = NDArray[np.bool_]

_NO_ORDER = np.zeros(0, np.int64)
_NO_SKIP = np.zeros(0, np.bool_)


def first_last(edges: Edges, *, last: bool) -> I64:
    """int64[nq], the first or last live item of ordered edges, -1 for none."""
    assert edges.ordered
    return np.where(edges.hi > edges.lo, edges.hi - 1 if last else edges.lo, -1)


def extreme(
    order: I64 | None,
    edges: Edges,
    items: I64,
    *,
    largest: bool,
    threads: ThreadPoolExecutor | None = None,
) -> I64:
    """int64[nq], the live item of the largest or smallest order, -1 for none.

    With ordered edges ``order`` may be codes with ties (no sort is needed): of equal codes the later item is
    the larger, which is what ``entity_order`` says too.
    """
    if edges.ordered and order is None:
        return first_last(edges, last=largest)
    found = np.empty(len(edges.hi), np.int64)
    if edges.ordered and order is not None:
        share(
            lambda e0, e1: _run_extreme(
                e0, e1, order, largest, items, edges.questions, edges.hi, edges.lo, found
            ),
            items + edges.questions,
            threads,
        )
        return found
    share(
        lambda e0, e1: _extreme(
            e0, e1, _NO_ORDER if order is None else order, order is None, largest, items, edges.enter,
            edges.leave, edges.offsets, edges.questions, edges.hi, edges.lo, edges.ordered, found,
        ),
        items + edges.questions,
        threads,
    )  # fmt: skip
    return found


def k_extreme(
    order: I64 | None,
    edges: Edges,
    items: I64,
    k: int,
    *,
    largest: bool,
    skip: Bools | None = None,
    threads: ThreadPoolExecutor | None = None,
) -> tuple[I64, I64]:
    """The k largest (largest first) or smallest (smallest first) live items of each question.

    Returns offsets int64[nq + 1] and the items. An item with ``skip`` appears only if every live item has it.
    ``order`` has no ties (``entity_order``).
    """
    live = (edges.hi - edges.lo) if skip is None else _live_of(skip, edges)
    offsets = np.zeros(len(live) + 1, np.int64)
    np.cumsum(np.minimum(live, k), out=offsets[1:])
    found = np.empty(offsets[-1], np.int64)
    if edges.ordered and order is None and skip is None:
        _run_ends(edges.lo, edges.hi, largest, offsets, found)
        return offsets, found
    share(
        lambda e0, e1: _k_extreme(
            e0, e1, _NO_ORDER if order is None else order, order is None, _NO_SKIP if skip is None else skip,
            largest, items, edges.enter, edges.leave, edges.offsets, edges.questions, edges.hi, edges.lo,
            edges.ordered, offsets, found,
        ),
        items + edges.questions,
        threads,
    )  # fmt: skip
    return offsets, found


def _live_of(skip: Bools, edges: Edges) -> I64:
    """How many live items count at each question: those without ``skip``, or all if all have it."""

    def kept_before(entries: I64) -> I64:
        kept = np.zeros(len(skip if edges.ordered else entries) + 1, np.int64)
        np.cumsum(~skip if edges.ordered else ~skip[entries], out=kept[1:])
        return kept

    # An entity's entries are the same set in both lists, so what lies before the entity cancels out.
    kept = kept_before(edges.enter)[edges.hi] - kept_before(edges.leave)[edges.lo]
    return np.where(kept > 0, kept, edges.hi - edges.lo)


@compiled("void(int64, int64, " + ", ".join([INT64S, "boolean", *[INT64S] * 4, "int64[::1]"]) + ")")
def _run_extreme(
    e0: int, e1: int, codes: I64, largest: bool, items: I64, questions: I64, hi: I64, lo: I64, found: I64
) -> None:
    """Contiguous runs: a queue of the items that no later one beats; the answer is at its head."""
    queue = np.empty(most_items(items, e0, e1), np.int64)
    for e in range(e0, e1):
        entered = items[e]
        head, tail = 0, 0
        for q in range(questions[e], questions[e + 1]):
            for item in range(max(entered, lo[q]), hi[q]):
                code = codes[item]
                if largest:
                    while tail > head and codes[queue[tail - 1]] <= code:
                        tail -= 1
                else:
                    while tail > head and codes[queue[tail - 1]] > code:
                        tail -= 1
                queue[tail] = item
                tail += 1
            entered = hi[q]
            while head < tail and queue[head] < lo[q]:
                head += 1
            found[q] = queue[head] if head < tail else -1


@compiled(f"void(int64, int64, {INT64S}, boolean, boolean, {INT64S}, {EDGES}, int64[::1])")
def _extreme(
    e0: int, e1: int, order: I64, by_position: bool, largest: bool, items: I64,
    enter: I64, leave: I64, offsets: I64, questions: I64, hi: I64, lo: I64, ordered: bool, found: I64,
) -> None:  # fmt: skip
    most = most_items(items, e0, e1)
    words, base = np.empty(words_for(most), np.uint64), np.empty(LEVELS, np.int64)
    item_of = np.empty(0 if by_position else most, np.int64)
    for e in range(e0, e1):
        if questions[e] == questions[e + 1]:
            continue
        first, n = items[e], items[e + 1] - items[e]
        levels = lay_out(words, base, n)
        if not by_position:
            for item in range(first, first + n):
                item_of[order[item]] = item
        entered = left = offsets[e]
        for q in range(questions[e], questions[e + 1]):
            for entry in range(enter_from(entered, lo[q], ordered), hi[q]):
                item = item_at(enter, entry, ordered)
                add(words, base, levels, item - first if by_position else order[item])
            for entry in range(left, leave_until(entered, lo[q], ordered)):
                item = item_at(leave, entry, ordered)
                discard(words, base, levels, item - first if by_position else order[item])
            entered, left = hi[q], lo[q]
            if hi[q] == lo[q]:
                found[q] = -1
            else:
                place = greatest(words, base, levels, 0) if largest else least(words, base, levels, 0)
                found[q] = first + place if by_position else item_of[place]


@compiled(f"void({INT64S}, {INT64S}, boolean, {INT64S}, int64[::1])")
def _run_ends(lo: I64, hi: I64, last: bool, offsets: I64, found: I64) -> None:
    for q in range(len(lo)):
        for i in range(offsets[q + 1] - offsets[q]):
            found[offsets[q] + i] = hi[q] - 1 - i if last else lo[q] + i


@compiled(f"void(int64, int64, {INT64S}, boolean, {BOOLS}, boolean, {INT64S}, {EDGES}, {INT64S}, int64[::1])")
def _k_extreme(
    e0: int, e1: int, order: I64, by_position: bool, skip: Bools, largest: bool, items: I64,
    enter: I64, leave: I64, offsets: I64, questions: I64, hi: I64, lo: I64, ordered: bool,
    starts: I64, found: I64,
) -> None:  # fmt: skip
    most = most_items(items, e0, e1)
    base = np.empty(LEVELS, np.int64)
    # Two sets: the items that count, and those that count only when there are no others.
    sets = np.empty((1 if len(skip) == 0 else 2, words_for(most)), np.uint64)
    item_of = np.empty(0 if by_position else most, np.int64)
    for e in range(e0, e1):
        if questions[e] == questions[e + 1]:
            continue
        first, n = items[e], items[e + 1] - items[e]
        levels = 0
        for s in range(len(sets)):
            levels = lay_out(sets[s], base, n)
        if not by_position:
            for item in range(first, first + n):
                item_of[order[item]] = item
        entered = left = offsets[e]
        counted = 0
        for q in range(questions[e], questions[e + 1]):
            for entry in range(enter_from(entered, lo[q], ordered), hi[q]):
                item = item_at(enter, entry, ordered)
                s = int(len(skip) > 0 and skip[item])
                counted += 1 - s
                add(sets[s], base, levels, item - first if by_position else order[item])
            for entry in range(left, leave_until(entered, lo[q], ordered)):
                item = item_at(leave, entry, ordered)
                s = int(len(skip) > 0 and skip[item])
                counted -= 1 - s
                discard(sets[s], base, levels, item - first if by_position else order[item])
            entered, left = hi[q], lo[q]
            words = sets[0 if counted > 0 else len(sets) - 1]
            place = -1
            for at in range(starts[q], starts[q + 1]):
                if at == starts[q]:
                    place = greatest(words, base, levels, 0) if largest else least(words, base, levels, 0)
                elif largest:
                    place = preceding(words, base, levels, place)
                else:
                    place = following(words, base, levels, place)
                found[at] = first + place if by_position else item_of[place]
