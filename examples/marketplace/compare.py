"""One feature in several training sets of one spine, side by side.

python compare.py user_orders__balance then.parquet noon.parquet now.parquet
"""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def compared(feature: str, paths: list[Path]) -> pa.Table:
    """The spine's columns, then the feature as each file has it, under the file's name."""
    tables = [pq.read_table(path) for path in paths]
    spine = [name for name in tables[0].column_names if "__" not in name]
    columns = [tables[0].column(name) for name in spine] + [table.column(feature) for table in tables]
    return pa.Table.from_arrays(columns, names=spine + [path.stem for path in paths])


def shown(table: pa.Table) -> str:
    cells = [[name, *("-" if one is None else str(one) for one in table.column(name).to_pylist())]
             for name in table.column_names]  # fmt: skip
    widths = [max(map(len, column)) for column in cells]
    rows = zip(*cells, strict=True)
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


if __name__ == "__main__":
    print(shown(compared(sys.argv[1], [Path(path) for path in sys.argv[2:]])))
