"""A digest of a table's schema and values, whatever its chunks and whatever lies under its nulls."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from hashlib import _Hash

# Of fixed width: the bytes of the values themselves are fed to the hash.
_ROWS = 1_000_000


def digest(table: pa.Table, threads: ThreadPoolExecutor | None = None) -> str:
    """SHA-256, in hex, over that of each column: its name, its type and its values in order."""
    return together(of_columns(table, threads))


def of_columns(table: pa.Table, threads: ThreadPoolExecutor | None = None) -> list[bytes]:
    """SHA-256 of each column: its name, its type and its values in order."""
    columns = list(zip(table.schema, table.columns, strict=True))
    return list((map if threads is None else threads.map)(lambda one: _of_column(*one), columns))


def together(columns: Sequence[bytes]) -> str:
    """The digest, in hex, of a table of columns with these digests."""
    return hashlib.sha256(b"".join(columns)).hexdigest()


def of_stream(tables: Iterable[pa.Table], names: Sequence[str]) -> str:
    """SHA-256, in hex, of rows that come table by table, however they are cut: of the columns ``names``, by
    their values alone."""
    columns = [hashlib.sha256(name.encode()) for name in names]
    rows = 0
    for table in _recut(tables):
        rows += table.num_rows
        for made, name in zip(columns, names, strict=True):
            column = table.column(name)
            _feed(made, column.chunk(0) if column.num_chunks == 1 else column.combine_chunks())
    return hashlib.sha256(b"".join([str(rows).encode(), *(made.digest() for made in columns)])).hexdigest()


def _recut(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows as tables of ``_ROWS`` rows; the last has fewer."""
    held: list[pa.Table] = []
    rows = 0
    for table in tables:
        held.append(table)
        rows += table.num_rows
        while rows >= _ROWS:
            whole = pa.concat_tables(held)
            yield whole.slice(0, _ROWS)
            held, rows = [whole.slice(_ROWS)], rows - _ROWS
    if rows:
        yield pa.concat_tables(held)


def _of_column(field: pa.Field, column: pa.ChunkedArray) -> bytes:
    made = hashlib.sha256(f"{field.name}\x00{field.type}\x00{len(column)}\x00".encode())
    for start in range(0, max(len(column), 1), _ROWS):
        part = column.slice(start, _ROWS)
        _feed(made, part.chunk(0) if part.num_chunks == 1 else part.combine_chunks())
    return made.digest()


def _feed(made: _Hash, array: pa.Array) -> None:
    t = pa.types
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    if isinstance(array.type, pa.BaseExtensionType):
        return _feed(made, array.storage)
    if t.is_dictionary(array.type):
        values = array.dictionary
        if t.is_string_view(values.type) or t.is_binary_view(values.type):
            # Views have no kernel that takes by index. Their digest is that of text and bytes of any width.
            values = values.cast(pa.large_binary())
        return _feed(made, pa.DictionaryArray.from_arrays(array.indices, values).dictionary_decode())
    if t.is_run_end_encoded(array.type):
        return _feed(made, pc.run_end_decode(array))
    if t.is_null(array.type):
        return None
    if t.is_union(array.type):
        made.update(repr(array.to_pylist()).encode())
        return None
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    made.update(np.packbits(valid).tobytes())
    if t.is_boolean(array.type):
        made.update(np.packbits(pc.fill_null(array, False).to_numpy(zero_copy_only=False)).tobytes())
    elif t.is_map(array.type) or t.is_list(array.type) or t.is_large_list(array.type):
        kept = array.drop_null() if array.null_count else array
        made.update(np.diff(kept.offsets.to_numpy(zero_copy_only=False)).astype(np.int64).tobytes())
        first, last = (kept.offsets[0].as_py(), kept.offsets[-1].as_py()) if len(kept) else (0, 0)
        if t.is_map(array.type):
            _feed(made, kept.keys.slice(first, last - first))
            _feed(made, kept.items.slice(first, last - first))
        else:
            _feed(made, kept.values.slice(first, last - first))
    elif t.is_fixed_size_list(array.type):
        _feed(made, array.drop_null().flatten())
    elif t.is_list_view(array.type) or t.is_large_list_view(array.type):
        kept = array.filter(array.is_valid())
        made.update(pc.list_value_length(kept).to_numpy(zero_copy_only=False).astype(np.int64).tobytes())
        _feed(made, kept.flatten())
    elif t.is_primitive(array.type) or t.is_decimal(array.type):
        width = array.type.bit_width // 8
        kept = array.drop_null() if array.null_count else array
        made.update(
            memoryview(kept.buffers()[1] or b"")[kept.offset * width : (kept.offset + len(kept)) * width]
        )
    elif t.is_struct(array.type):
        for part in array.flatten():
            _feed(made, part)
    else:
        # Text and bytes of any width: their lengths, then the bytes one after the other.
        # Views have no kernel that drops nulls: they are cast first.
        wide = array if t.is_fixed_size_binary(array.type) else array.cast(pa.large_binary())
        kept = wide.drop_null()
        made.update(pc.binary_length(kept).to_numpy(zero_copy_only=False).astype(np.int64).tobytes())
        made.update(b"".join(kept.to_pylist()))
    return None
