"""The type that a column of a log is cast to.

Time: an integer is an instant only where the source declares its unit.
"""

from __future__ import annotations

import pyarrow as pa

from featurestore import dtypes
from featurestore.dtypes import TIMESTAMP, DType
from featurestore.errors import DefinitionError
from featurestore.log.arrays import CASTS, family


def column_type(
    source: str, name: str, arrow: pa.DataType, asked: DType | None, *, time_unit: str | None
) -> DType:
    """The type of a source's column that the log has as ``arrow``: ``asked``, or the one that holds all of
    the log's values. DefinitionError where there is none, or where they can't become it."""
    label = f'source "{source}", column "{name}"'
    held = dtypes.from_arrow(arrow)
    dtype = asked or held
    if dtype is None:
        empty = pa.types.is_null(arrow)
        raise DefinitionError(
            f"{label}: {'it is null in every row' if empty else f'no type holds what the log has ({arrow})'}",
            hint=f'declare its type: columns={{"{name}": "string"}}'
            if empty
            else "leave it out of the declaration",
        )
    if dtype == TIMESTAMP and family(arrow) == "int" and time_unit is None:
        raise DefinitionError(
            f"{label}: its times are integers of no declared unit",
            hint='declare the unit that they count since 1970-01-01 UTC: time_unit="s", "ms", "us" or "ns"',
        )
    if not _castable(arrow, dtype):
        raise DefinitionError(
            f"{label}: the log has {held or arrow}, which can't become {dtype}",
            hint=f"{dtype} is made of {', '.join(sorted(CASTS[dtype.kind]))}",
        )
    return dtype


def _castable(arrow: pa.DataType, dtype: DType) -> bool:
    of = family(arrow)
    if of == "list" and dtype.kind == "list" and dtype.item is not None:
        return _castable(arrow.value_type, dtype.item)
    return of == "null" or of in CASTS[dtype.kind]
