"""The type of a column of text or of cells, found over all of its values.

Time: text in ISO 8601 is a time or a date. Integers are never taken for times; the source's ``time_unit``
says so.

A column of text gets the narrowest of int64, float64, bool, date, timestamp that every value is a literal of,
else string. Digits that a number would lose stay text: leading zeros, a plus sign, integers beyond int64.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.log import literals
from featurestore.log.cells import BOOLEAN, LIST, NULL, NUMBER, OTHER, TEXT, cells_of, parse_json

INT, FLOAT, BOOL, DATE, TIME = 1, 2, 4, 8, 16
_ALL = INT | FLOAT | BOOL | DATE | TIME
_TYPES: list[tuple[int, pa.DataType]] = [
    (INT, pa.int64()), (FLOAT, pa.float64()), (BOOL, pa.bool_()), (DATE, pa.date32()),
    (TIME, pa.timestamp("us", "UTC")),
]  # fmt: skip
_OPAQUE = pa.struct([])
_KIND_NAMES = {NUMBER: "number", TEXT: "text", BOOLEAN: "boolean", LIST: "list", OTHER: "object"}
_WORDS = pa.array(["NaN", "Infinity", "-Infinity"])


@dataclass
class TextColumn:
    """What the values of a column of text seen so far could all be."""

    could_be: int = _ALL
    number_seen: bool = False
    seen: bool = False

    def see(self, text: pa.Array) -> None:
        text = text.drop_null()
        if len(text) == 0:
            return
        self.seen = True
        if self.could_be & (INT | FLOAT):
            self._see_numbers(text)
        if self.could_be & BOOL:
            lower = pc.ascii_lower(pc.ascii_trim_whitespace(text))
            self._keep(BOOL, np.asarray(pc.is_in(lower, pa.array(["true", "false"]))))
        if self.could_be & DATE:
            self._keep(DATE, literals.dates(text)[1])
        if self.could_be & TIME:
            self._keep(TIME, literals.instants(text)[1] != literals.NOT_A_TIME)

    @property
    def arrow(self) -> pa.DataType:
        could_be = self.could_be if self.number_seen else self.could_be & ~(INT | FLOAT)
        return next((arrow for bit, arrow in _TYPES if self.seen and could_be & bit), pa.string())

    def _see_numbers(self, text: pa.Array) -> None:
        kinds = literals.number_kinds(text)
        number = kinds == literals.NUMBER
        loses = np.asarray(pc.match_substring_regex(text, r"^\s*(\+|-?0[0-9])"))
        whole = np.asarray(pc.match_substring_regex(text, r"^\s*-?[0-9]+\s*$"))
        fits = literals.integers(text)[1] & ~loses
        self._keep(INT, fits)
        self._keep(FLOAT, (number & ~loses & (~whole | fits)) | (kinds > literals.NUMBER))
        self.number_seen |= bool(number.any())

    def _keep(self, bit: int, held: NDArray[np.bool_]) -> None:
        if not held.all():
            self.could_be &= ~bit


def odd_row(values: pa.Array, before: set[int]) -> int:
    """The first of some cells whose kind is none of those seen ``before``, or, where nothing was, than that
    of the first value; 0 where the difference lies inside lists."""
    kinds = np.where(np.asarray(values.storage.is_null()), NULL, np.asarray(values.storage.field(0)))
    held = before or {int(kinds[kinds != NULL][0])}
    odd = np.flatnonzero((kinds != NULL) & ~np.isin(kinds, list(held)))
    return int(odd[0]) if len(odd) else 0


@dataclass
class CellColumn:
    """What the cells of a column of JSON seen so far are; ``clash`` names two kinds that don't go
    together."""

    kinds: set[int] = field(default_factory=set)
    text: TextColumn = field(default_factory=TextColumn)
    digits: bool = True
    fits: bool = True
    only_words: bool = True
    items: CellColumn | None = None

    def see(self, cells: pa.Array) -> None:
        storage = cells.storage.drop_null()
        kinds, text = np.asarray(storage.field(0)), storage.field(1)
        self.kinds |= set(np.unique(kinds).tolist())
        numbers = text.filter(pa.array(kinds == NUMBER))
        if self.digits and len(numbers):
            whole = np.asarray(pc.match_substring_regex(numbers, "^-?[0-9]+$"))
            self.digits = bool(whole.all())
            self.fits = self.fits and bool(literals.integers(numbers)[1].all())
        words = text.filter(pa.array(kinds == TEXT))
        self.only_words = self.only_words and bool(pc.all(pc.is_in(words, _WORDS), min_count=0).as_py())
        self.text.see(words)
        lists = [parse_json(row) for row in text.filter(pa.array(kinds == LIST)).to_pylist()]
        if lists:
            self.items = self.items or CellColumn()
            self.items.see(cells_of([item for row in lists if isinstance(row, list) for item in row]))

    @property
    def clash(self) -> tuple[str, str] | None:
        kinds = self._kinds
        if len(kinds) > 1:
            return _KIND_NAMES[kinds[0]], _KIND_NAMES[kinds[1]]
        return self.items.clash if kinds == [LIST] and self.items is not None else None

    @property
    def arrow(self) -> pa.DataType:
        match self._kinds:
            case []:
                return pa.null()
            case [kind] if kind == NUMBER:
                floats = TEXT in self.kinds or not self.digits
                return pa.float64() if floats else pa.int64() if self.fits else pa.string()
            case [kind] if kind == TEXT:  # what is written as text is a number only to us
                found = self.text.arrow
                return found if pa.types.is_timestamp(found) or pa.types.is_date(found) else pa.string()
            case [kind] if kind == BOOLEAN:
                return pa.bool_()
            case [kind] if kind == LIST and self.items is not None:
                return pa.list_(self.items.arrow)
        return _OPAQUE

    @property
    def _kinds(self) -> list[int]:
        words_of_numbers = NUMBER in self.kinds and self.only_words
        return sorted(self.kinds - {TEXT} if words_of_numbers else self.kinds)
