"""Entity keys become dense numbers, in the order in which the log first has them."""

import random

import pyarrow as pa
import pytest

from featurestore.batch.keys import key_index

LEAST, GREATEST = -(2**63), 2**63 - 1


def chunked(values, of=300):
    parts = [pa.array(values[i : i + of], pa.int64()) for i in range(0, len(values), of)]
    return pa.chunked_array(parts, pa.int64())


@pytest.mark.parametrize("distinct", [1, 20, 511, 512, 513, 5_000])
def test_integer_keys_are_numbered_in_the_order_of_their_first_rows(distinct):
    draw = random.Random(distinct)
    keys = [LEAST, GREATEST, 0, -1, *(draw.randrange(LEAST, GREATEST) for _ in range(distinct))][:distinct]
    rows = [*keys, *draw.choices(keys, k=3_000)]
    draw.shuffle(rows)
    index, codes = key_index([chunked(rows)])
    first = list(dict.fromkeys(rows))
    assert index.entities == distinct
    assert index.values[0].to_pylist() == first
    assert codes.tolist() == [first.index(key) for key in rows]
    assert index.find([pa.array(first)]).tolist() == list(range(distinct))


def test_a_null_key_has_no_number_and_others_keep_theirs():
    index, codes = key_index([chunked([7, None, 7, 8, None, 9], of=2)])
    assert codes.tolist() == [0, -1, 0, 1, -1, 2]
    assert index.find([pa.array([9, None, 10, 7])]).tolist() == [2, -1, -1, 0]


def test_keys_of_two_columns_are_numbered_together():
    index, codes = key_index([chunked([1, 1, 2, 2, 1], of=2), pa.array(["a", "b", "a", "a", "b"])])
    assert codes.tolist() == [0, 1, 2, 2, 1]
    assert index.find([pa.array([2, 2]), pa.array(["a", "b"])]).tolist() == [2, -1]


def test_no_rows_have_no_keys():
    index, codes = key_index([chunked([])])
    assert (index.entities, codes.tolist()) == (0, [])
