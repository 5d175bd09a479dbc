"""What the values of an operation column mean.

Time: none.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.dsl.table_source import OPERATIONS, TableSource
from featurestore.kernel.changes import DELETE, TRUNCATE, UPSERT
from featurestore.log.cells import CELL

I64 = NDArray[np.int64]

IGNORED, UNKNOWN = 3, 4
"""Beside the kernel's UPSERT, DELETE and TRUNCATE: what says nothing about rows, and what nothing is known
of."""

_CODES = {"r": UPSERT, "c": UPSERT, "u": UPSERT, "d": DELETE, "t": TRUNCATE, "m": IGNORED}


def meanings(source: TableSource) -> dict[str, str]:
    """Operation words, in lower case, and what they mean: the usual ones and the declared ones."""
    declared = {str(word).strip().lower(): meaning for word, meaning in (source.operations or {}).items()}
    return {**OPERATIONS, **declared}


def operation_codes(words: pa.Array, known: Mapping[str, str]) -> I64:
    """What each of ``words`` does: UPSERT, DELETE, TRUNCATE, IGNORED or UNKNOWN; in any case. A null is read
    as the empty text, which ``known`` may have a meaning for."""
    encoded = pc.fill_null(words, "").dictionary_encode()
    codes = [
        _CODES.get(known.get(word.strip().lower(), ""), UNKNOWN) for word in encoded.dictionary.to_pylist()
    ]
    if not codes:
        return np.zeros(len(words), np.int64)
    made: I64 = np.take(np.array(codes, np.int64), np.asarray(encoded.indices))
    return made


def claims_of(words: pa.Array, known: Mapping[str, str]) -> NDArray[np.bool_]:
    """Which of ``words`` claim that their row was there before: updates and deletes."""
    encoded = pc.fill_null(words, "").dictionary_encode()
    claims = [known.get(word.strip().lower(), "") in ("u", "d") for word in encoded.dictionary.to_pylist()]
    if not any(claims):
        return np.zeros(len(words), np.bool_)
    made: NDArray[np.bool_] = np.take(np.array(claims, np.bool_), np.asarray(encoded.indices))
    return made


def words_of(column: pa.Array) -> pa.Array:
    """An operation column as text."""
    if column.type == CELL:
        storage = column.storage
        return pc.if_else(storage.is_valid(), storage.field(1), pa.scalar(None, pa.string()))
    if pa.types.is_dictionary(column.type):
        column = pc.cast(column, column.type.value_type)
    return pc.cast(column, pa.string())
