"""The worked examples of docs/semantics.md, read from the page: histories, questions and values by hand.

Time: clock times in a history and in a question are ``builders.instant``'s.
"""

from __future__ import annotations

import ast
import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from featurestore.dsl.aggregation import Aggregation, agg
from featurestore.dsl.feature_view import FeatureView
from featurestore.dtypes import DType
from featurestore.kernel.roles import KnownAt
from featurestore.testing.builders import change, event, instant, schema_of, table_view_of, view_of
from featurestore.testing.reference import Counts, Oracle
from featurestore.testing.reference_tables import OPERATION, TableCounts, TableOracle

NAMED_FLOATS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


@dataclass(frozen=True)
class History:
    """A fenced block: columns, the source's parts, the versions or changes in its log. ``line`` is where it
    stands; ``is_table``: its log is one of changes."""

    line: int
    columns: Mapping[str, str]
    source: Mapping[str, str]
    rows: Sequence[dict[str, Any]]
    is_table: bool = False

    @property
    def schema(self) -> dict[str, DType]:
        return schema_of(self.columns)

    def view(self, *features: Aggregation) -> FeatureView:
        parts = {name: column.split(",") if "," in column else column for name, column in self.source.items()}
        if self.is_table:
            return table_view_of(features, columns=self.columns, **parts)
        return view_of(features, columns=self.columns, **parts)

    def oracle(self, *features: Aggregation) -> Oracle | TableOracle:
        view = self.view(*features)
        return (TableOracle if self.is_table else Oracle)(view, self.schema, self.rows)

    def good_rows(self) -> list[dict[str, Any]]:
        """The versions or changes that are not bad input."""
        oracle = self.oracle(agg.count())
        kept = oracle.changes if isinstance(oracle, TableOracle) else oracle.versions
        return [one.row for one in kept]


@dataclass(frozen=True)
class Example:
    """One question of a table. ``expected`` is the value as the page's JSON, null where ``flagged``."""

    line: int
    history: History
    keys: tuple[Any, ...]
    feature: Aggregation
    as_of: int | None
    known_at: KnownAt
    expected: Any
    flagged: bool


@dataclass(frozen=True)
class CountsExample:
    """One row of a table of counts."""

    line: int
    history: History
    known_at: KnownAt
    expected: Counts | TableCounts


def read(page: Path) -> tuple[list[Example], list[CountsExample]]:
    """All worked examples of a page."""
    examples: list[Example] = []
    counts: list[CountsExample] = []
    history: History | None = None
    lines = page.read_text(encoding="utf-8").splitlines()
    at = 0
    while at < len(lines):
        if lines[at] == "```history":
            end = lines.index("```", at)
            history = _history(at + 1, lines[at + 1 : end])
            at = end
        elif lines[at].startswith("| ") and history is not None:
            for line, row in _table(lines, at):
                if "feature" in row:
                    examples.append(_example(line, history, row))
                elif "rejected" in row:
                    counts.append(_counts(line, history, row))
            while at < len(lines) and lines[at].startswith("|"):
                at += 1
        at += 1
    return examples, counts


def value_of(written: Any, dtype: DType) -> Any:
    """A value as its feature gives it, from the page's JSON."""
    if written is None:
        return None
    match dtype.kind:
        case "float64":
            return NAMED_FLOATS[written] if written in NAMED_FLOATS else float(written)
        case "decimal":
            return Decimal(written)
        case "timestamp":
            return instant(written)
        case "date":
            return datetime.date.fromisoformat(written)
        case "int64" if isinstance(written, str):
            return int(written)
        case "list":
            assert dtype.item is not None
            return [value_of(each, dtype.item) for each in written]
        case "map":
            assert dtype.key is not None and dtype.item is not None
            return {value_of(key, dtype.key): value_of(of, dtype.item) for key, of in written.items()}
    return written


def _history(line: int, block: Sequence[str]) -> History:
    columns_text, source_text, *lines = block
    declared = (
        columns_text.removeprefix("columns:").replace(", ", "\n").replace("decimal(10\n", "decimal(10, ")
    )
    declared = declared.replace("decimal(38\n", "decimal(38, ")
    columns = dict(column.strip().split(" ", 1) for column in declared.splitlines())
    what, _, parts = source_text.partition(":")
    source = dict(part.split("=") for part in parts.split())
    schema = schema_of(columns)
    is_table = what == "table"
    rows = []
    for text in lines:
        written = json.loads(text)
        row = _change(written) if is_table else _event(written)
        held = {name: value_of(row.get(name), dtype) for name, dtype in schema.items()}
        rows.append(held | {OPERATION: row[OPERATION]} if is_table else held)
    return History(line, columns, source, rows, is_table)


def _event(written: dict[str, Any]) -> dict[str, Any]:
    named = {"at": written.pop("ts"), "card": written.pop("card", "c1")}
    return event(written.pop("id", "no id"), **named) | written


def _change(written: dict[str, Any]) -> dict[str, Any]:
    named = {"lsn": written.pop("lsn", None), "at": written.pop("changed")}
    return change(written.pop("op"), **named) | written


def _table(lines: Sequence[str], start: int) -> Iterator[tuple[int, dict[str, str]]]:
    """Each row of a table with its line number, by the table's headings."""
    names = [name.strip() for name in lines[start].strip("|").split("|")]
    for number in range(start + 2, len(lines)):
        if not lines[number].startswith("|"):
            return
        cells = [cell.strip() for cell in lines[number].removeprefix("|").removesuffix("|").split("|")]
        yield number + 1, dict(zip(names, cells, strict=True))


def _example(line: int, history: History, row: Mapping[str, str]) -> Example:
    value, _, flag = row["value"].strip("`").partition(", flagged")
    flagged = row["value"].strip("`").endswith(", flagged")
    keys = history.source.get("key", "card").split(",")
    asked = [row.get(key, "c1") for key in keys]
    return Example(
        line=line,
        history=history,
        keys=tuple(None if key == "null" else key for key in asked),
        feature=_feature(row["feature"].strip("`")),
        as_of=None if row["as_of"] == "null" else instant(row["as_of"]),
        known_at=_known_at(row["known_at"]),
        expected=json.loads(value + flag),
        flagged=flagged,
    )


def _counts(line: int, history: History, row: Mapping[str, str]) -> CountsExample:
    numbers = {name: int(text) for name, text in row.items() if name != "known_at"}
    counts = TableCounts(**numbers) if history.is_table else Counts(**numbers)
    return CountsExample(line, history, _known_at(row["known_at"]), counts)


def _known_at(text: str) -> KnownAt:
    if text == "as_of":
        return "as_of"
    return instant(text) if text else None


def _feature(text: str) -> Aggregation:
    """``agg.sum("amount", windows="1h")``: a call of literals, named ``value`` whatever its input."""
    call = ast.parse(text, mode="eval").body
    assert isinstance(call, ast.Call)
    assert isinstance(call.func, ast.Attribute)
    positional = [ast.literal_eval(argument) for argument in call.args]
    named = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    made = getattr(agg, call.func.attr)(*positional, **named)
    assert isinstance(made, Aggregation)
    return replace(made, name="value")
