"""Rows by the 128-bit hashes of some of their columns: sorted, looked up, compared.

Time: none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.kernel.content import content_hash

Bools = NDArray[np.bool_]
I64 = NDArray[np.int64]
Hashes: TypeAlias = NDArray[np.uint64]
"""Shape (rows, 2); ordered by the first half, then by the second."""


def hashes(table: pa.Table, columns: Sequence[str]) -> Hashes:
    return content_hash(table, columns)


def no_hashes() -> Hashes:
    return np.empty((0, 2), np.uint64)


def sorting(keys: Hashes, *ties: Hashes) -> I64:
    """The order of ``keys``, equal ones by ``ties``."""
    order = np.argsort(keys[:, 0], kind="stable")
    first = keys[order, 0]
    if (first[1:] == first[:-1]).any():
        parts = [part[:, half] for part in reversed((keys, *ties)) for half in (1, 0)]
        order = np.lexsort(parts)
    return order


def equal(one: Hashes, other: Hashes) -> Bools:
    same: Bools = (one[:, 0] == other[:, 0]) & (one[:, 1] == other[:, 1])
    return same


def places(within: Hashes, keys: Hashes) -> tuple[I64, Bools]:
    """Where each of ``keys`` is in ``within``, which is sorted, and whether it is."""
    place = np.searchsorted(np.ascontiguousarray(within[:, 0]), keys[:, 0])
    while True:  # a few steps at most: past equal first halves
        inside = np.flatnonzero(place < len(within))
        at, of = within[place[inside]], keys[inside]
        short = inside[(at[:, 0] == of[:, 0]) & (at[:, 1] < of[:, 1])]
        if not len(short):
            break
        place[short] += 1
    there = np.zeros(len(keys), np.bool_)
    there[inside] = equal(at, of)
    return place, there
