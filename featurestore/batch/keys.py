"""Entity keys as dense numbers: equal keys, column by column, get equal numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.kernel.numbering import numbered

I64 = NDArray[np.int64]
Codes = NDArray[np.int32] | NDArray[np.int64]


@dataclass(frozen=True)
class KeyIndex:
    """The keys of ``entities`` entities: ``values`` hold each column's distinct values, ``pairs`` the
    distinct combinations of the columns so far with the next, as one integer each."""

    entities: int
    values: tuple[pa.Array, ...]
    pairs: tuple[pa.Array, ...]

    def find(self, columns: Sequence[pa.Array]) -> I64:
        """The number of each row's key, -1 for a key that isn't in the index or has a null."""
        code = _found(columns[0], self.values[0])
        for column, values, pairs in zip(columns[1:], self.values[1:], self.pairs, strict=True):
            part = _found(column, values)
            pair = np.where((code < 0) | (part < 0), -1, code * len(values) + part)
            code = _found(pa.array(pair), pairs)
        return code


def _found(column: pa.Array, values: pa.Array) -> I64:
    index = pc.index_in(column, value_set=values, skip_nulls=True)
    made: I64 = pc.fill_null(index, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return made


def key_index(columns: Sequence[pa.Array | pa.ChunkedArray]) -> tuple[KeyIndex, Codes]:
    """An index of the keys in ``columns``, one array a key column, and each row's number: -1 where a key is
    null."""
    values: list[pa.Array] = []
    pairs: list[pa.Array] = []
    code: Codes | None = None
    for column in columns:
        dictionary, part = _encoded(column)
        values.append(dictionary)
        if code is None:
            code = part
            continue
        missing = (code < 0) | (part < 0)
        both = code.astype(np.int64) * len(dictionary) + part
        pair, code = _encoded(pa.array(both, mask=missing if missing.any() else None))
        pairs.append(pair)
    assert code is not None
    entities = len(pairs[-1]) if pairs else len(values[0])
    return KeyIndex(entities, tuple(values), tuple(pairs)), code


def _encoded(column: pa.Array | pa.ChunkedArray) -> tuple[pa.Array, Codes]:
    """The distinct values of a column in the order of their first rows, and each row's place among them."""
    if pa.types.is_int64(column.type) and not column.null_count:
        chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
        distinct, numbers = numbered((np.asarray(chunk) for chunk in chunks), len(column))
        return pa.array(distinct), numbers
    encoded = pc.dictionary_encode(column)
    chunks = [encoded]
    if isinstance(encoded, pa.ChunkedArray):
        chunks = encoded.unify_dictionaries().chunks
    if not chunks:
        return pa.array([], column.type), np.empty(0, np.int32)
    codes = np.empty(len(column), np.int32)
    filled = 0
    for chunk in chunks:
        indices = pc.fill_null(chunk.indices, -1) if chunk.null_count else chunk.indices
        codes[filled : filled + len(chunk)] = indices.to_numpy(zero_copy_only=False)
        filled += len(chunk)
    return chunks[0].dictionary, codes
