"""Conflicts: different changes of one row at one position. That of the greatest content hash counts, all are
told.

Time: none decides anything here; what is compared is what the caller takes as known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.errors import RowError
from featurestore.kernel.versions import HASH_COLUMN, single
from featurestore.log.origins import STORED, Place
from featurestore.store.changes import ChangeLayout, hashes_of
from featurestore.store.placement import Placement

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]

SHOWN = 10
"""Of conflicts, and of the changes of each, so many are named."""


@dataclass(frozen=True)
class Conflict:
    """A row by its primary key, a position, where the change that ``counts`` stands, and where the
    ``others``."""

    row: str
    position: str
    counts: Place
    others: tuple[Place, ...]

    def text(self) -> str:
        others = "; ".join(place.text() for place in self.others)
        return f"row {self.row} at position {self.position}: {self.counts.text()} counts, not {others}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Conflict:
        """What ``to_dict`` made of one."""
        others = tuple(Place(**place) for place in told["others"])
        return cls(told["row"], told["position"], Place(**told["counts"]), others)


def conflicts_among(
    table: pa.Table,
    rows: Iterable[int],
    *,
    primary_key: Sequence[str],
    position: Sequence[str],
    hashes: Callable[[I64], U64],
    known: NDArray[np.bool_] | None,
    where: Callable[[int], Place],
) -> list[Conflict]:
    """The conflicts that ``rows`` of a table take part in, each once; ``hashes`` are those of contents."""
    found: list[Conflict] = []
    done: set[int] = set()
    for row in rows:
        if row in done or len(found) >= SHOWN:
            continue
        here = np.ones(table.num_rows, np.bool_) if known is None else known.copy()
        for name in (*position, *primary_key):
            # By position first: few changes share one, and integers are compared fast.
            column = single(table, name)
            left = np.flatnonzero(here)
            same = pc.equal(column.take(pa.array(left)) if len(left) < len(here) else column, column[row])
            here[left] = np.asarray(pc.fill_null(same, False))
        mine = np.flatnonzero(here)
        done.update(mine.tolist())
        contents: dict[tuple[int, ...], int] = {}
        for one, content in zip(mine.tolist(), hashes(mine).tolist(), strict=True):
            contents.setdefault(tuple(content), one)
        if len(contents) < 2:
            continue
        places = [where(contents[content]) for content in sorted(contents, reverse=True)]
        row_name, at = (
            ", ".join(str(single(table, name)[row].as_py()) for name in names)
            for names in (primary_key, position)
        )
        found.append(Conflict(row_name, at, places[0], tuple(places[1 : SHOWN + 1])))
    return found


def conflicts_of(made: Placement, layout: ChangeLayout, where: Callable[[int], Place]) -> list[Conflict]:
    """The conflicts that a delivery makes, within itself and with what stands in the store; ``where`` takes
    the rows that ``made.conflicting`` has."""
    if not len(made.conflicting):
        return []
    changes, rows = made.delivered.changes, made.delivered.rows
    names = [*layout.primary_key, *layout.position]
    table, hashes = changes.table.select(names), changes.hashes
    delivered = table.num_rows
    stands = made.standing
    if stands is not None and stands.select(names).schema.types == table.schema.types:
        table = pa.concat_tables([table, stands.select(names).cast(table.schema)])
        hashes = np.concatenate([hashes, hashes_of(single(stands, HASH_COLUMN))])

    def place(row: int) -> Place:
        return where(int(rows[row])) if row < delivered else Place(STORED, None)

    return conflicts_among(
        table.combine_chunks(),
        np.searchsorted(rows, made.conflicting).tolist(),
        primary_key=layout.primary_key,
        position=layout.position,
        hashes=lambda some: hashes[some],
        known=None,
        where=place,
    )


def refused(
    source: str,
    *,
    conflicts: Sequence[Conflict] = (),
    rejected: Sequence[str] = (),
    count: int,
    written: str,
    rows: Iterable[tuple[int, str]] = (),
) -> RowError:
    """What ``--strict`` raises: the first of ``count`` conflicts or rejected rows, and what is ``written``
    all the same."""
    what = f"{count:,} row{'' if count == 1 else 's'} {'in conflict' if conflicts else 'rejected'}"
    told = [conflict.text() for conflict in conflicts] or list(rejected)
    more = f"\n  ... and {count - len(told):,} more" if count > len(told) else ""
    lines = "".join(f"\n  {one}" for one in told)
    return RowError(
        f'source "{source}", strict: {what}; {written}{lines}{more}',
        hint="mend the log, or run it without --strict: of changes at one position the greater content counts"
        if conflicts
        else "mend the log, or run it without --strict: bad rows are left out and counted",
        rows=rows,
    )
