"""Pushed rows as a training set reads them back: the rows of one push under the columns that are declared
now."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
from sqlalchemy import select

from featurestore.dtypes import DType
from featurestore.errors import StoreError
from featurestore.kernel.versions import HASH_COLUMN
from featurestore.store.payload import decode_arrivals
from featurestore.store.snapshot import Snapshot
from featurestore.store.tables import commits


def arrived_versions(payload: bytes, columns: Mapping[str, DType], *, hashes: bool = False) -> pa.Table:
    """One push as a versions table of ``columns``; a column that did not exist then is null.

    With ``hashes``, changes whose content was erased bring its hash along, in a further column that other
    pushes lack.
    """
    stored = decode_arrivals(payload)
    arrays = []
    for name, dtype in columns.items():
        index = stored.schema.get_field_index(name)
        if index < 0:
            arrays.append(pa.nulls(stored.num_rows, dtype.arrow))
        elif stored.schema.field(index).type != dtype.arrow:
            raise StoreError(
                f'pushed rows hold column "{name}" as {stored.schema.field(index).type}, '
                f"it is declared {dtype}",
                hint="declare the type that it had: columns={...}",
            )
        else:
            arrays.append(stored.column(index))
    table = pa.Table.from_arrays(
        arrays, schema=pa.schema([(name, dtype.arrow) for name, dtype in columns.items()])
    )
    if hashes and HASH_COLUMN in stored.column_names:
        table = table.append_column(HASH_COLUMN, stored.column(HASH_COLUMN))
    return table


def last_arrival_before(snapshot: Snapshot, commit_number: int) -> int:
    """The number of the last row that was pushed before a commit: later ones were written to what it made."""
    c = commits.c
    rows = snapshot._rows(select(c.last_arrival).where(c.number == commit_number))
    return rows[0][0] if rows else 0
