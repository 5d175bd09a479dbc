"""The change feed of a Delta table.

Time: ``_commit_timestamp`` is when a version was committed. One commit may delete a row and insert it again:
its deletes stand before all else.

The image of a row before an update says nothing, unless no row has its primary key after the update: then the
update has moved the row to another key, and the image is the old key's delete.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.dsl.table_source import TableSource
from featurestore.dtypes import INT64, DType
from featurestore.kernel.changes import DELETE
from featurestore.log.cast import cast_table
from featurestore.log.change_columns import CHANGE_TYPE, COMMIT_VERSION, DELTA_POSITION
from featurestore.log.change_rows import RawChanges
from featurestore.log.files import LogFile
from featurestore.log.key_hashes import Hashes, hashes, no_hashes, places, sorting
from featurestore.log.operations import meanings, operation_codes, words_of
from featurestore.log.scan import RawBatch, scan

I64 = NDArray[np.int64]

PREIMAGE, POSTIMAGE = "update_preimage", "update_postimage"


@dataclass(frozen=True)
class Images:
    """Of each updated row its commit and primary key ``before`` and ``after`` the update, as sorted
    hashes."""

    before: Hashes
    after: Hashes


def images(
    source: TableSource, columns: Mapping[str, DType], root: Path, files: Sequence[LogFile] | None
) -> Images:
    """What all files say of updated rows: an update's two images may lie in different ones."""
    assert source.log is not None
    before, after = [no_hashes()], [no_hashes()]
    for batch in scan(source.log, root, [*source.primary_keys, COMMIT_VERSION, CHANGE_TYPE], files):
        for word, found in ((PREIMAGE, before), (POSTIMAGE, after)):
            of_word = _is(batch.table, word)
            if of_word.any():
                found.append(_keys(batch.table, source, columns)[of_word])
    return Images(_in_order(before), _in_order(after))


def _in_order(parts: Sequence[Hashes]) -> Hashes:
    found = np.concatenate(parts)
    return found[sorting(found)]


def raw_changes(
    batch: RawBatch, source: TableSource, columns: Mapping[str, DType], images: Images
) -> RawChanges:
    """The rows of a change feed as changes."""
    table = batch.table
    words = pa.nulls(table.num_rows, pa.string())
    if CHANGE_TYPE in table.column_names:
        words = words_of(table.column(CHANGE_TYPE).combine_chunks())
    operation = operation_codes(words, meanings(source))
    before = np.flatnonzero(_is(table, PREIMAGE))
    if len(before):
        keys = _keys(table, source, columns)[before]
        found = places(images.after, keys)[1]
        moved = np.zeros(table.num_rows, np.bool_)
        moved[before[~found]] = True
        operation = np.where(moved, DELETE, operation)
    entering = np.zeros(table.num_rows, np.bool_)
    if len(images.before):  # a feed without them says nothing of keys that change
        after = np.flatnonzero(_is(table, POSTIMAGE))
        entering[after] = ~places(images.before, _keys(table, source, columns)[after])[1]
    order = DELTA_POSITION[1]
    if order in columns:
        table = table.append_column(order, pa.array((operation != DELETE).astype(np.int64)))
    # A deleted row's image has that row's available_at.
    return RawChanges(
        table,
        operation,
        words,
        batch.file,
        batch.first_row,
        entering=entering,
        of_before=operation == DELETE,
    )


def _is(table: pa.Table, word: str) -> NDArray[np.bool_]:
    if CHANGE_TYPE not in table.column_names:
        return np.zeros(table.num_rows, np.bool_)
    words = words_of(table.column(CHANGE_TYPE).combine_chunks())
    return np.asarray(pc.fill_null(pc.equal(pc.ascii_lower(words), word), False))


def _keys(table: pa.Table, source: TableSource, columns: Mapping[str, DType]) -> Hashes:
    types = {name: columns[name] for name in source.primary_keys} | {COMMIT_VERSION: INT64}
    cast = cast_table(table, types, timezone=source.timezone, time_unit=source.time_unit).table
    return hashes(cast, list(types))
