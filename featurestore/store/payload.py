"""Payloads: runs of one entity's versions as bytes, and many payloads as one Arrow table again.

The store keeps payloads and looks at none of their columns; ``event_time`` is a column like any other. The
first byte is a payload's format, so that another one can be added. Why this one and not Arrow IPC, LZ4 or
Zstandard: docs/design/0002-payload.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.errors import StoreError
from featurestore.store import packing
from featurestore.store.packing import (
    AT_BITMAP,
    AT_BYTES,
    AT_VALUES,
    BOOL,
    BYTES,
    DECIMAL,
    FIXED,
    INT32,
    INT64,
    LIST,
    ROWS,
)

I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]

T = TypeVar("T", bound=np.generic)

_NO_BYTES = np.zeros(0, np.uint8)


def encode_versions(versions: pa.Table | pa.RecordBatch) -> bytes:
    """One payload of all rows."""
    return encode_runs(versions, np.array([0, versions.num_rows], np.int64))[0]


def encode_runs(versions: pa.Table | pa.RecordBatch, bounds: I64, entered: I64 | None = None) -> list[bytes]:
    """A payload for each run ``versions[bounds[i] : bounds[i + 1]]``.

    ``bounds`` is int64, ascending, from 0 to the number of rows. Columns have canonical types (``dtypes``) or
    are fixed-size binary. ``entered`` int64[rows]: the commits at which the versions entered the store, where
    that is not the commit that writes the payloads.
    """
    assert bounds[0] == 0 and bounds[-1] == versions.num_rows
    nodes: list[_Packed] = []
    for column in versions.columns:
        _flatten(_whole(column), bounds, nodes)
    sizes = np.full(len(bounds) - 1, packing.HEADER_BYTES, np.int64)
    head = packing.FORMAT | len(nodes) << 16
    if entered is not None:
        head |= packing.FOLDED
        commits = _Lane(entered, _NO_BYTES, bounds, sizes)
    for node in nodes:
        node.measure(sizes)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    out = np.zeros(starts[-1], np.uint8)
    at = starts[:-1].copy()
    packing.pack_counts(np.full(len(sizes), head, np.int64), 4, at, out)
    packing.pack_counts(np.diff(bounds), 4, at, out)
    if entered is not None:
        commits.pack(at, out)
    for node in nodes:
        node.pack(at, out)
    data = out.data
    return [data[first:end].tobytes() for first, end in pairwise(starts.tolist())]


def decode(payloads: Sequence[bytes], schema: pa.Schema) -> pa.Table:
    """The versions of all payloads in one table, payload after payload."""
    return reader(schema).read(payloads)[0]


class PayloadReader:
    """Reads payloads of one schema; hold it where they are read often."""

    def __init__(self, schema: pa.Schema) -> None:
        nodes: list[tuple[int, int, int]] = []
        self.schema = schema
        self._builders = tuple(_builder(field.type, -1, nodes) for field in schema)
        self._shape = np.array(nodes, np.int64).reshape(-1, 3)

    def read(self, payloads: Sequence[bytes]) -> tuple[pa.Table, I64]:
        """The versions of all payloads in one table, payload after payload, and how many each has."""
        data, lengths = _joined(payloads)
        rows = np.empty(len(payloads), np.int64)
        layout = np.empty((len(self._shape), 4), np.int64)
        size, block = packing.unpack(data, lengths, self._shape, rows, layout)
        if size < 0:
            raise StoreError(
                f"a payload of {lengths[-1 - size]} bytes has not the columns {', '.join(self.schema.names)}",
                hint="the store is damaged or was written by a newer featurestore",
            )
        buffer, places = pa.py_buffer(block), layout.tolist()
        arrays = [build(buffer, places) for build in self._builders]
        return pa.Table.from_arrays(arrays, schema=self.schema), rows


def _joined(payloads: Sequence[bytes]) -> tuple[U8, I64]:
    lengths = np.array([len(payload) for payload in payloads], np.int64)
    return np.frombuffer(b"".join([*payloads, packing.PADDING]), np.uint8), lengths


def is_folded(payload: bytes) -> bool:
    """Whether a payload says itself when its versions entered the store."""
    return payload[1] == packing.FOLDED >> 8


def entry_commits(payloads: Sequence[bytes], rows: I64, commits: I64) -> I64:
    """The commit at which each version entered the store, payload after payload. ``rows`` int64[payloads]:
    how many each has, as a reader tells them; ``commits`` int64[payloads]: the number of each stored row."""
    data, lengths = _joined(payloads)
    return packing.unpack_entered(data, lengths, rows, commits)


@lru_cache(maxsize=256)
def reader(schema: pa.Schema) -> PayloadReader:
    """The reader of a schema, made once; hashing a schema takes as long as reading a payload."""
    return PayloadReader(schema)


def encode_arrivals(rows: pa.Table) -> bytes:
    """One push as an Arrow stream with its schema: a source may have gained columns when it is read again."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd" if rows.num_rows > 100 else None)
    with pa.ipc.new_stream(sink, rows.schema, options=options) as writer:
        writer.write_table(rows)
    stream: bytes = sink.getvalue().to_pybytes()
    return b"\x01" + stream


def decode_arrivals(payload: bytes) -> pa.Table:
    """The rows of one push, in their order."""
    if payload[:1] != b"\x01":
        raise StoreError("an arrival has an unknown format", hint="upgrade the package")
    with pa.ipc.open_stream(pa.py_buffer(payload)[1:]) as reader:
        return reader.read_all()


# Packing


class _Lane:
    """Integers of each run, measured; ``valid`` says which of them count, empty for all."""

    def __init__(self, values: I64, valid: U8, bounds: I64, sizes: I64) -> None:
        runs = len(sizes)
        self._packed = (values, valid, bounds)
        self._head = (np.empty(runs, np.int64), np.empty(runs, np.uint64), np.empty(runs, np.int64))
        packing.measure_integers(*self._packed, *self._head, sizes)

    def pack(self, at: I64, out: U8) -> None:
        packing.pack_integers(*self._packed, *self._head, at, out)


@dataclass
class _Packed:
    """One node of the schema, ready to be packed: ``lanes`` of integers, or bytes."""

    bounds: I64
    valid: U8
    lanes: tuple[I64, ...] = ()
    bits: U8 | None = None
    items: tuple[U8, int] | None = None
    spans: tuple[U8, I64] | None = None
    counts: I64 | None = None

    def measure(self, sizes: I64) -> None:
        runs = len(sizes)
        self._nulls = np.empty(runs, np.uint8)
        packing.measure_nulls(self.valid, self.bounds, self._nulls, sizes)
        # A null's length is 0 already, and lengths are read back without asking for nulls.
        valid = self.valid if self.counts is None else _NO_BYTES
        self._measured = [_Lane(values, valid, self.bounds, sizes) for values in self.lanes]
        rows = np.diff(self.bounds)
        if self.bits is not None:
            sizes += (rows + 7) // 8
        if self.items is not None:
            sizes += rows * self.items[1]
        if self.counts is not None:
            sizes += 4 if self.spans is None else 4 + self.counts

    def pack(self, at: I64, out: U8) -> None:
        packing.pack_nulls(self.valid, self.bounds, self._nulls, at, out)
        for lane in self._measured:
            lane.pack(at, out)
        if self.bits is not None:
            packing.pack_bools(self.bits, self.bounds, at, out)
        if self.items is not None:
            packing.pack_fixed(self.items[0], self.valid, self.items[1], self.bounds, at, out)
        if self.spans is not None:
            packing.pack_bytes(*self.spans, self.lanes[0], self.bounds, at, out)
        elif self.counts is not None:
            packing.pack_counts(self.counts, 4, at, out)


def _flatten(array: pa.Array, bounds: I64, nodes: list[_Packed]) -> None:
    """The nodes of one column in pre-order."""
    kind, width = _kind(array.type)
    valid = _NO_BYTES
    if array.null_count:
        valid = array.is_valid().to_numpy(zero_copy_only=False).view(np.uint8)
    n, offset = len(array), array.offset
    match kind:
        case packing.INT64:
            lane = _view(array.buffers()[1], np.dtype(np.int64), offset, n)
            nodes.append(_Packed(bounds, valid, lanes=(lane,)))
        case packing.INT32:
            days = _view(array.buffers()[1], np.dtype(np.int32), offset, n).astype(np.int64)
            nodes.append(_Packed(bounds, valid, lanes=(days,)))
        case packing.DECIMAL:
            both = _view(array.buffers()[1], np.dtype(np.int64), 2 * offset, 2 * n)
            lanes = (both[0::2].copy(), both[1::2].copy())
            nodes.append(_Packed(bounds, valid, lanes=lanes))
        case packing.FIXED:
            items = _view(array.buffers()[1], np.dtype(np.uint8), width * offset, width * n)
            nodes.append(_Packed(bounds, valid, items=(items, width)))
        case packing.BOOL:
            bits = array.fill_null(False).to_numpy(zero_copy_only=False).view(np.uint8)
            nodes.append(_Packed(bounds, valid, bits=bits))
        case _:
            offsets = _view(array.buffers()[1], np.dtype(np.int32), offset, n + 1 if n else 0).astype(
                np.int64
            )
            lengths = np.diff(offsets)
            if len(valid):
                lengths[valid == 0] = 0
            ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])[bounds]
            if kind == BYTES:
                data = array.buffers()[2]
                spans = (_NO_BYTES if data is None else np.frombuffer(data, np.uint8), offsets[:-1])
                nodes.append(_Packed(bounds, valid, lanes=(lengths,), spans=spans, counts=np.diff(ends)))
            else:
                nodes.append(_Packed(bounds, valid, lanes=(lengths,), counts=np.diff(ends)))
                # flatten leaves out what lies under a null list and outside of a slice.
                _flatten(_whole(pc.list_flatten(array)), ends, nodes)


def _whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            raise AssertionError("2 GiB of text at once: encode in smaller batches")
    return column


def _view(buffer: pa.Buffer | None, dtype: np.dtype[T], first: int, count: int) -> NDArray[T]:
    if buffer is None or count == 0:
        return np.zeros(0, dtype)
    return np.frombuffer(buffer, dtype, offset=first * dtype.itemsize, count=count)


# Unpacking

Builder = Callable[[pa.Buffer, list[list[int]]], pa.Array]


def _builder(arrow: pa.DataType, parent: int, nodes: list[tuple[int, int, int]]) -> Builder:
    kind, width = _kind(arrow)
    node = len(nodes)
    nodes.append((kind, width, parent))
    from_buffers = pa.Array.from_buffers

    def bitmap(block: pa.Buffer, place: list[int]) -> pa.Buffer | None:
        return None if place[AT_BITMAP] < 0 else block.slice(place[AT_BITMAP], (place[ROWS] + 7) // 8)

    if kind == LIST:
        item = _builder(arrow.value_type, node, nodes)

        def build_list(block: pa.Buffer, places: list[list[int]]) -> pa.Array:
            place = places[node]
            offsets = block.slice(place[AT_VALUES], 4 * (place[ROWS] + 1))
            nulls = bitmap(block, place)
            return from_buffers(arrow, place[ROWS], [nulls, offsets], -1, 0, [item(block, places)])

        return build_list

    if kind == BYTES:

        def build_bytes(block: pa.Buffer, places: list[list[int]]) -> pa.Array:
            place = places[node]
            offsets = block.slice(place[AT_VALUES], 4 * (place[ROWS] + 1))
            return from_buffers(
                arrow, place[ROWS], [bitmap(block, place), offsets, block.slice(place[AT_BYTES])]
            )

        return build_bytes

    def build(block: pa.Buffer, places: list[list[int]]) -> pa.Array:
        place = places[node]
        return from_buffers(arrow, place[ROWS], [bitmap(block, place), block.slice(place[AT_VALUES])])

    return build


def _kind(arrow: pa.DataType) -> tuple[int, int]:
    """A canonical Arrow type's kind of node, and the bytes of one value in a block."""
    t = pa.types
    if t.is_int64(arrow) or t.is_float64(arrow) or (t.is_timestamp(arrow) and arrow.unit == "us"):
        return INT64, 8
    if t.is_date32(arrow):
        return INT32, 4
    if t.is_decimal128(arrow):
        return DECIMAL, 16
    if t.is_fixed_size_binary(arrow):
        return FIXED, arrow.byte_width
    if t.is_boolean(arrow):
        return BOOL, 0
    if t.is_string(arrow) or t.is_binary(arrow):
        return BYTES, 0
    if t.is_list(arrow):
        return LIST, 0
    raise AssertionError(f"{arrow} is not a canonical type")
