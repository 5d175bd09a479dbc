"""Pushes: what is handed in as one commit each, cast to the source's columns, with bad rows refused one by
one.

Time: times are read as in the source's log; a missing ``available_at`` stays null here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.errors import RequestError, RowError, suggestion
from featurestore.kernel.changes import CLAIM_COLUMN, OPERATION_COLUMN
from featurestore.log.archive import flat_table
from featurestore.log.cast import cast_rows, cast_table
from featurestore.log.cells import cells_of, json_text
from featurestore.log.changes import flat_changes
from featurestore.log.versions import event_versions
from featurestore.plan.nodes import SourcePlan
from featurestore.store.pushed_envelopes import changes_of_envelopes, is_envelope, takes_envelopes
from featurestore.store.pushed_files import Row, pushed_messages, pushed_tables, table_of

# 5,000 rows of a file take some 20 ms, so that others get their turn.
CHUNK_ROWS = 5_000
# Casting and rejecting name the first thousand faults: of as many rows, all.
PIECE_ROWS = 1_000


@dataclass(frozen=True)
class Push:
    """Good rows of one push, in canonical columns (of a table: a changes table), and those that were refused;
    how many were tombstones and the like. Row i of ``table`` was row ``numbers[i]`` of the push; of a table's
    changes only."""

    table: pa.Table
    rejected: Sequence[tuple[int, str]] = ()
    ignored: int = 0
    numbers: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))


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
    messages = pushed_messages(path, plan) if takes_envelopes(plan) else None
    if messages is not None:
        for some in messages:
            for first in range(0, len(some), PIECE_ROWS):
                yield _good_messages(some[first : first + PIECE_ROWS], plan)
        return
    for table, numbers, refused in pushed_tables(path, list(_given(plan)), plan):
        if refused:
            yield Push(_empty(plan), refused)
        for first in range(0, table.num_rows, PIECE_ROWS):
            yield _good(table.slice(first, PIECE_ROWS), plan, numbers[first : first + PIECE_ROWS])


def _pieces(plan: SourcePlan, rows: object) -> Iterator[Push]:
    columns = _given(plan)
    if isinstance(rows, pa.Table):
        unknown = [name for name in rows.column_names if name not in columns]
        if unknown:
            raise RequestError(
                f'no column "{unknown[0]}" in source "{plan.name}"',
                hint=suggestion(unknown[0], columns, what="columns"),
            )
        for first in range(0, rows.num_rows, PIECE_ROWS):
            part = rows.slice(first, PIECE_ROWS)
            yield _good(part, plan, np.arange(first + 1, first + 1 + part.num_rows))
        return
    if not isinstance(rows, Sequence) or not all(isinstance(row, Mapping | None) for row in rows):
        raise RequestError(
            "rows are a path, a list of dicts or an Arrow table", hint='as [{"id": "t1", ...}]'
        )
    for first in range(0, len(rows), PIECE_ROWS):
        some = rows[first : first + PIECE_ROWS]
        yield _good_rows(some, plan, np.arange(first + 1, first + 1 + len(some)))


def _good_rows(
    rows: Sequence[Mapping[str, object] | None], plan: SourcePlan, numbers: NDArray[np.int64]
) -> Push:
    """Rows that are handed in. A None is what a null is in a pushed file: a tombstone where the log holds
    Debezium's envelopes, and no row elsewhere."""
    present = [row for row in rows if row is not None]
    if len(present) == len(rows):
        return _good(present, plan, numbers)
    there = np.array([row is not None for row in rows], np.bool_)
    nulls = numbers[~there].tolist()
    if takes_envelopes(plan):
        others = Push(_empty(plan), ignored=len(nulls))
    else:
        others = Push(_empty(plan), [(number, "it is not a JSON object") for number in nulls])
    return joined([_good(present, plan, numbers[there]), others], plan)


def _good(
    raw: pa.Table | Sequence[Mapping[str, object]], plan: SourcePlan, numbers: NDArray[np.int64]
) -> Push:
    # Without entity keys: a row may be keyless for one entity of the source and not for another.
    if plan.changes is not None:
        return _good_changes(raw, plan, plan.changes.op, numbers)
    if isinstance(raw, pa.Table):
        cast = cast_table(raw, plan.schema, timezone=plan.timezone, time_unit=plan.time_unit)
    else:
        cast = cast_rows(raw, plan.schema, timezone=plan.timezone, time_unit=plan.time_unit)
    made = event_versions(cast, plan, ())
    return Push(made.table, [(int(numbers[row]), reason) for row, reason in made.rejected])


def _good_messages(lines: Sequence[tuple[int, bytes, Row | None]], plan: SourcePlan) -> Push:
    """Lines of a file: envelopes and tombstones, flat rows among them."""
    assert plan.changes is not None
    flat = [(number, row) for number, _, row in lines if row is not None and not is_envelope(row, plan)]
    others = [(number, text) for number, text, row in lines if row is None or is_envelope(row, plan)]
    pushes = [_good_envelopes([text for _, text in others], plan, np.array([n for n, _ in others], np.int64))]
    if flat:
        table = table_of([row for _, row in flat], _given(plan))
        pushes.append(_good_changes(table, plan, plan.changes.op, np.array([n for n, _ in flat], np.int64)))
    return joined(pushes, plan)


def _good_envelopes(texts: Sequence[bytes], plan: SourcePlan, numbers: NDArray[np.int64]) -> Push:
    made = changes_of_envelopes(texts, plan, numbers)
    return Push(
        pa.concat_tables([_empty(plan), *made.tables]).combine_chunks(),
        sorted(made.rejected),
        made.ignored,
        np.concatenate([np.empty(0, np.int64), *made.numbers]),
    )


def _good_changes(
    raw: pa.Table | Sequence[Mapping[str, object]], plan: SourcePlan, op: str, numbers: NDArray[np.int64]
) -> Push:
    """Flat rows with an operation column, whatever the format of the source's log is; where it is Debezium's,
    its envelopes, too."""
    if takes_envelopes(plan) and not isinstance(raw, pa.Table):
        enveloped = np.array([is_envelope(row, plan) for row in raw], np.bool_)
        if enveloped.any():
            texts = [json_text(row).encode() for row, one in zip(raw, enveloped, strict=True) if one]
            flat = [row for row, one in zip(raw, enveloped, strict=True) if not one]
            pushes = [
                _good_envelopes(texts, plan, numbers[enveloped]),
                _good_changes(flat, plan, op, numbers[~enveloped]),
            ]
            return joined(pushes, plan)
    refused: list[tuple[int, str]] = []
    if not isinstance(raw, pa.Table):
        known = _given(plan)
        stays = []
        for number, row in zip(numbers.tolist(), raw, strict=True):
            unknown = next((str(name) for name in row if name not in known), None)
            if unknown is None:
                stays.append(row)
            else:
                refused.append((number, f'no column "{unknown[:80]}" in the source'))
        if refused:
            out = {number for number, _ in refused}
            numbers = numbers[[number not in out for number in numbers.tolist()]]
        raw = pa.table({name: cells_of([row.get(name) for row in stays]) for name in (*plan.schema, op)})
    made = flat_changes(raw, flat_table(plan), (), plan.schema)
    refused += [(int(numbers[row]), reason) for row, reason in made.rejected]
    left = numbers if made.rows is None else numbers[made.rows]
    return Push(made.with_claims(), sorted(refused), made.ignored, left)


def _given(plan: SourcePlan) -> Sequence[str]:
    """The columns that a pushed row may have."""
    return [*plan.schema, plan.changes.op] if plan.changes is not None else list(plan.schema)


def joined(pushes: Sequence[Push], plan: SourcePlan) -> Push:
    if len(pushes) == 1:
        return pushes[0]
    tables = [push.table for push in pushes] or [_empty(plan)]
    return Push(
        pa.concat_tables(tables).combine_chunks(),
        sorted(row for push in pushes for row in push.rejected),
        sum(push.ignored for push in pushes),
        np.concatenate([np.empty(0, np.int64), *(push.numbers for push in pushes)]),
    )


def _empty(plan: SourcePlan) -> pa.Table:
    operation = [] if plan.changes is None else [(OPERATION_COLUMN, pa.int64()), (CLAIM_COLUMN, pa.bool_())]
    return pa.schema([*((name, dtype.arrow) for name, dtype in plan.columns), *operation]).empty_table()


def all_or_none(push: Push, plan: SourcePlan) -> Push:
    if push.rejected:
        shown = "; ".join(f"row {row}: {reason}" for row, reason in push.rejected[:5])
        raise RowError(
            f'source "{plan.name}": nothing is written, {len(push.rejected):,} rows are refused ({shown})',
            hint="mend them, or push without atomic and strict to leave them out",
            rows=push.rejected,
        )
    return push
