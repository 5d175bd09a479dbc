"""Pushes: what is handed in as one commit each, cast to the source's columns, with bad rows refused one by
one.

Time: times are read as in the source's log; a missing ``available_at`` stays null here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.errors import RequestError, RowError, suggestion
from featurestore.log.cast import Cast, cast_rows, cast_table
from featurestore.log.versions import event_versions
from featurestore.plan.nodes import SourcePlan
from featurestore.store.pushed_files import pushed_tables

# 5,000 rows of a file take some 20 ms, so that others get their turn.
CHUNK_ROWS = 5_000
# Casting and rejecting name the first thousand faults: of as many rows, all.
PIECE_ROWS = 1_000


@dataclass(frozen=True)
class Push:
    """Good rows of one push, in canonical columns, and those that were refused."""

    table: pa.Table
    rejected: Sequence[tuple[int, str]] = ()


def pushes_of(root: Path, plan: SourcePlan, rows: object) -> Iterator[Push]:
    """What to commit, one after another: a file's chunks, or all that was handed in at once."""
    if not isinstance(rows, str | Path):
        yield joined(list(_pieces(plan, rows)), plan)
        return
    some: list[Push] = []
    for piece in _pieces_of_file(root / Path(rows).expanduser(), plan):
        some.append(piece)
        if len(some) * PIECE_ROWS >= CHUNK_ROWS:
            yield joined(some, plan)
            some = []
    yield joined(some, plan)


def _pieces_of_file(path: Path, plan: SourcePlan) -> Iterator[Push]:
    for table, numbers, refused in pushed_tables(path, list(plan.schema), plan):
        if refused:
            yield Push(_empty(plan), refused)
        for first in range(0, table.num_rows, PIECE_ROWS):
            part = table.slice(first, PIECE_ROWS)
            cast = cast_table(part, plan.schema, timezone=plan.timezone, time_unit=plan.time_unit)
            yield _good(cast, plan, numbers[first : first + PIECE_ROWS])


def _pieces(plan: SourcePlan, rows: object) -> Iterator[Push]:
    columns = plan.schema
    if isinstance(rows, pa.Table):
        unknown = [name for name in rows.column_names if name not in columns]
        if unknown:
            raise RequestError(
                f'no column "{unknown[0]}" in source "{plan.name}"',
                hint=suggestion(unknown[0], columns, what="columns"),
            )
        for first in range(0, rows.num_rows, PIECE_ROWS):
            part = rows.slice(first, PIECE_ROWS)
            cast = cast_table(part, columns, timezone=plan.timezone, time_unit=plan.time_unit)
            yield _good(cast, plan, np.arange(first + 1, first + 1 + part.num_rows))
        return
    if not isinstance(rows, Sequence) or not all(isinstance(row, Mapping) for row in rows):
        raise RequestError(
            "rows are a path, a list of dicts or an Arrow table", hint='as [{"id": "t1", ...}]'
        )
    for first in range(0, len(rows), PIECE_ROWS):
        some = rows[first : first + PIECE_ROWS]
        cast = cast_rows(some, columns, timezone=plan.timezone, time_unit=plan.time_unit)
        yield _good(cast, plan, np.arange(first + 1, first + 1 + len(some)))


def _good(cast: Cast, plan: SourcePlan, numbers: NDArray[np.int64]) -> Push:
    # Without entity keys: a row may be keyless for one entity of the source and not for another.
    made = event_versions(cast, plan, ())
    return Push(made.table, [(int(numbers[row]), reason) for row, reason in made.rejected])


def joined(pushes: Sequence[Push], plan: SourcePlan) -> Push:
    if len(pushes) == 1:
        return pushes[0]
    tables = [push.table for push in pushes] or [_empty(plan)]
    return Push(
        pa.concat_tables(tables).combine_chunks(), sorted(row for push in pushes for row in push.rejected)
    )


def _empty(plan: SourcePlan) -> pa.Table:
    return pa.schema([(name, dtype.arrow) for name, dtype in plan.columns]).empty_table()


def all_or_none(push: Push, plan: SourcePlan) -> Push:
    if push.rejected:
        shown = "; ".join(f"row {row}: {reason}" for row, reason in push.rejected[:5])
        raise RowError(
            f'source "{plan.name}": nothing is written, {len(push.rejected):,} rows are refused ({shown})',
            hint="mend them, or push without atomic to leave them out",
            rows=push.rejected,
        )
    return push
