"""Where rows came from: the file and the row in it, for reports that name them.

Time: none.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from featurestore.log.change_rows import Changes

I64 = NDArray[np.int64]

STORED, PUSHED = "the store", "pushed rows"


@dataclass(frozen=True, order=True)
class Place:
    """Where a row is: a file of the log and the row in it, counted from 1; ``path`` is empty for a row of the
    push at hand, ``row`` None where no single row is meant."""

    path: str
    row: int | None

    def text(self) -> str:
        told = [self.path] if self.path else []
        return ", ".join([*told, f"row {self.row:,}"] if self.row is not None else told)


@dataclass
class Origins:
    """Where the rows of tables that are put one after another came from."""

    _first: list[int] = field(default_factory=list)
    _parts: list[tuple[str, int, I64 | None]] = field(default_factory=list)
    _rows: int = 0
    _kept: I64 | None = None

    def add(self, path: str, rows: int, first_row: int, numbers: I64 | None = None) -> None:
        """A table of ``rows`` rows: row i is row ``numbers[i]`` of ``path``, or ``first_row + i``, counted
        from 0."""
        if rows:
            self._first.append(self._rows)
            self._parts.append((path, first_row, numbers))
            self._rows += rows

    def add_changes(self, changes: Changes, source: str) -> None:
        path = source if changes.file is None else changes.file.shown
        self.add(path, changes.table.num_rows, changes.first_row, changes.rows)

    def add_push(self, first_number: int, rows: int, left: int) -> None:
        """Pushed rows, numbered from ``first_number`` on; where only some are ``left``, of what was
        forgotten, their numbers are not told."""
        self.add(PUSHED, left, first_number - 1, None if rows == left else np.full(left, -1))

    def keep(self, rows: I64 | None) -> None:
        """From here on, row i is what was row ``rows[i]`` (None: nothing has changed)."""
        self._kept = rows

    def pieces(self, rows: I64) -> tuple[I64, I64]:
        """Of some rows the number of the table that each came from, and its row there, counted from 0; less
        than 0 where no single one is meant."""
        rows = rows if self._kept is None else self._kept[rows]
        piece = np.searchsorted(np.array(self._first, np.int64), rows, side="right") - 1
        number = np.empty(len(rows), np.int64)
        for one in np.unique(piece).tolist():
            _, first_row, numbers = self._parts[one]
            mine = piece == one
            within = rows[mine] - self._first[one]
            number[mine] = first_row + within if numbers is None else numbers[within]
        return piece, number

    def piece(self, number: int) -> tuple[str, int]:
        """A table's path, and the row of it that came first."""
        path, first_row, _ = self._parts[number]
        return path, first_row

    def of(self, row: int) -> Place:
        """Where row ``row`` of the tables together came from."""
        row = row if self._kept is None else int(self._kept[row])
        part = bisect_right(self._first, row) - 1
        path, first_row, numbers = self._parts[part]
        within = row - self._first[part]
        number = first_row + within if numbers is None else int(numbers[within])
        return Place(path, number + 1 if number >= 0 else None)
