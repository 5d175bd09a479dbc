"""Which items each question sees: two sorted lists, of starts and of ends, and a position in each.

An item is live for the questions T in (start, end]: a fact at exactly T is not seen, one at exactly T -
window is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]


@dataclass(frozen=True)
class Edges:
    """The items that enter and leave, entity by entity, and how far each question has come.

    ``enter`` and ``leave`` are int64[m] positions of items, the former ordered by (entity, start), the latter
    by (entity, end); the entries of entity e are ``[offsets[e], offsets[e + 1])`` in both. Questions are
    sorted by (entity, T); those of entity e are ``[questions[e], questions[e + 1])``. For question q, the
    entries ``enter[offsets[e]:hi[q]]`` have entered and ``leave[offsets[e]:lo[q]]`` have left; an item leaves
    after it has entered, so the difference of the two sets is what q sees. ``hi`` and ``lo`` never decrease
    within an entity.

    ``ordered`` is True when both lists would be the items in timeline order, 0..m-1: then they are left
    empty, q sees the contiguous run ``[lo[q], hi[q])``, and first/last are index arithmetic.
    """

    enter: I64
    leave: I64
    offsets: I64
    questions: I64
    hi: I64
    lo: I64
    ordered: bool
