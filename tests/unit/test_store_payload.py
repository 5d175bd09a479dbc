"""Payloads give back what they were made of, bit for bit, in few bytes; anything else is refused."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from decimal import Decimal
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore import dtypes
from featurestore.dtypes import DType
from featurestore.errors import StoreError
from featurestore.store.payload import (
    PayloadReader,
    decode,
    decode_arrivals,
    encode_arrivals,
    encode_runs,
    encode_versions,
)

DECIMAL = dtypes.decimal(38, 4)
INT64 = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.integers(-3, 3), st.sampled_from([-(2**63), 2**63 - 1])
)
EVERY_TYPE: dict[DType, st.SearchStrategy[object]] = {
    dtypes.INT64: INT64,
    dtypes.TIMESTAMP: st.one_of(
        INT64, st.integers(0, 2000).map(lambda s: 1_700_000_000_000_000 + s * 1_000_000)
    ),
    dtypes.FLOAT64: st.floats(),
    dtypes.BOOL: st.booleans(),
    dtypes.DATE: st.integers(-(2**31), 2**31 - 1),
    dtypes.STRING: st.text(max_size=12),
    dtypes.BINARY: st.binary(max_size=30),
    dtypes.UUID: st.uuids().map(str),
    DECIMAL: st.integers(-(10**38) + 1, 10**38 - 1).map(
        lambda n: Decimal((int(n < 0), tuple(map(int, str(abs(n)))), -4))
    ),
}
for item in (dtypes.FLOAT64, dtypes.STRING, dtypes.BOOL, DECIMAL):
    EVERY_TYPE[dtypes.list_of(item)] = st.lists(st.none() | EVERY_TYPE[item], max_size=4)
EVERY_TYPE[dtypes.list_of(dtypes.list_of(dtypes.INT64))] = st.lists(
    st.none() | st.lists(st.none() | INT64, max_size=3), max_size=3
)


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    kinds = draw(st.lists(st.sampled_from(list(EVERY_TYPE)), min_size=1, max_size=5))
    rows = draw(st.integers(0, 20))
    columns = {}
    for n, kind in enumerate(kinds):
        value = EVERY_TYPE[kind] if draw(st.booleans()) else st.none() | EVERY_TYPE[kind]
        columns[f"c{n}"] = pa.array(draw(st.lists(value, min_size=rows, max_size=rows)), kind.arrow)
    columns["__hash"] = pa.array(
        draw(st.lists(st.binary(min_size=16, max_size=16), min_size=rows, max_size=rows)), pa.binary(16)
    )
    return pa.table(columns)


def numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Instants and dates as integers: Python's own end at the year 9999."""
    if pa.types.is_timestamp(column.type):
        return column.cast(pa.int64())
    return column.cast(pa.int32()) if pa.types.is_date(column.type) else column


def bits(table: pa.Table) -> list[object]:
    """Every value, a float as its bits: NaN equals itself and -0.0 is not 0.0."""

    def of(value: object) -> object:
        if isinstance(value, float):
            return struct.pack("<d", value)
        return [of(item) for item in value] if isinstance(value, list) else value

    return [of(numbers(column).to_pylist()) for column in table.columns]


def cuts(draw_from: Sequence[int], rows: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array([0, *sorted(cut % (rows + 1) for cut in draw_from), rows], np.int64)


@given(tables(), st.lists(st.integers(0, 100), max_size=5))
def test_runs_come_back_bit_for_bit_wherever_they_are_cut(table: pa.Table, draw_from: list[int]):
    bounds = cuts(draw_from, table.num_rows)
    payloads = encode_runs(table, bounds)
    assert bits(decode(payloads, table.schema)) == bits(table)
    decode(payloads, table.schema).validate(full=True)
    read, rows = PayloadReader(table.schema).read(payloads)
    assert rows.tolist() == np.diff(bounds).tolist() and read.schema == table.schema
    for payload, (first, end) in zip(payloads, pairwise(bounds), strict=True):
        assert bits(decode([payload], table.schema)) == bits(table.slice(first, end - first))


@given(tables(), st.lists(st.integers(0, 100), max_size=5))
def test_law_2_a_payload_depends_on_its_values_alone(table: pa.Table, draw_from: list[int]):
    """Not on the table that it was cut from, on what lies under a null or on how the table is chunked."""
    bounds = cuts(draw_from, table.num_rows)
    chunked = pa.concat_tables([table.slice(a, b - a) for a, b in pairwise(bounds)])
    for n, payload in enumerate(encode_runs(table, bounds)):
        part = table.slice(bounds[n], bounds[n + 1] - bounds[n])
        assert encode_versions(part) == payload
        again = pa.table([pa.array(numbers(c).to_pylist(), c.type) for c in part.columns], schema=part.schema)
        assert encode_versions(again) == payload
    assert encode_versions(chunked) == encode_versions(table)


@given(tables(), st.lists(st.integers(0, 100), max_size=5))
def test_decoded_buffers_do_not_depend_on_the_cuts(table: pa.Table, draw_from: list[int]):
    whole = decode([encode_versions(table)], table.schema)
    parts = decode(encode_runs(table, cuts(draw_from, table.num_rows)), table.schema)
    for one, other in zip(whole.columns, parts.columns, strict=True):
        one, other = one.combine_chunks(), other.combine_chunks()
        for a, b in zip(one.buffers(), other.buffers(), strict=True):
            assert (a is None) == (b is None) and (a is None or a.to_pybytes() == b.to_pybytes())


@given(tables(), st.data())
def test_a_cut_or_foreign_payload_is_refused_and_never_read_beyond(table: pa.Table, data: st.DataObject):
    payload = encode_versions(table)
    cut = data.draw(st.integers(0, len(payload) - 1))
    with pytest.raises(StoreError, match="has not the columns"):
        decode([payload, payload[:cut]], table.schema)
    with pytest.raises(StoreError, match="has not the columns"):
        decode([bytes([2]) + payload[1:]], table.schema)
    with pytest.raises(StoreError, match="has not the columns"):
        decode([payload], table.schema.append(pa.field("more", pa.int64())))


def test_no_payloads_are_an_empty_table():
    schema = pa.schema({"ts": pa.timestamp("us", "UTC"), "tags": pa.list_(pa.string())})
    assert decode([], schema) == schema.empty_table()


def test_what_lies_under_a_null_list_is_left_out():
    values = pa.array([1, 2, 3, 4, 5, 6])
    mask = pa.array([False, True, False])
    lists = pa.ListArray.from_arrays(pa.array([0, 2, 4, 6], pa.int32()), values, mask=mask)
    table = pa.table({"tags": lists.slice(1)})
    assert decode([encode_versions(table)], table.schema).to_pydict() == {"tags": [None, [5, 6]]}


def transactions(rows: int) -> pa.Table:
    random = np.random.default_rng(1)
    return pa.table(
        {
            "ts": pa.array(
                np.sort(random.integers(0, 31_536_000, rows)) * 1_000_000, pa.timestamp("us", "UTC")
            ),
            "transaction_id": pa.array(random.integers(0, 10**9, rows)),
            "amount": pa.array(np.round(random.lognormal(3, 1, rows))),
            "__hash": pa.array([random.bytes(16) for _ in range(rows)], pa.binary(16)),
        }
    )


def test_a_hundred_versions_take_less_than_their_raw_bytes_and_one_takes_little_more():
    # 40 raw bytes a row. Instants in whole seconds, ids below 2^32, whole amounts: 4 + 4 + 2; the hash 16.
    assert len(encode_versions(transactions(100))) < 100 * 28 + 100
    assert len(encode_versions(transactions(1))) < 80


def test_a_push_is_kept_with_its_schema():
    for rows in (1, 1000):
        pushed = transactions(rows)
        assert decode_arrivals(encode_arrivals(pushed)) == pushed
    with pytest.raises(StoreError, match="unknown format"):
        decode_arrivals(b"\x02...")
