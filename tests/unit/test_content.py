"""The content hash against an oracle that builds the bytes and hashes them with plain Python integers."""

from __future__ import annotations

import datetime
import math
import struct
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.kernel.content import content_hash, hash64, mm3_128

M = 2**64 - 1
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def oracle_mm3_128(data: bytes, seed: int = 0) -> bytes:
    """MurmurHash3 x64 128 by its public description; the result as 16 bytes."""
    c1, c2 = 0x87C37B91114253D5, 0x4CF5AD432745937F

    def rotate(word: int, bits: int) -> int:
        return (word << bits | word >> (64 - bits)) & M

    def fmix(word: int) -> int:
        word = (word ^ word >> 33) * 0xFF51AFD7ED558CCD & M
        word = (word ^ word >> 33) * 0xC4CEB9FE1A85EC53 & M
        return word ^ word >> 33

    h1 = h2 = seed
    whole = len(data) // 16 * 16
    for at in range(0, whole, 16):
        k1, k2 = struct.unpack_from("<QQ", data, at)
        h1 ^= rotate(k1 * c1 & M, 31) * c2 & M
        h1 = ((rotate(h1, 27) + h2) * 5 + 0x52DCE729) & M
        h2 ^= rotate(k2 * c2 & M, 33) * c1 & M
        h2 = ((rotate(h2, 31) + h1) * 5 + 0x38495AB5) & M
    k1, k2 = struct.unpack("<QQ", data[whole:].ljust(16, b"\0"))
    h1 ^= rotate(k1 * c1 & M, 31) * c2 & M
    h2 ^= rotate(k2 * c2 & M, 33) * c1 & M
    h1, h2 = h1 ^ len(data), h2 ^ len(data)
    h1 = (h1 + h2) & M
    h2 = (h2 + h1) & M
    h1, h2 = fmix(h1), fmix(h2)
    h1 = (h1 + h2) & M
    h2 = (h2 + h1) & M
    return struct.pack("<QQ", h1, h2)


def oracle_digest(value: Any, kind: pa.DataType) -> bytes:
    t = pa.types
    if t.is_boolean(kind):
        payload = b"\1" + bytes([value])
    elif t.is_int64(kind):
        payload = b"\2" + struct.pack("<q", value)
    elif t.is_float64(kind):
        canonical = math.nan if math.isnan(value) else value + 0.0
        payload = b"\3" + struct.pack("<d", canonical)
    elif t.is_string(kind):
        payload = b"\4" + value.encode()
    elif t.is_binary(kind):
        payload = b"\5" + value
    elif t.is_timestamp(kind):
        payload = b"\6" + struct.pack("<q", (value - EPOCH) // datetime.timedelta(microseconds=1))
    elif t.is_date(kind):
        payload = b"\7" + struct.pack("<q", value.toordinal() - datetime.date(1970, 1, 1).toordinal())
    elif t.is_decimal(kind):
        payload = b"\10" + int(value.scaleb(kind.scale)).to_bytes(16, "little", signed=True)
    else:
        assert t.is_list(kind)
        payload = b"\11" + b"".join(
            b"\0" if element is None else b"\1" + oracle_digest(element, kind.value_type) for element in value
        )
    return oracle_mm3_128(payload)


def oracle_row(row: dict[str, Any], types: dict[str, pa.DataType]) -> tuple[int, int]:
    state = bytes(16)
    for name in sorted(row):
        if row[name] is not None:
            value = oracle_digest(row[name], types[name])
            state = oracle_mm3_128(state + oracle_mm3_128(name.encode()) + value)
    return struct.unpack("<QQ", state)


def pairs(hashes: np.ndarray) -> list[tuple[int, int]]:
    return [(int(h1), int(h2)) for h1, h2 in hashes]


KINDS: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.bool_(), st.booleans()),
    (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    (pa.float64(), st.floats()),
    (pa.string(), st.text(max_size=40)),
    (pa.binary(), st.binary(max_size=40)),
    (pa.timestamp("us", "UTC"), st.datetimes(timezones=st.just(datetime.UTC))),
    (pa.date32(), st.dates()),
    (pa.decimal128(28, 5), st.integers(-(10**28) + 1, 10**28 - 1).map(lambda n: Decimal(n).scaleb(-5))),
    (pa.list_(pa.int64()), st.lists(st.none() | st.integers(-5, 5), max_size=5)),
    (pa.list_(pa.list_(pa.string())), st.lists(st.none() | st.lists(st.none() | st.text()), max_size=3)),
]  # fmt: skip


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    n = draw(st.integers(0, 12))
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4))
    name = st.text(min_size=1, max_size=4)
    names = draw(st.lists(name, min_size=len(kinds), max_size=len(kinds), unique=True))
    columns = []
    for kind, values in kinds:
        items = draw(st.lists(st.none() | values, min_size=n, max_size=n))
        cut = draw(st.integers(0, n))
        # Chunks that are slices of longer arrays: offsets, bitmaps and bits begin in the middle of a byte.
        padded = pa.array([None, *items[:cut], None], kind).slice(1, cut)
        columns.append(pa.chunked_array([padded, pa.array(items[cut:], kind)], kind))
    return pa.table(columns, names=names)


@settings(max_examples=150, deadline=None)
@given(tables())
def test_every_row_has_the_hash_of_its_canonical_bytes(table: pa.Table) -> None:
    types = {field.name: field.type for field in table.schema}
    expected = [oracle_row(row, types) for row in table.to_pylist()]
    assert pairs(content_hash(table, list(reversed(table.column_names)))) == expected


@given(st.binary(max_size=100))
def test_bytes_hash_as_the_public_description_says(data: bytes) -> None:
    assert struct.pack("<QQ", *mm3_128(data)) == oracle_mm3_128(data)


def test_the_oracle_has_the_verification_value_of_the_public_reference() -> None:
    hashes = b"".join(oracle_mm3_128(bytes(range(i)), seed=256 - i) for i in range(256))
    assert oracle_mm3_128(hashes)[:4] == struct.pack("<I", 0x6384BA69)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (0, 0)),
        ("hello", (0xCBD8A7B341BD9B02, 0x5B1E906A48AE1D19)),
        ("hello, world", (0x342FAC623A5EBC8E, 0x4CDCBC079642414D)),
        ("19 Jan 2038 at 3:14:07 AM", (0xB89E5988B737AFFC, 0x664FC2950231B2CB)),
        ("The quick brown fox jumps over the lazy dog", (0xE34BBC7BBC071B6C, 0x7A433CA9C49A9347)),
    ],
)
def test_bytes_have_the_published_hashes(text: str, expected: tuple[int, int]) -> None:
    assert mm3_128(text.encode()) == expected


def hash_of(**columns: pa.Array) -> list[tuple[int, int]]:
    return pairs(content_hash(pa.table(columns), list(columns)))


def test_a_column_of_nulls_changes_no_hash() -> None:
    ids = pa.array([1, 2])
    assert hash_of(id=ids, added=pa.nulls(2, pa.string())) == hash_of(id=ids)


def test_zeros_are_equal_and_nans_are_equal() -> None:
    (other_nan,) = struct.unpack("<d", struct.pack("<Q", 0xFFF0000000000001))
    hashes = hash_of(x=pa.array(np.array([0.0, -0.0, math.nan, other_nan])))
    assert hashes[0] == hashes[1] and hashes[2] == hashes[3]


def test_a_value_keeps_its_type_and_its_column() -> None:
    as_int = hash_of(a=pa.array([5]))
    as_time = hash_of(a=pa.array([5], pa.timestamp("us", "UTC")))
    elsewhere = hash_of(b=pa.array([5]))
    assert len({*as_int, *as_time, *elsewhere}) == 3


def test_lists_that_join_to_the_same_elements_differ() -> None:
    nested = pa.list_(pa.list_(pa.int64()))
    values: Sequence[Any] = [[[1], [2]], [[1, 2]], [[1, 2], []], [[1, 2], None], []]
    assert len(set(hash_of(x=pa.array(values, nested)))) == len(values)


def test_a_table_of_many_batches_has_the_hashes_of_its_rows() -> None:
    words = pa.array([f"word {i % 1000}" if i % 7 else None for i in range(150_000)])
    lists = pa.array([[i % 1000, None] if i % 5 else None for i in range(150_000)], pa.list_(pa.int64()))
    hashes = hash_of(word=words, numbers=lists)
    period = 35_000  # the least common multiple of 1000, 7 and 5
    assert hashes[:-period] == hashes[period:]
    assert len(set(hashes)) > 34_000 / 35 * 24 / 35


def test_hash64_groups_equal_values_and_nulls() -> None:
    day = datetime.date(2020, 1, 1)
    for kind, values in [
        (pa.int64(), [3, None, 3, -3, None]),
        (pa.string(), ["x", None, "x", "y", None]),
        (pa.date32(), [day, None, day, datetime.date(1960, 1, 1), None]),
        (pa.list_(pa.int64()), [[1, None], None, [1, None], [1], None]),
    ]:
        array = pa.array(values, kind)
        hashes = hash64(array)
        assert hashes[0] == hashes[2] and hashes[1] == hashes[4]
        assert len(set(hashes.tolist())) == 3
        assert (hash64(pa.chunked_array([array.slice(1), array]))[4:] == hashes).all()


def test_hash64_of_an_integer_is_the_finalizer_of_murmur3() -> None:
    assert hash64(pa.array([0, 1])).tolist() == [0, 0xB456BCFC34C2CB2C]


def test_a_type_without_a_hash_is_named() -> None:
    with pytest.raises(TypeError, match="int32 is not the Arrow type"):
        hash_of(x=pa.array([1], pa.int32()))
