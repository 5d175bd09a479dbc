"""Keys as bytes: they come back, never meet, and sort as their values do."""

from __future__ import annotations

import time
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore import dtypes
from featurestore.dtypes import DType
from featurestore.store.entity_key import KEY_KINDS, decode_key, encode_key, encode_keys

INT64 = st.integers(-(2**63), 2**63 - 1)
NULLS = st.text(alphabet="\x00\x01aé\U0001f600", max_size=4)
DECIMAL = dtypes.decimal(38, 4)


def scaled(unscaled: int) -> Decimal:
    return Decimal((int(unscaled < 0), tuple(map(int, str(abs(unscaled)))), -4))


VALUES: dict[DType, st.SearchStrategy[object]] = {
    dtypes.INT64: INT64,
    dtypes.TIMESTAMP: INT64,
    dtypes.DATE: st.integers(-(2**31), 2**31 - 1),
    dtypes.STRING: st.one_of(NULLS, st.text(max_size=8)),
    dtypes.BINARY: st.one_of(st.binary(max_size=8), NULLS.map(lambda text: text.encode("utf-8"))),
    dtypes.BOOL: st.booleans(),
    dtypes.UUID: st.uuids().map(str),
    DECIMAL: st.integers(-(10**38) + 1, 10**38 - 1).map(scaled),
}
ONE_TYPE = st.sampled_from(list(VALUES)).flatmap(
    lambda dtype: st.tuples(
        st.just((dtype,)), st.lists(VALUES[dtype].map(lambda v: (v,)), min_size=2, max_size=6)
    )
)
MANY_TYPES = st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=3).flatmap(
    lambda kinds: st.tuples(
        st.just(tuple(kinds)), st.lists(st.tuples(*[VALUES[k] for k in kinds]), min_size=2, max_size=6)
    )
)
Keys = tuple[tuple[DType, ...], list[tuple[object, ...]]]


@given(MANY_TYPES)
def test_a_key_comes_back_and_two_different_keys_never_meet(case: Keys):
    kinds, keys = case
    encoded = [encode_key(key, kinds) for key in keys]
    assert [decode_key(key, kinds) for key in encoded] == keys
    assert len(set(encoded)) == len(set(keys))


@given(MANY_TYPES)
def test_the_bytes_sort_as_the_values_do(case: Keys):
    kinds, keys = case
    by_value = sorted(keys, key=lambda key: [v.encode() if isinstance(v, str) else v for v in key])
    assert [encode_key(key, kinds) for key in by_value] == sorted(encode_key(key, kinds) for key in keys)


@given(MANY_TYPES)
def test_columns_of_keys_have_the_bytes_of_their_single_keys(case: Keys):
    kinds, keys = case
    columns = [
        pa.array(column, kind.arrow) for column, kind in zip(zip(*keys, strict=True), kinds, strict=True)
    ]
    encoded = [encode_key(key, kinds) for key in keys]
    assert encode_keys(columns, kinds) == encoded
    assert encode_keys([column.slice(1) for column in columns], kinds) == encoded[1:]
    assert encode_keys([pa.chunked_array([c.slice(0, 1), c.slice(1)]) for c in columns], kinds) == encoded


@pytest.mark.parametrize(
    ("one", "other", "kinds"),
    [
        ((1, 23), (12, 3), (dtypes.INT64, dtypes.INT64)),
        (("a", "bc"), ("ab", "c"), (dtypes.STRING, dtypes.STRING)),
        (("", "a"), ("a", ""), (dtypes.STRING, dtypes.STRING)),
        (("\x00", ""), ("", "\x00"), (dtypes.STRING, dtypes.STRING)),
        (("a", -1), ("a\x00", -1), (dtypes.STRING, dtypes.INT64)),
        (("a", 2**63 - 1), ("a\x00", 2**63 - 1), (dtypes.STRING, dtypes.INT64)),
    ],
)
def test_composite_keys_never_collide(
    one: tuple[object, ...], other: tuple[object, ...], kinds: tuple[DType, ...]
):
    assert encode_key(one, kinds) != encode_key(other, kinds)


def test_a_uuid_is_sixteen_bytes_whatever_its_case():
    text = "0189f7ea-ae2c-7f5c-b5d5-6d6b8e1f2a3b"
    assert encode_key((text,), (dtypes.UUID,)) == encode_key((text.upper(),), (dtypes.UUID,))
    assert decode_key(encode_key((text.upper(),), (dtypes.UUID,)), (dtypes.UUID,)) == (text,)


def test_every_kind_of_key_is_tested_here():
    assert {dtype.kind for dtype in VALUES} == set(KEY_KINDS)


def test_a_hundred_thousand_keys_take_less_than_300_ms():
    kinds = (dtypes.INT64, dtypes.STRING)
    columns = [pa.array(range(100_000)), pa.array([f"customer {n}" for n in range(100_000)])]
    began_s = time.process_time()
    encode_keys(columns, kinds)
    assert time.process_time() - began_s < 0.3
