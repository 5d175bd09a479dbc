"""Spines: the rows that a training set is made for, each with entity keys and the time it asks about.

Every row is kept, in order, with its columns untouched. A naive time needs a ``timezone=``; a null one is
kept and counted.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.dtypes import STRING, TIMESTAMP, DType, from_arrow
from featurestore.errors import LogError, SpineError, suggestion
from featurestore.log.cast import cast_table
from featurestore.log.files import LogFile
from featurestore.log.spines import read_spine, spine_files
from featurestore.plan.nodes import EntityPlan

_WITH_OFFSET = re.compile(r"(Z|z|[+-]\d{2}(:?\d{2})?)\s*$")


@dataclass(frozen=True)
class Spine:
    """``table`` as given; ``as_of`` int64[rows], microseconds, meaningless where not ``timed`` bool[rows].
    ``files`` are those that it was read from, () for a table in memory; ``timezone`` that of naive times."""

    table: pa.Table
    time: str
    as_of: NDArray[np.int64]
    timed: NDArray[np.bool_]
    timezone: str | None = None
    files: tuple[LogFile, ...] = ()

    @property
    def rows(self) -> int:
        return int(self.table.num_rows)

    def keys(self, names: tuple[str, ...], dtypes: tuple[DType, ...], entity: str) -> list[pa.Array]:
        """The key columns of an entity, each as its canonical type."""
        made = []
        for name, dtype in zip(names, dtypes, strict=True):
            if name not in self.table.column_names:
                raise SpineError(
                    f'spine: no column "{name}", the key of entity "{entity}"',
                    hint=suggestion(name, self.table.column_names, what="columns"),
                )
            found = from_arrow(self.table.schema.field(name).type)
            if pa.types.is_null(self.table.schema.field(name).type):
                made.append(pa.nulls(self.rows, dtype.arrow))
                continue
            if found is None or not _comparable(found, dtype):
                raise SpineError(
                    f'spine: key "{name}" is {self.table.schema.field(name).type}, in the log it is {dtype}',
                    hint=f"cast the spine's column to {dtype}",
                )
            cast = cast_table(self.table.select([name]), {name: dtype}, timezone="UTC", time_unit=None)
            # A key that the entity's type can't hold is a key that no fact has.
            made.append(cast.table.column(name).combine_chunks())
        return made


def _comparable(found: DType, dtype: DType) -> bool:
    if found.kind == dtype.kind:
        return True
    return (found.kind, dtype.kind) in {
        ("string", "uuid"),
        ("uuid", "string"),
        ("binary", "uuid"),
        ("int64", "decimal"),
        ("decimal", "int64"),
    }


def texts_of(entities: Iterable[EntityPlan]) -> frozenset[str]:
    """The key columns that are text, though a spine's file may hold digits alone."""
    return frozenset(
        name
        for entity in entities
        for name, dtype in zip(entity.keys, entity.dtypes, strict=True)
        if dtype.kind in ("string", "uuid")
    )


def files_of(spine: object, root: Path) -> tuple[LogFile, ...]:
    """The files of a spine that is a path."""
    if not isinstance(spine, str | Path):
        return ()
    try:
        return spine_files(Path(spine), root)
    except LogError as error:
        raise SpineError(f"spine: {error.fact}", hint=error.hint) from None


def as_table(
    spine: object, root: Path, texts: Collection[str] = (), files: Sequence[LogFile] = ()
) -> pa.Table:
    """A path (Parquet, CSV, JSON lines; its ``files``), an Arrow table, or a pandas or polars frame, as an
    Arrow table. ``texts`` are the columns of a CSV that are text even where all of it are numbers."""
    if isinstance(spine, str | Path):
        try:
            return read_spine(Path(spine), root, texts, files)
        except LogError as error:
            raise SpineError(f"spine: {error.fact}", hint=error.hint) from None
    if isinstance(spine, pa.Table):
        return spine
    if isinstance(spine, pa.RecordBatch):
        return pa.Table.from_batches([spine])
    if type(spine).__module__.startswith("pandas") and hasattr(spine, "columns"):
        return _from_pandas(spine)
    if type(spine).__module__.startswith("polars") and hasattr(spine, "to_arrow"):
        from polars import CompatLevel

        # Without views: Arrow neither casts nor writes a dictionary of them, which is what a categorical is.
        return spine.to_arrow(compat_level=CompatLevel.oldest())
    if hasattr(spine, "__arrow_c_stream__"):
        return pa.table(spine)
    raise SpineError(
        f"spine: {type(spine).__name__} is not a table",
        hint="pass a path, an Arrow table, or a pandas or polars frame",
    )


def _from_pandas(frame: Any) -> pa.Table:
    names = [str(name) for name in frame.columns]
    _check_once(names)
    try:
        return pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    except (pa.ArrowException, TypeError, ValueError) as error:
        why = "; ".join(str(part) for part in reversed(error.args))
        raise SpineError(
            f"spine: {why[:1].lower()}{why[1:]}", hint="give each column values of one type, or drop it"
        ) from None


def _check_once(names: Sequence[str]) -> None:
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise SpineError(f'spine: two columns are named "{twice}"', hint="rename one of them")


def read(
    spine: object,
    *,
    time: str,
    timezone: str | None,
    root: Path,
    texts: Collection[str] = (),
    files: tuple[LogFile, ...] | None = None,
) -> Spine:
    """A spine with its times understood; SpineError says what is missing. ``texts``: see ``as_table``;
    ``files`` (default: those that there are) are what is read of a path."""
    if timezone is not None and not isinstance(timezone, str):
        raise SpineError(f"spine: timezone={timezone!r} is not a time zone", hint='name one: timezone="UTC"')
    if files is None:
        files = files_of(spine, root)
    # What a schema says besides its columns is about another table: the training set has more columns.
    table = as_table(spine, root, texts, files).replace_schema_metadata(None)
    names = table.column_names
    _check_once(names)
    if time not in names:
        index = getattr(getattr(spine, "index", None), "names", None)
        in_index = isinstance(index, Collection) and time in index
        raise SpineError(
            f'spine: no time column "{time}"',
            hint="it is the frame's index: pass frame.reset_index()"
            if in_index
            else suggestion(str(time), names, what="columns"),
        )
    kind = table.schema.field(time).type
    found = from_arrow(kind)
    if pa.types.is_null(kind):
        no_times = np.zeros(table.num_rows, np.int64), np.zeros(table.num_rows, np.bool_)
        return Spine(table, time, *no_times, timezone, files)
    if found is None or found.kind not in ("timestamp", "string", "date"):
        raise SpineError(
            f'spine: time column "{time}" is {kind}',
            hint="make it a timestamp, as pc.cast or pandas.to_datetime do",
        )
    column = table.column(time)
    if timezone is None:
        _check_aware(column, time, found)
    cast = cast_table(table.select([time]), {time: TIMESTAMP}, timezone=timezone or "UTC", time_unit=None)
    if cast.bad is not None:
        row, reason = cast.reasons[0]
        raise SpineError(
            f'spine: row {row + 1}, time column "{time}": {reason}', hint="mend it or make it null"
        )
    times = cast.table.column(time).combine_chunks()
    timed = times.is_valid().to_numpy(zero_copy_only=False)
    as_of = pc.fill_null(times.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
    return Spine(table, time, as_of, timed, timezone, files)


def _check_aware(column: pa.ChunkedArray, time: str, found: DType) -> None:
    naive = found.kind == "date" or (pa.types.is_timestamp(column.type) and column.type.tz is None)
    shown = ""
    if found == STRING:
        texts = pc.unique(column.cast(pa.large_string()).drop_null()).to_pylist()
        first = next((text for text in texts if _WITH_OFFSET.search(text) is None), None)
        naive, shown = first is not None, f': "{first}"'
    if naive and column.null_count < len(column):
        raise SpineError(
            f'spine: time column "{time}" has no timezone{shown}',
            hint='say which one it is in: timezone="UTC", or timezone="America/New_York"',
        )
