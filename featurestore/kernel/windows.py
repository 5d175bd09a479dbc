"""Window edges: for each question, which facts of its entity's timeline it sees.

The facts in ``[as_of - delay - window, as_of - delay)``, half-open: one at exactly ``as_of - delay`` is
excluded, one at exactly ``as_of - delay - window`` is included. Without a window the span has no beginning.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from featurestore.kernel.blocks import I64, READ, shared_out
from featurestore.kernel.compiled import compiled, inlined
from featurestore.kernel.edges import Edges
from featurestore.kernel.questions import Questions
from featurestore.kernel.versions import Timeline

# A span that no two instants exceed: the lifetime "window".
LIFETIME = -1
# Ordered edges list nothing: entry k is item k.
NO_ENTRIES = np.zeros(0, np.int64)
_LEAST = np.iinfo(np.int64).min
_GREATEST = np.iinfo(np.int64).max


@inlined
def _minus(a: int, b: int) -> int:
    # b >= 0; an instant before the first is the first.
    return a - b if a >= _LEAST + b else _LEAST


@inlined
def _plus(a: int, b: int) -> int:
    return a + b if a <= _GREATEST - b else _GREATEST


@inlined
def _first_at_or_after(times: I64, begin: int, end: int, t: int) -> int:
    # Galloping from ``begin``: successive questions are near each other.
    step = 1
    low = begin
    high = begin
    while high < end and times[high] < t:
        low = high + 1
        high = min(end, high + step)
        step *= 2
    while low < high:
        middle = (low + high) // 2
        if times[middle] < t:
            low = middle + 1
        else:
            high = middle
    return low


@compiled(f"void({READ}, {READ}, {READ}, {READ}, i8, i8, i8[::1], i8[::1], i8, i8)")
def _settled(
    offsets: I64,
    event_time: I64,
    asked: I64,
    as_of: I64,
    window: int,
    delay: int,
    lo: I64,
    hi: I64,
    e0: int,
    e1: int,
) -> None:
    for e in range(e0, e1):
        a = offsets[e]
        b = offsets[e + 1]
        low = a
        high = a
        for q in range(asked[e], asked[e + 1]):
            t = _minus(as_of[q], delay)
            high = _first_at_or_after(event_time, high, b, t)
            hi[q] = high
            if window >= 0:
                low = _first_at_or_after(event_time, low, high, _minus(t, window))
            lo[q] = low


@compiled(f"i8({READ}, {READ}, {READ}, {READ}, i8, i8, i8[::1], i8[::1], i8[::1], i8[::1], i8[::1])")
def _spans(
    offsets: I64, event_time: I64, start: I64, end: I64, window: int, delay: int,
    starts: I64, ends: I64, enter: I64, leave: I64, kept: I64,
) -> int:  # fmt: skip
    # The non-empty (start, end] of each fact, sorted by start and by end within its entity.
    n = 0
    for e in range(len(offsets) - 1):
        kept[e] = n
        begin = n
        for i in range(offsets[e], offsets[e + 1]):
            s = max(start[i], _plus(event_time[i], delay))
            t = end[i]
            if window >= 0:
                t = min(t, _plus(_plus(event_time[i], delay), window))
            if s < t:
                starts[n] = s
                ends[n] = t
                enter[n] = i
                n += 1
        by_start = np.argsort(starts[begin:n], kind="mergesort")
        by_end = np.argsort(ends[begin:n], kind="mergesort")
        facts = enter[begin:n].copy()
        sorted_starts = starts[begin:n][by_start]
        sorted_ends = ends[begin:n][by_end]
        for i in range(n - begin):
            enter[begin + i] = facts[by_start[i]]
            leave[begin + i] = facts[by_end[i]]
            starts[begin + i] = sorted_starts[i]
            ends[begin + i] = sorted_ends[i]
    kept[len(offsets) - 1] = n
    return n


@compiled(f"void({READ}, {READ}, {READ}, {READ}, {READ}, i8[::1], i8[::1], i8, i8)")
def _unsettled(
    kept: I64, starts: I64, ends: I64, asked: I64, as_of: I64, lo: I64, hi: I64, e0: int, e1: int
) -> None:
    for e in range(e0, e1):
        low = kept[e]
        high = kept[e]
        for q in range(asked[e], asked[e + 1]):
            high = _first_at_or_after(starts, high, kept[e + 1], as_of[q])
            low = _first_at_or_after(ends, low, kept[e + 1], as_of[q])
            hi[q] = high
            lo[q] = low


def fact_edges(
    timeline: Timeline,
    questions: Questions,
    *,
    window_us: int | None,
    delay_us: int,
    threads: ThreadPoolExecutor | None = None,
) -> Edges:
    """The edges of one window over the facts of a timeline: ``Edges`` whose items are facts."""
    window = LIFETIME if window_us is None else window_us
    lo = np.empty(questions.count, np.int64)
    hi = np.empty(questions.count, np.int64)
    n = timeline.facts
    if timeline.start is None and timeline.end is None:
        shared_out(
            lambda e0, e1: _settled(
                timeline.offsets, timeline.event_time, questions.offsets, questions.as_of, window, delay_us,
                lo, hi, e0, e1,
            ),
            timeline.offsets, n, threads,
        )  # fmt: skip
        return Edges(NO_ENTRIES, NO_ENTRIES, timeline.offsets, questions.offsets, hi, lo, ordered=True)
    start = np.full(n, _LEAST) if timeline.start is None else timeline.start
    end = np.full(n, _GREATEST) if timeline.end is None else timeline.end
    # The facts of a table without event time are in every span that they are live in.
    event_time = np.full(n, _LEAST) if timeline.timeless else timeline.event_time
    starts, ends, enter, leave = (np.empty(n, np.int64) for _ in range(4))
    kept = np.empty(timeline.entities + 1, np.int64)
    m = _spans(timeline.offsets, event_time, start, end, window, delay_us, starts, ends, enter, leave, kept)
    shared_out(
        lambda e0, e1: _unsettled(kept, starts, ends, questions.offsets, questions.as_of, lo, hi, e0, e1),
        kept, m, threads,
    )  # fmt: skip
    return Edges(enter[:m], leave[:m], kept, questions.offsets, hi, lo, ordered=False)


@compiled(f"Tuple((i8[::1], i8[::1]))({READ}, {READ})")
def _expanded(entries: I64, first: I64) -> tuple[I64, I64]:
    # ``first[i]``: the first item of fact i; the items of a fact take its place in the list.
    before = np.empty(len(entries) + 1, np.int64)
    n = 0
    for k in range(len(entries)):
        before[k] = n
        n += first[entries[k] + 1] - first[entries[k]]
    before[len(entries)] = n
    items = np.empty(n, np.int64)
    n = 0
    for k in range(len(entries)):
        for item in range(first[entries[k]], first[entries[k] + 1]):
            items[n] = item
            n += 1
    return items, before


def item_edges(edges: Edges, first: I64 | None) -> Edges:
    """The same edges over items: fact i stands for the items ``[first[i], first[i + 1])``, none, one or
    several.

    ``first`` is int64[facts + 1]; None: each fact is one item.
    """
    if first is None:
        return edges
    if edges.ordered:
        return Edges(
            NO_ENTRIES,
            NO_ENTRIES,
            first[edges.offsets],
            edges.questions,
            first[edges.hi],
            first[edges.lo],
            ordered=True,
        )
    enter, entered = _expanded(edges.enter, first)
    leave, left = _expanded(edges.leave, first)
    return Edges(
        enter,
        leave,
        entered[edges.offsets],
        edges.questions,
        entered[edges.hi],
        left[edges.lo],
        ordered=False,
    )
