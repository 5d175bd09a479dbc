"""From an operation's raw results to Arrow: positions become values, bits become floats, the empty set its
value."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.kernel.blocks import I64, Bools
from featurestore.kernel.feature import Feature
from featurestore.kernel.items import Values


@dataclass(frozen=True)
class Result:
    """An operation's values in the questions' sorted order; ``empty`` bool[n] marks those of an empty set,
    ``flagged`` bool[n] or None those that no value can hold."""

    values: pa.Array
    empty: Bools
    flagged: Bools | None = None


def numbers(values: NDArray[np.generic], valid: Bools) -> pa.Array:
    """A numpy array as Arrow, null where not ``valid``."""
    return pa.array(values, mask=None if valid.all() else ~valid)


def decimals(words: NDArray[np.uint64], valid: Bools, dtype: pa.DataType) -> pa.Array:
    """Decimals from their unscaled integers, two little-endian words each, null where not ``valid``."""
    bitmap = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
    return pa.Array.from_buffers(dtype, len(valid), [bitmap, pa.py_buffer(np.ascontiguousarray(words))])


def lists(values: Values, offsets: I64, position: I64) -> pa.Array:
    """Lists of ``values``: list i holds those at ``position[offsets[i]:offsets[i + 1]]``; an empty one is
    null."""
    empty = offsets[1:] == offsets[:-1]
    return pa.ListArray.from_arrays(
        pa.array(offsets.astype(np.int32)), values.at(position), mask=pa.array(empty)
    )


def maps(keys: Values, offsets: I64, position: I64, counts: I64) -> pa.Array:
    """Maps from ``keys`` at ``position`` to ``counts``, laid out as in ``lists``; an empty one is null."""
    starts = offsets.astype(np.int32)
    empty = offsets[1:] == offsets[:-1]
    # A null start is a null map; the next one's start is its end.
    nulls = np.append(empty, False)
    return pa.MapArray.from_arrays(
        pa.array(starts, mask=nulls if nulls.any() else None), keys.at(position), pa.array(counts)
    )


def with_default(feature: Feature, result: Result) -> pa.Array:
    """The values, each of an empty set replaced by the feature's ``default=`` where there is one."""
    values = result.values
    if feature.default is None or not result.empty.any():
        return values
    filler = pa.array([feature.default], feature.dtype.arrow)
    index = np.where(result.empty, len(values), np.arange(len(values)))
    return pa.concat_arrays([values, filler]).take(pa.array(index))


def seconds(us: I64) -> NDArray[np.float64]:
    """Microseconds / 10^6, rounded once."""
    made: NDArray[np.float64] = us / 1e6
    # Up to 2^53 the conversion is exact, so the division rounds alone; beyond it Python divides integers
    # exactly.
    for i in np.flatnonzero(np.abs(us) > 2**53):
        made[i] = int(us[i]) / 1_000_000
    return made
