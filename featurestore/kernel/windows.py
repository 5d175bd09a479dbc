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
from featurestore.kernel.order import of_sort_key, sort_key, sort_keys
from featurestore.kernel.questions import Questions
from featurestore.kernel.sweep import most_items
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


@compiled(f"void({READ}, {READ}, {READ}, {READ}, i8, i8[::1], i8, i8)")
def _until(
    offsets: I64, event_time: I64, asked: I64, as_of: I64, delay: int, hi: I64, e0: int, e1: int
) -> None:
    for e in range(e0, e1):
        high = offsets[e]
        for q in range(asked[e], asked[e + 1]):
            high = _first_at_or_after(event_time, high, offsets[e + 1], _minus(as_of[q], delay))
            hi[q] = high


@compiled(f"void({READ}, {READ}, {READ}, {READ}, i8, i8, {READ}, i8[::1], i8, i8)")
def _since(
    offsets: I64, event_time: I64, asked: I64, as_of: I64, window: int, delay: int, hi: I64, lo: I64,
    e0: int, e1: int,
) -> None:  # fmt: skip
    for e in range(e0, e1):
        low = offsets[e]
        for q in range(asked[e], asked[e + 1]):
            if window >= 0:
                t = _minus(_minus(as_of[q], delay), window)
                low = _first_at_or_after(event_time, low, hi[q], t)
            lo[q] = low


@inlined
def _span(event_time: int, start: int, end: int, window: int, delay: int) -> tuple[int, int]:
    """The questions (start, end] that see a fact in a window."""
    begins = _plus(event_time, delay)
    return max(start, begins), end if window < 0 else min(end, _plus(begins, window))


@compiled(f"void({READ}, {READ}, {READ}, {READ}, {READ}, i8, i8, i8[::1], i8, i8)")
def _count_spans(
    offsets: I64, event_time: I64, start: I64, end: I64, asked: I64, window: int, delay: int, kept: I64,
    e0: int, e1: int,
) -> None:  # fmt: skip
    # How many facts of each entity that is asked about have a span that is not empty.
    for e in range(e0, e1):
        n = 0
        if asked[e] < asked[e + 1]:
            for i in range(offsets[e], offsets[e + 1]):
                s, t = _span(event_time[i], start[i], end[i], window, delay)
                n += int(s < t)
        kept[e + 1] = n


@compiled(f"void({READ}, {READ}, {READ}, {READ}, i8, i8, {READ}, {', '.join(['i8[::1]'] * 4)}, i8, i8)")
def _sort_spans(
    offsets: I64, event_time: I64, start: I64, end: I64, window: int, delay: int, kept: I64,
    starts: I64, ends: I64, enter: I64, leave: I64, e0: int, e1: int,
) -> None:  # fmt: skip
    # The spans of each entity, once by start and once by end.
    most = most_items(kept, e0, e1)
    facts = np.empty(most, np.int64)
    by_start, by_end, spare = np.empty(most, np.uint64), np.empty(most, np.uint64), np.empty(most, np.uint64)
    places, spare_places = np.empty(most, np.int32), np.empty(most, np.int32)
    for e in range(e0, e1):
        begin, n = kept[e], 0
        if kept[e + 1] == begin:
            continue
        for i in range(offsets[e], offsets[e + 1]):
            s, t = _span(event_time[i], start[i], end[i], window, delay)
            if s < t:
                by_start[n], by_end[n], facts[n] = sort_key(s), sort_key(t), i
                n += 1
        for times, of, entries in ((by_start, starts, enter), (by_end, ends, leave)):
            for i in range(n):
                places[i] = i
            keys, came_from = sort_keys(times, places, n, spare, spare_places)
            for i in range(n):
                of[begin + i], entries[begin + i] = of_sort_key(keys[i]), facts[came_from[i]]


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
    another: Edges | None = None,
    threads: ThreadPoolExecutor | None = None,
) -> Edges:
    """The edges of one window over the facts of a timeline: ``Edges`` whose items are facts.

    ``another`` has those of another window of the same delay: in a settled timeline both end alike.
    """
    window = LIFETIME if window_us is None else window_us
    lo = np.empty(questions.count, np.int64)
    n = timeline.facts
    times = (timeline.offsets, timeline.event_time, questions.offsets, questions.as_of)
    if timeline.start is None and timeline.end is None:
        if another is not None:
            hi = another.hi
        else:
            hi = np.empty(questions.count, np.int64)
            shared_out(lambda e0, e1: _until(*times, delay_us, hi, e0, e1), timeline.offsets, n, threads)
        shared_out(
            lambda e0, e1: _since(*times, window, delay_us, hi, lo, e0, e1), timeline.offsets, n, threads
        )
        return Edges(NO_ENTRIES, NO_ENTRIES, timeline.offsets, questions.offsets, hi, lo, ordered=True)
    hi = np.empty(questions.count, np.int64)
    start = np.full(n, _LEAST) if timeline.start is None else timeline.start
    end = np.full(n, _GREATEST) if timeline.end is None else timeline.end
    # The facts of a table without event time are in every span that they are live in.
    event_time = np.full(n, _LEAST) if timeline.timeless else timeline.event_time
    kept = np.zeros(timeline.entities + 1, np.int64)
    shared_out(
        lambda e0, e1: _count_spans(
            timeline.offsets, event_time, start, end, questions.offsets, window, delay_us, kept, e0, e1
        ),
        timeline.offsets, n, threads,
    )  # fmt: skip
    np.cumsum(kept, out=kept)
    m = int(kept[-1])
    starts, ends, enter, leave = (np.empty(m, np.int64) for _ in range(4))
    shared_out(
        lambda e0, e1: _sort_spans(
            timeline.offsets, event_time, start, end, window, delay_us, kept, starts, ends, enter, leave,
            e0, e1,
        ),
        timeline.offsets, n, threads,
    )  # fmt: skip
    shared_out(
        lambda e0, e1: _unsettled(kept, starts, ends, questions.offsets, questions.as_of, lo, hi, e0, e1),
        kept, m, threads,
    )  # fmt: skip
    return Edges(enter, leave, kept, questions.offsets, hi, lo, ordered=False)


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
