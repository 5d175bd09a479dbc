"""Which delivered versions are new to a timeline: the same identity with the same content is a duplicate.

Time: a duplicate counts from its least ``available_at``, so an earlier one than any before is kept, though it
adds no fact. The order of delivery decides nothing but which of two new contents is called the correction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featurestore.kernel.blocks import grouped, repeated
from featurestore.store.delivery import Facts

I64 = NDArray[np.int64]

ACCEPTED, CORRECTED, DUPLICATE, LATE, KEYLESS, FORGOTTEN = range(6)
"""What becomes of a row; the last three have no place in a timeline, or none any more."""


@dataclass(frozen=True)
class Novelty:
    """What became of each delivered version, int8 ``status``, and whether it is ``kept`` (bool)."""

    status: NDArray[np.int8]
    kept: NDArray[np.bool_]

    def counts(self, first: int = 0, end: int | None = None) -> dict[str, int]:
        return counted(self.status[first:end])

    def without(self, forgotten: NDArray[np.bool_]) -> Novelty:
        """The same where some of the versions are of a key that is forgotten."""
        return Novelty(np.where(forgotten, FORGOTTEN, self.status).astype(np.int8), self.kept & ~forgotten)

    def without_late(self, late: NDArray[np.bool_] | None) -> Novelty:
        """The same where some of the versions would be of no use to any question that is still answered."""
        if late is None:
            return self
        late = late & self.kept
        return Novelty(np.where(late, LATE, self.status).astype(np.int8), self.kept & ~late)


def counted(status: NDArray[np.int8]) -> dict[str, int]:
    """How many rows became what."""
    numbers = np.bincount(status, minlength=6).tolist()
    late = {"late": numbers[LATE]} if numbers[LATE] else {}
    return {
        "accepted": numbers[ACCEPTED],
        "corrected": numbers[CORRECTED],
        "duplicate": numbers[DUPLICATE],
        "keyless": numbers[KEYLESS],
        "forgotten": numbers[FORGOTTEN],
        **late,
    }


def all_new(rows: int) -> Novelty:
    """Of a source without id every row is a fact of its own."""
    return Novelty(np.zeros(rows, np.int8), np.ones(rows, np.bool_))


def novelty(
    facts: Facts,
    codes: I64,
    entities: int,
    existing: Facts | None = None,
    existing_codes: I64 | None = None,
    *,
    outlived: NDArray[np.bool_] | None = None,
) -> Novelty:
    """Compare delivered versions with one another and with those that are there already.

    ``codes`` int64[n] number the entities, 0 to ``entities`` - 1. Of new versions of one identity the content
    that comes first is accepted, where none is there yet; every other content corrects it. ``outlived``
    bool[n]: versions that are late where their identity is not there.
    """
    delivered = len(codes)
    found = all_new(delivered)
    there = 0
    if existing is not None:
        assert existing_codes is not None
        there = len(existing_codes)
        codes = np.concatenate([existing_codes, codes])
        facts = Facts(
            np.concatenate([existing.identity, facts.identity]),
            np.concatenate([existing.hashes, facts.hashes]),
            np.concatenate([existing.available, facts.available]),
        )
    offsets, order = grouped(codes, entities)
    identity = facts.identity.view(np.int64)
    several = repeated(offsets, order, identity)
    if not several.any():
        return found.without_late(outlived)
    rows = np.flatnonzero(several)
    first, second = facts.hashes[rows, 0], facts.hashes[rows, 1]
    # Existing rows have lower numbers, so at equal availability they come first.
    by = np.lexsort((rows, facts.available[rows], second, first, identity[rows], codes[rows]))
    rows, first, second = rows[by], first[by], second[by]
    new_identity = _changes(codes[rows], identity[rows])
    new_content = new_identity | _changes(first, second)
    group = np.cumsum(new_content) - 1
    starts = np.flatnonzero(new_content)
    identity_starts = np.flatnonzero(new_identity)
    identity_group = np.cumsum(new_identity) - 1

    is_there = rows < there
    content_there = np.logical_or.reduceat(is_there, starts)
    identity_there = np.logical_or.reduceat(is_there, identity_starts)
    earliest = np.minimum.reduceat(rows, identity_starts)
    # Whether the content holds the identity's first row.
    leads = np.zeros(len(starts), np.bool_)
    leads[group[rows == earliest[identity_group]]] = True

    kept = new_content & ~is_there
    status = np.full(len(rows), DUPLICATE, np.int8)
    fresh = kept & ~content_there[group]
    status[fresh] = np.where((leads[group] & ~identity_there[identity_group])[fresh], ACCEPTED, CORRECTED)
    mine = ~is_there
    found.status[rows[mine] - there] = status[mine]
    found.kept[rows[mine] - there] = kept[mine]
    if outlived is not None and outlived.any():
        outlived = outlived.copy()
        outlived[rows[mine] - there] &= ~identity_there[identity_group[mine]]
    return found.without_late(outlived)


def _changes(*keys: NDArray[np.generic]) -> NDArray[np.bool_]:
    changed = np.ones(len(keys[0]), np.bool_)
    changed[1:] = np.logical_or.reduce([key[1:] != key[:-1] for key in keys])
    return changed
