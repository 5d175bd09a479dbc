"""Casts: a value as another type, null and flagged where that type can't hold it.

A string is cast when all of it, trimmed, is the literal (``expression_text``); a float to an integer rounds
half to even. A date is its first instant in UTC, and an instant's date the one that it falls on in UTC.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.dtypes import DType
from featurestore.kernel import expression_decimal, expression_text
from featurestore.kernel.expression_arrays import Flagged, nulled, numbers, packed, valid

DAY_US = 86_400_000_000


def cast(array: pa.Array, target: DType) -> Flagged:
    """``array`` as ``target``, a cast that ``expression_types.CASTS`` allows."""
    source, dtype = array.type, target.arrow
    if pa.types.is_decimal(source):
        return _from_decimal(array, target)
    if source == pa.string():  # of a uuid too, which is canonical text
        return (array, None) if target.kind == "string" else _from_text(array, target)
    if source == dtype:
        return array, None
    match target.kind:
        case "int64":
            return _float_to_int(array) if source == pa.float64() else (array.cast(pa.int64()), None)
        case "float64":
            values, mask = numbers(array)
            return packed(values.astype(np.float64), mask, dtype), None
        case "decimal" if source == pa.float64():
            return expression_decimal.from_float64(array, dtype)
        case "decimal":
            return expression_decimal.from_int64(array, dtype)
        case "bool":
            return pc.not_equal(array, 0), None
        case "string":
            return array.cast(pa.string()), None
        case "date":
            values, mask = numbers(array)
            return packed(np.floor_divide(values, DAY_US), mask, dtype), None
        case "timestamp":
            values, mask = numbers(array)
            days = values.astype(np.int64)
            return nulled(days * DAY_US, mask, np.abs(days) > 2**63 // DAY_US, dtype)
    raise AssertionError(target)


def _from_decimal(array: pa.Array, target: DType) -> Flagged:
    match target.kind:
        case "int64":
            return expression_decimal.to_int64(array)
        case "float64":
            return expression_decimal.to_float64(array), None
        case "string":
            return _by_value(array, pa.string(), lambda value: format(value, "f"))
    return (array, None) if array.type == target.arrow else expression_decimal.rescaled(array, target.arrow)


def _float_to_int(array: pa.Array) -> Flagged:
    values, mask = numbers(array)
    rounded = np.rint(values)
    # 2.0**63 is the first float64 that int64 does not hold; a NaN is inside nothing.
    inside = (rounded >= -(2.0**63)) & (rounded < 2.0**63)
    return nulled(np.where(inside, rounded, 0.0).astype(np.int64), mask, ~inside, pa.int64())


def _from_text(array: pa.Array, target: DType) -> Flagged:
    return _by_value(array, target.arrow, lambda text: expression_text.read(text, target))


def _by_value(array: pa.Array, dtype: pa.DataType, function: Callable[[Any], Any]) -> Flagged:
    """``function`` of each distinct value, in Python; its None is a null, flagged."""
    encoded = pc.dictionary_encode(array)
    results = pa.array([function(value) for value in encoded.dictionary.to_pylist()], dtype)
    taken = results.take(encoded.indices)
    if results.null_count == 0:
        return taken, None
    after, before = valid(taken), valid(array)
    failed = np.zeros(len(array), np.bool_) if after is None else ~after
    if before is not None:
        failed = failed & before
    return taken, failed if failed.any() else None
