"""Blocks of rows, one an entity, are sorted by time, and rows of one time keep their order."""

import random

import numpy as np
import pytest

from featurestore.kernel.blocks import grouped, sort_blocks

LEAST, GREATEST = -(2**63), 2**63 - 1


def spread(draw: random.Random) -> int:
    return draw.randrange(100 * 86_400_000_000)


def crowded(draw: random.Random) -> int:
    return draw.choice([spread(draw), 1000 + draw.randrange(300)])


def tied(draw: random.Random) -> int:
    return draw.randrange(3)


def at_the_ends(draw: random.Random) -> int:
    return draw.choice([LEAST, LEAST + 1, -1, 0, 1, GREATEST - 1, GREATEST, spread(draw)])


@pytest.mark.parametrize("time", [spread, crowded, tied, at_the_ends])
def test_a_block_is_sorted_by_time_and_stable(time):
    draw = random.Random(3)
    sizes = [*range(70), 1000, 0, 3]
    codes = [entity for entity, size in enumerate(sizes) for _ in range(size)]
    draw.shuffle(codes)
    times = [time(draw) for _ in codes]
    offsets, order = grouped(np.array(codes), len(sizes))
    in_order = sort_blocks(offsets, order, np.array(times))
    want = sorted(range(len(codes)), key=lambda row: (codes[row], times[row]))
    assert order.tolist() == want
    assert in_order.tolist() == [times[row] for row in want]
    assert np.diff(offsets).tolist() == sizes
