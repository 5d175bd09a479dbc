"""How order statistics walk the questions of an entity: items enter, items leave, the question is answered.

The sweep sees positions only; what "at exactly T" means was settled when the edges were made. Loops take a
range of entities and allocate what one entity needs once, so that ranges can run in different threads.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from featurestore.kernel.compiled import inlined
from featurestore.kernel.edges import I64

# Read-only arguments accept both what Arrow lends and what NumPy owns.
INT64S = "Array(int64, 1, 'C', True)"
FLOAT64S = "Array(float64, 1, 'C', True)"
BOOLS = "Array(bool, 1, 'C', True)"
# enter, leave, offsets, questions, hi, lo, ordered of Edges
EDGES = f"{INT64S}, {INT64S}, {INT64S}, {INT64S}, {INT64S}, {INT64S}, boolean"

# More shares than threads, so that one of crowded entities does not keep the others waiting.
_SHARES = 16


def share(loop: Callable[[int, int], None], work: I64, threads: ThreadPoolExecutor | None) -> None:
    """Run ``loop(e0, e1)`` over all entities: in this thread, or in shares of equal work in ``threads``.

    ``work`` is int64[E + 1] and never decreases: entity e costs ``work[e + 1] - work[e]``.
    """
    entities = len(work) - 1
    if threads is None or entities < 2:
        loop(0, entities)
        return
    marks = np.linspace(work[0], work[-1], _SHARES + 1)[1:-1]
    cuts = np.unique(np.concatenate(([0], np.searchsorted(work, marks), [entities]))).tolist()
    for _ in threads.map(loop, cuts[:-1], cuts[1:]):
        pass


@inlined
def most_items(items: I64, e0: int, e1: int) -> int:
    """The size of the largest entity in the range."""
    most = 0
    for e in range(e0, e1):
        most = max(most, items[e + 1] - items[e])
    return most


@inlined
def enter_from(entered: int, lo: int, ordered: bool) -> int:
    """The first entry to add. On a timeline, an item that came and went between two questions is skipped."""
    return max(entered, lo) if ordered else entered


@inlined
def leave_until(entered: int, lo: int, ordered: bool) -> int:
    """The end of the entries to take out: of those skipped by ``enter_from`` there is nothing to take."""
    return min(entered, lo) if ordered else lo


@inlined
def item_at(entries: I64, entry: int, ordered: bool) -> int:
    return entry if ordered else entries[entry]
