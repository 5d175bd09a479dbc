"""The facts of one timeline version that a writer keeps in memory, to be found by entity and identity.

Time: of a version's times only ``available`` is here, as it decides which of two deliveries of one content
counts. Versions lie in the order in which they came; each is in the chain of its bucket, newest first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from featurestore.kernel.compiled import compiled, inlined
from featurestore.store.delivery import Facts

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]

# Owner, identity, content's hash, availability, next of the chain, and one or two buckets.
VERSION_BYTES = 48
# An entity's key, its place in a dictionary, and its row of three numbers.
ENTITY_BYTES = 200

_FIRST_ENTITIES = 1 << 10
_READU64 = "Array(uint64, 1, 'C', True)"
_READ64 = "Array(int64, 1, 'C', True)"


class SeenTable:
    """Which entities are held, by number; ``as_of`` int64 is the commit up to which each was read or
    written, ``used`` int64 when it was last asked for."""

    def __init__(self, size: int) -> None:
        """Room for ``size`` bytes is taken at once; memory it becomes where it is written to."""
        self._numbers: dict[bytes, int] = {}
        self._issued = 0
        self.as_of = np.zeros(_FIRST_ENTITIES, np.int64)
        self.used = np.zeros(_FIRST_ENTITIES, np.int64)
        self._count = np.zeros(_FIRST_ENTITIES, np.int64)
        self.versions = 0
        self._take_room(max(1, size // VERSION_BYTES))

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        return VERSION_BYTES * self.versions + ENTITY_BYTES * len(self._numbers)

    def numbers(self, keys: Sequence[bytes]) -> I64:
        """Each entity's number; -1 for one that is not held."""
        number = self._numbers.get
        return np.array([number(key, -1) for key in keys], np.int64)

    def hold(self, keys: Sequence[bytes], *, as_of: int) -> I64:
        """Hold entities from here on, without any version so far; returns their numbers."""
        first, end = self._issued, self._issued + len(keys)
        if end > len(self.as_of):
            more = max(end, 2 * len(self.as_of)) - len(self.as_of)
            self.as_of, self.used, self._count = (
                np.concatenate([one, np.zeros(more, np.int64)])
                for one in (self.as_of, self.used, self._count)
            )
        self._issued = end
        self._numbers.update(zip(keys, range(first, end), strict=True))
        self.as_of[first:end], self.used[first:end], self._count[first:end] = as_of, 0, 0
        return np.arange(first, end)

    def drop(self, keys: Sequence[bytes]) -> None:
        """Hold entities no longer; what is kept of them goes with the next ``shrink``."""
        for key in keys:
            number = self._numbers.pop(key, None)
            if number is not None:
                self.used[number] = -1

    def add(self, numbers: I64, facts: Facts) -> None:
        """Further versions: ``numbers`` int64[n] are their entities'."""
        first, end = self.versions, self.versions + len(numbers)
        if end > len(self._owner):
            self._make_room(2 * end)
        self._owner[first:end] = numbers
        self._identity[first:end] = facts.identity
        self._hashes[first:end] = facts.hashes
        self._available[first:end] = facts.available
        np.add.at(self._count, numbers, 1)
        self.versions = end
        _link(self._owner, self._identity, self._next, self._heads, first, end)

    def find(self, numbers: I64, identity: U64) -> tuple[Facts, I64]:
        """Every version of the asked entities' identities, and which of the askers each one answers."""
        rows, asked = _found(numbers, identity, self._owner, self._identity, self._next, self._heads)
        return Facts(self._identity[rows], self._hashes[rows], self._available[rows]), asked

    def shrink(self, size: int) -> None:
        """Keep what was asked for last, small entities before large ones, in at most so many bytes; an entity
        that would take more than half of them does not push out the others."""
        issued = self._issued
        cost = VERSION_BYTES * self._count[:issued] + ENTITY_BYTES
        may = np.flatnonzero((cost <= size // 2) & (self.used[:issued] >= 0))
        order = may[np.lexsort((self._count[may], -self.used[may]))]
        stays = np.zeros(issued, np.bool_)
        stays[order[np.cumsum(cost[order]) <= size]] = True
        place = np.where(stays, np.cumsum(stays) - 1, -1)
        self._numbers = {key: int(place[n]) for key, n in self._numbers.items() if stays[n]}
        self._issued = int(stays.sum())
        for one in (self.as_of, self.used, self._count):
            one[: self._issued] = one[:issued][stays]
        rows = np.flatnonzero(stays[self._owner[: self.versions]])
        self._rearrange(rows, place)

    def _rearrange(self, rows: I64, place: I64) -> None:
        """Keep these versions, under their entities' new numbers."""
        self.versions = kept = len(rows)
        self._owner[:kept] = place[self._owner[rows]]
        for one in (self._identity, self._hashes, self._available):
            one[:kept] = one[rows]
        self._heads[:] = 0
        _link(self._owner, self._identity, self._next, self._heads, 0, kept)

    def _make_room(self, versions: int) -> None:
        before = (self._owner, self._identity, self._hashes, self._available)
        self._take_room(versions)
        after = (self._owner, self._identity, self._hashes, self._available)
        for old, new in zip(before, after, strict=True):
            new[: self.versions] = old[: self.versions]  # type: ignore[index]
        _link(self._owner, self._identity, self._next, self._heads, 0, self.versions)

    def _take_room(self, versions: int) -> None:
        self._owner = np.empty(versions, np.int32)
        self._identity = np.empty(versions, np.uint64)
        self._hashes = np.empty((versions, 2), np.uint64)
        self._available = np.empty(versions, np.int64)
        self._next = np.empty(versions, np.int32)
        # The last version of each bucket, counted from 1.
        self._heads = np.zeros(1 << versions.bit_length(), np.int32)


@inlined
def _bucket(owner: int, identity: int, buckets: int) -> int:
    mixed = np.uint64(identity) ^ (np.uint64(owner) * np.uint64(0x9E3779B97F4A7C15))
    mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    return (mixed ^ (mixed >> np.uint64(32))) & np.uint64(buckets - 1)  # type: ignore[return-value]


@compiled("void(i4[::1], u8[::1], i4[::1], i4[::1], i8, i8)")
def _link(owner: I32, identity: U64, following: I32, heads: I32, first: int, end: int) -> None:
    for i in range(first, end):
        bucket = _bucket(owner[i], identity[i], len(heads))
        following[i] = heads[bucket] - 1
        heads[bucket] = i + 1


@compiled(f"Tuple((i8[::1], i8[::1]))({_READ64}, {_READU64}, i4[::1], u8[::1], i4[::1], i4[::1])")
def _found(
    numbers: I64, asked: U64, owner: I32, identity: U64, following: I32, heads: I32
) -> tuple[I64, I64]:
    rows = np.empty(16, np.int64)
    askers = np.empty(16, np.int64)
    n = 0
    for k in range(len(numbers)):
        i = heads[_bucket(numbers[k], asked[k], len(heads))] - 1
        while i >= 0:
            if owner[i] == numbers[k] and identity[i] == asked[k]:
                if n == len(rows):
                    rows = np.concatenate((rows, np.empty(n, np.int64)))
                    askers = np.concatenate((askers, np.empty(n, np.int64)))
                rows[n], askers[n] = i, k
                n += 1
            i = following[i]
    return rows[:n].copy(), askers[:n].copy()
