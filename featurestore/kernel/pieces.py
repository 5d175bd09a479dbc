"""Pieces: what an event's looked-up columns are, as knowledge grows.

Time: under ``known_at="as_of"`` a looked-up column of event e is a function of the question's K alone, a
staircase over K > T' = e.event_time that steps where something becomes known late. A *piece* holds for K in
(begin, end]: what is available at exactly K isn't known yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from featurestore.kernel.blocks import I64, Bools
from featurestore.kernel.versions import NEVER, Timeline


@dataclass(frozen=True)
class Pieces:
    """The pieces of each row of a versions table, one after the other: those of row r are ``[first[r],
    first[r + 1])``. ``row``, ``begin`` and ``end`` int64[pieces]; the last piece of a row ends ``NEVER``."""

    first: I64
    row: I64
    begin: I64
    end: I64

    def at(self, row: I64, known_at: I64) -> I64:
        """The piece of each row in ``row`` that holds for its ``known_at``."""
        return search(self.first, self.end, row, known_at)

    @property
    def last(self) -> I64:
        """Each row's last piece: everything that ever becomes known."""
        return self.first[1:] - 1

    def next_of(self, steps: Bools) -> I64:
        """The place of the first piece, from each on, that is one of ``steps`` or the last of its row."""
        stops = steps.copy()
        stops[self.last] = True
        place = np.where(stops, np.arange(len(stops)), len(stops))
        made: I64 = np.minimum.accumulate(place[::-1])[::-1]
        return made


def pieces_between(begin: I64, steps: Sequence[tuple[I64, I64]]) -> tuple[Pieces, list[Bools]]:
    """Cut the staircases of all rows, which begin at ``begin`` int64[rows], where they step: ``steps`` are
    (row, K) pairs, some from each of several columns. Returns the pieces, and which of them end at a step of
    each of the several."""
    rows = len(begin)
    row = np.concatenate([np.arange(rows), *(row for row, _ in steps)])
    end = np.concatenate([np.full(rows, NEVER), *(at for _, at in steps)])
    order = np.lexsort((end, row))
    row, end = row[order], end[order]
    new = np.ones(len(row), np.bool_)
    new[1:] = (row[1:] != row[:-1]) | (end[1:] != end[:-1])
    place = np.empty(len(order), np.int64)
    place[order] = np.cumsum(new) - 1
    row, end = row[new], end[new]
    first = np.searchsorted(row, np.arange(rows + 1))
    before = np.empty(len(row), np.int64)
    before[1:] = end[:-1]
    before[first[:-1]] = begin
    marked = []
    done = rows
    for at, _ in steps:
        mine = np.zeros(len(row), np.bool_)
        mine[place[done : done + len(at)]] = True
        marked.append(mine)
        done += len(at)
    return Pieces(first, row, before, end), marked


def split(timeline: Timeline, pieces: Pieces) -> Timeline:
    """The facts of ``timeline``, each as often as it has pieces, live while both are; its rows are pieces
    from now on. A fact keeps its place among the others."""
    counts = np.diff(pieces.first)[timeline.row]
    piece = spread(pieces.first[timeline.row], counts)
    fact = np.repeat(np.arange(timeline.facts), counts)
    start, end = pieces.begin[piece], pieces.end[piece]
    if timeline.start is not None:
        start = np.maximum(start, timeline.start[fact])
    if timeline.end is not None:
        end = np.minimum(end, timeline.end[fact])
    live = start < end
    piece, fact, start, end = piece[live], fact[live], start[live], end[live]
    return replace(
        timeline,
        offsets=np.searchsorted(fact, timeline.offsets),
        row=piece,
        event_time=timeline.event_time[fact],
        start=start,
        end=end,
    )


def spread(first: I64, counts: I64) -> I64:
    """``counts`` consecutive numbers from each of ``first`` on, one after the other."""
    ends = np.cumsum(counts)
    made: I64 = np.arange(ends[-1] if len(ends) else 0) + np.repeat(first - ends + counts, counts)
    return made


def search(offsets: I64, values: I64, block: I64, value: I64) -> I64:
    """The first place in each ``block`` whose value is not less than ``value``; the block's end where there
    is none. Values never decrease within a block, ``[offsets[b], offsets[b + 1])``."""
    low, high = offsets[block], offsets[block + 1]
    while (low < high).any():
        middle = (low + high) // 2
        less = (low < high) & (values[np.minimum(middle, len(values) - 1)] < value)
        low, high = np.where(less, middle + 1, low), np.where(less, high, middle)
    return low
