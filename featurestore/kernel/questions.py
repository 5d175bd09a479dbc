"""Questions: (entity, as_of) pairs, sorted so that one pass over a timeline meets them in order.

A question at ``as_of`` is about what was before it: a fact at exactly ``as_of`` is in its future.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from featurestore.kernel.blocks import I64, Bools, grouped, sort_blocks


@dataclass(frozen=True)
class Questions:
    """Questions sorted by (entity, as_of).

    ``offsets`` int64[entities + 1]; ``as_of`` int64[questions], microseconds; ``asked`` int64[questions], the
    place in the order they were asked in; ``answers`` int64[all asked], where each asked one's answer is, -1
    for one without a time.
    """

    offsets: I64
    as_of: I64
    asked: I64
    answers: I64

    @property
    def count(self) -> int:
        return len(self.as_of)


def questions(
    codes: I64,
    as_of: I64,
    entities: int,
    *,
    timed: Bools | None = None,
    threads: ThreadPoolExecutor | None = None,
) -> Questions:
    """Sort questions. ``codes`` int64[n] numbers their entities (0 to entities - 1), ``as_of`` int64[n] their
    times, ``timed`` bool[n] those that have one (default: all)."""
    if timed is not None and not timed.all():
        codes = np.where(timed, codes, -1)
    offsets, order = grouped(codes, entities)
    in_order = sort_blocks(offsets, order, as_of, threads=threads)
    answers = np.full(len(codes), -1, np.int64)
    answers[order] = np.arange(len(order))
    return Questions(offsets, in_order, order, answers)
