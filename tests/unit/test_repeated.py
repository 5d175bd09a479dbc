"""Which rows share their key with another row of their block: where an event has several versions."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.kernel.blocks import grouped, repeated

# Few of these, so that they meet; some differ only where the filter does not look.
KEYS = st.one_of(
    st.integers(-3, 3), st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**8).map(lambda n: n << 50)
)


def by_counting(codes: list[int], keys: list[int]) -> list[bool]:
    met = Counter(pair for pair in zip(codes, keys, strict=True) if pair[0] >= 0)
    return [met[code, key] > 1 for code, key in zip(codes, keys, strict=True)]


def found(codes: list[int], keys: list[int], entities: int) -> list[bool]:
    offsets, order = grouped(np.array(codes, np.int64), entities)
    return repeated(offsets, order, np.array(keys, np.int64)).tolist()


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(-1, 3), KEYS), max_size=120))
def test_a_key_is_repeated_where_its_block_has_it_twice(rows: list[tuple[int, int]]):
    codes, keys = [code for code, _ in rows], [key for _, key in rows]
    assert found(codes, keys, 4) == by_counting(codes, keys)


def test_of_many_keys_of_one_block_exactly_the_equal_ones_are_repeated():
    draw = np.random.default_rng(1)
    keys = draw.integers(-(2**63), 2**63 - 1, 50_000)
    keys[draw.integers(0, 50_000, 500)] = keys[draw.integers(0, 50_000, 500)]
    codes = draw.integers(0, 2, 50_000).tolist()
    wanted = by_counting(codes, keys.tolist())
    assert found(codes, keys.tolist(), 2) == wanted and 200 < sum(wanted) < 1_500
