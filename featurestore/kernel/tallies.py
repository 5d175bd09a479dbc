"""How often each value of one entity is live, as a tree: the most frequent and the next live one in O(log n).

A value is its rank 0..n-1; time has been settled before. Level 0 of ``tallies`` is the values, a node of
level l + 1 (at ``base[l + 1]``) is the greatest of its 16 children, a cache line of int32.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featurestore.kernel.compiled import inlined
from featurestore.kernel.edges import I64

I32 = NDArray[np.int32]
TALLY_LEVELS = 12  # 16 ** 11 values are more than there can be.

_FANOUT_BITS = 4
_FANOUT = 1 << _FANOUT_BITS


@inlined
def tallies_for(n: int) -> int:
    """Room for the tree of n values: n * (1 + 1/16 + 1/256 + ...), rounded up at each level."""
    return n + n // 8 + TALLY_LEVELS


@inlined
def lay_out_tallies(tallies: I32, base: I64, sizes: I64, n: int) -> int:
    """Empty the tree for n values; returns the number of levels, the last of which has one node."""
    levels, begin = 0, 0
    while True:
        base[levels], sizes[levels] = begin, n
        begin += n
        levels += 1
        if n <= 1:
            tallies[:begin] = 0
            return levels
        n = (n + _FANOUT - 1) >> _FANOUT_BITS


@inlined
def put(tallies: I32, base: I64, sizes: I64, levels: int, at: int, tally: int) -> None:
    """Value ``at`` is live ``tally`` times. Stops at the first level whose greatest stays."""
    before = int(tallies[at])
    tallies[at] = tally
    for level in range(1, levels):
        children, at = at & ~(_FANOUT - 1), at >> _FANOUT_BITS
        node = base[level] + at
        top = int(tallies[node])
        if tally > before:
            if tally <= top:
                return
        else:
            if before < top:
                return
            tally = 0
            for child in range(children, min(children + _FANOUT, sizes[level - 1])):
                tally = max(tally, int(tallies[base[level - 1] + child]))
                if tally == top:
                    return
        tallies[node] = tally
        before = top


@inlined
def most_frequent(tallies: I32, base: I64, levels: int) -> int:
    """The smallest of the most frequent values; one must be live."""
    top, at = tallies[base[levels - 1]], 0
    for level in range(levels - 2, -1, -1):
        at <<= _FANOUT_BITS
        while tallies[base[level] + at] != top:
            at += 1
    return at


@inlined
def next_live(tallies: I32, base: I64, levels: int, at: int) -> int:
    """The smallest live value from ``at`` on; there must be one."""
    level = 0
    while tallies[base[level] + at] == 0:
        at += 1
        while at & (_FANOUT - 1) == 0:
            at, level = at >> _FANOUT_BITS, level + 1
    while level > 0:
        at, level = at << _FANOUT_BITS, level - 1
        while tallies[base[level] + at] == 0:
            at += 1
    return at
