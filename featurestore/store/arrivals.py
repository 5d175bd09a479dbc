"""Pushed rows as a training set reads them back: the rows of one push under the columns that are declared now."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from featurestore.dtypes import DType
from featurestore.errors import StoreError
from featurestore.store.payload import decode_arrivals


def arrived_versions(payload: bytes, columns: Mapping[str, DType]) -> pa.Table:
    """One push as a versions table of ``columns``; a column that did not exist then is null."""
    stored = decode_arrivals(payload)
    arrays = []
    for name, dtype in columns.items():
        index = stored.schema.get_field_index(name)
        if index < 0:
            arrays.append(pa.nulls(stored.num_rows, dtype.arrow))
        elif stored.schema.field(index).type != dtype.arrow:
            raise StoreError(
                f'pushed rows hold column "{name}" as {stored.schema.field(index).type}, it is declared {dtype}',
                hint="declare the type that it had: columns={...}",
            )
        else:
            arrays.append(stored.column(index))
    return pa.Table.from_arrays(arrays, schema=pa.schema([(name, dtype.arrow) for name, dtype in columns.items()]))
