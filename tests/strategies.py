"""Generated histories and questions: few entities, colliding times, every awkward value that a log may hold.

Time: everything happens within some minutes of ``START``, so that facts meet the edges of windows; questions
stand on, just before and just after what can change an answer.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from featurestore.dsl.aggregation import Aggregation, agg
from featurestore.dsl.feature_view import FeatureView
from featurestore.dtypes import DType
from featurestore.kernel.operations import OPERATIONS, Operation
from featurestore.kernel.roles import KnownAt
from featurestore.testing.builders import schema_of, view_of
from featurestore.testing.reference import Row

START = 1_772_442_000_000_000
MINUTE = 60_000_000
WINDOWS = ("1us", "1m", "5m", "1h")
WINDOWS_US = (1, MINUTE, 5 * MINUTE, 60 * MINUTE)
DELAY = "90s"
DELAY_US = 90_000_000

VALUES: Mapping[str, str] = {
    "n": "int64",
    "x": "float64",
    "d": "decimal(10, 2)",
    "big": "decimal(38, 3)",
    "s": "string",
    "b": "bool",
    "seen": "timestamp",
    "day": "date",
    "raw": "binary",
    "xs": "list<float64>",
    "ns": "list<int64>",
    "ss": "list<string>",
    "bs": "list<bool>",
}
"""The columns that hold inputs, with their types."""


@dataclass(frozen=True)
class Question:
    keys: tuple[Any, ...]
    as_of: int | None


@dataclass(frozen=True)
class History:
    """A log: declared columns, the source's parts by name, and rows (good and bad) in no order."""

    columns: Mapping[str, str]
    source: Mapping[str, Any]
    rows: Sequence[Row]

    @property
    def schema(self) -> dict[str, DType]:
        return schema_of(self.columns)

    def view(self, features: Sequence[Aggregation]) -> FeatureView:
        return view_of(features, columns=self.columns, **self.source)


# --- every operation


def every_operation(columns: Mapping[str, str] = VALUES) -> list[Aggregation]:
    """Each operation over each column that it takes, in every window and for a lifetime; some with ``where``,
    ``delay`` and ``default``, some over an expression."""
    features: list[Aggregation] = []
    for operation in OPERATIONS.values():
        for column, text in columns.items():
            if operation.column != "none" and _takes(operation, schema_of({column: text})[column]):
                features += _variants(operation, column)
        if operation.column != "required":
            features += _variants(operation, None)
    return [replace(feature, name=f"f{number}") for number, feature in enumerate(features)]


def _takes(operation: Operation, dtype: DType) -> bool:
    if dtype.kind == "list" and not operation.whole_lists:
        assert dtype.item is not None
        dtype = dtype.item
    return not operation.takes or dtype.kind in operation.takes


def _variants(operation: Operation, column: str | None) -> list[Aggregation]:
    options: dict[str, Any] = {"k": 2, "q": 0.37, "order": "x"}
    given = {name: options[name] for name in operation.required}
    made = getattr(agg, operation.name)
    few = [made(column, **given), made(column, windows=WINDOWS, **given)]
    few.append(made(column, windows="5m", delay=DELAY, where="b or x > 0.5", **given))
    if operation.name in ("variance", "stddev"):
        few.append(made(column, windows="5m", sample=True))
    if operation.name == "histogram":
        few.append(made(column, windows="5m", k=1))
    if operation.name in ("min_by", "max_by"):
        few.append(made(column, windows="5m", order="n"))
    if operation.name in ("sum", "mean") and column in ("n", "x"):
        few.append(made(column, windows="1m", default=7))
        few.append(made(f"{column} * n - 1", windows="5m"))
    return few


# --- values

FLOATS = st.one_of(
    st.just(math.nan),
    st.sampled_from(
        [
            0.0,
            -0.0,
            1.0,
            -1.0,
            0.1,
            0.2,
            0.3,
            1e16,
            -1e16,
            1e308,
            -1e308,
            5e-324,
            math.inf,
            -math.inf,
            math.nan,
        ]
    ),
    st.integers(-4, 4).map(float),
    st.floats(width=64),
)
INTS = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([2**63 - 1, -(2**63), 2**62, 2**53 + 1]),
    st.integers(-(2**63), 2**63 - 1),
)
STRINGS = st.sampled_from(["", "a", "b", "Z", "é", "\U0001f600", "\uffff", "a b"])
DECIMALS = st.one_of(st.integers(-300, 300), st.integers(-(10**10) + 1, 10**10 - 1)).map(
    lambda units: Decimal(units).scaleb(-2)
)
_LARGEST = 10**38 - 1
BIG_DECIMALS = st.one_of(
    st.integers(-2000, 2000), st.sampled_from([_LARGEST, -_LARGEST]), st.integers(-_LARGEST, _LARGEST)
).map(lambda units: Decimal((int(units < 0), tuple(map(int, str(abs(units)))), -3)))
SCALARS: Mapping[str, st.SearchStrategy[Any]] = {
    "int64": INTS,
    "float64": FLOATS,
    "string": STRINGS,
    "bool": st.booleans(),
    "timestamp": st.integers(-2, 2).map(lambda minutes: START + minutes * MINUTE),
    "date": st.integers(-1, 1).map(lambda days: datetime.date(2026, 3, 2) + datetime.timedelta(days=days)),
    "binary": st.binary(max_size=2),
}


def value_of(name: str, text: str) -> st.SearchStrategy[Any]:
    """Values of a column, null now and then; lists may be empty and hold nulls."""
    if name == "big":
        one: st.SearchStrategy[Any] = BIG_DECIMALS
    elif text.startswith("decimal"):
        one = DECIMALS
    elif text.startswith("list<"):
        one = st.lists(st.one_of(st.none(), SCALARS[text[5:-1]]), max_size=3)
    else:
        one = SCALARS[text]
    return st.one_of(one, one, one, one, st.none())


# --- histories


@st.composite
def times(draw: st.DrawFn) -> int:
    """An instant on a coarse grid, now and then a microsecond beside it: collisions and edges are wanted."""
    minute = draw(st.sampled_from([4, 4, 3, 5, 0, 1, 2, 6, 7, 8]))
    beside = draw(st.sampled_from([0, 0, 0, 0, -1, 1, MINUTE // 2]))
    return START + minute * MINUTE + beside


@st.composite
def histories(draw: st.DrawFn, max_events: int = 10, columns: Mapping[str, str] = VALUES) -> History:
    """A log with ties, duplicates, corrections (also of event_time), retractions, late and bad rows."""
    has_id = draw(st.sampled_from([True, True, True, False]))
    has_available_at = draw(st.sampled_from([True, True, False]))
    has_order = draw(st.booleans())
    has_version = draw(st.sampled_from([True, False, False])) and has_id
    has_deleted = draw(st.booleans()) and has_id
    declared = {"card": "string", "ts": "timestamp"}
    source: dict[str, Any] = {}
    for wanted, part, column, text in (
        (has_id, "id", "id", "string"),
        (has_available_at, "available_at", "available_at", "timestamp"),
        (has_order, "order_by", "seq", "int64"),
        (has_version, "version", "version", "int64"),
        (has_deleted, "deleted", "deleted", "bool"),
    ):
        if wanted:
            declared[column] = text
            source[part] = column
    declared |= columns

    rows: list[Row] = []
    # Few facts show little: most histories are full, and the smallest are still what a failure shrinks to.
    most = [min(few, max_events) for few in (0, 2, 5, 8)]
    for number in range(draw(st.sampled_from([*most, *[max_events] * 4]))):
        row = _event(draw, number, declared, columns)
        rows.append(row)
        again = draw(st.sampled_from([0, 0, 0, 1, 2])) if has_id else 0
        rows += [_another_version(draw, row, declared, columns) for _ in range(again)]
    kept = [{name: row[name] for name in declared} for row in rows]
    return History(declared, source, draw(st.permutations(kept)))


def _event(draw: st.DrawFn, number: int, declared: Mapping[str, str], columns: Mapping[str, str]) -> Row:
    happened = draw(times())
    late = draw(st.sampled_from([0, 0, 1, MINUTE, 10 * MINUTE]))
    row: Row = {
        "card": draw(st.sampled_from([*["c1"] * 6, "c2", None])),
        "id": draw(st.sampled_from([f"e{number}", f"e{number}", f"e{number}", "e0", None])),
        "ts": draw(st.sampled_from([happened] * 9 + [None])),
        "available_at": draw(st.sampled_from([happened + late] * 6 + [None])),
        "seq": draw(st.sampled_from([None, 1, 1, 2])),
        "version": draw(st.sampled_from([None, 1, 2])),
        "deleted": draw(st.sampled_from([None, False, False])),
    }
    return row | {name: draw(value_of(name, text)) for name, text in columns.items() if name in declared}


def _another_version(
    draw: st.DrawFn, row: Row, declared: Mapping[str, str], columns: Mapping[str, str]
) -> Row:
    """The same event again: a re-delivery, a correction, one that moves it in time, or a retraction."""
    again = dict(row)
    known = row["available_at"] or START
    again["available_at"] = draw(
        st.sampled_from([known, known + 1, known + 2 * MINUTE, known - MINUTE, None])
    )
    what = draw(st.sampled_from(["duplicate", "value", "time", "version", "retraction"]))
    if what == "value":
        name = draw(st.sampled_from(sorted(columns)))
        again[name] = draw(value_of(name, columns[name]))
    elif what == "time":
        again["ts"] = draw(times())
    elif what == "version":
        again["version"] = draw(st.sampled_from([None, 1, 2, 3]))
    elif what == "retraction" and "deleted" in declared:
        again["deleted"] = True
        again["ts"] = draw(st.sampled_from([row["ts"], None]))
    return again


# --- questions


def boundaries(history: History) -> list[int]:
    """Every instant at which an answer can change: a fact comes, leaves a window, or is known."""
    found: set[int] = set()
    for row in history.rows:
        if row["ts"] is not None:
            for delay in (0, DELAY_US):
                found |= {row["ts"] + delay + window for window in (0, *WINDOWS_US)}
        if row.get("available_at") is not None:
            found.add(row["available_at"])
    return sorted(found)


@st.composite
def questions(draw: st.DrawFn, history: History, at_most: int = 12) -> list[Question]:
    """Questions on, just before and just after boundaries; a few of unknown and null keys and null times."""
    instants = boundaries(history) or [START]
    happened = [row["ts"] for row in history.rows if row["ts"] is not None] or [START]
    edges = [ts + shift for ts in happened for shift in (0, 5 * MINUTE)]
    asked = []
    for _ in range(draw(st.integers(1, at_most))):
        which = draw(st.sampled_from([edges, edges, instants]))
        as_of = draw(st.sampled_from(which)) + draw(st.sampled_from([0, 0, 1, -1, MINUTE]))
        card = draw(st.sampled_from([*["c1"] * 7, "c2", "unknown", None]))
        asked.append(Question((card,), draw(st.sampled_from([as_of] * 15 + [None]))))
    return asked


def horizons(history: History) -> st.SearchStrategy[KnownAt]:
    """``known_at``: absent, following T, or an instant about which something was learnt."""
    learnt = [
        row[column]
        for row in history.rows
        for column in ("available_at", "ts")
        if row.get(column) is not None
    ] or [START]
    near = st.tuples(st.sampled_from(learnt), st.sampled_from([0, 1])).map(sum)
    return st.one_of(st.none(), st.just("as_of"), near)


# --- what a run has seen

SEEN = (
    "two or more facts in the window",
    "a fact on an edge",
    "a tie",
    "a correction",
    "a late fact",
    "a NaN",
)


def statistics(history: History, asked: Sequence[Question]) -> dict[str, float]:
    """The share of questions, 0 to 1, that meet each of ``SEEN`` in the window ``[as_of - 5m, as_of)``, by
    event time and entity alone."""
    shares = dict.fromkeys(SEEN, 0.0)
    for question in asked:
        for name in _met(history, question):
            shares[name] += 1 / len(asked)
    return shares


def _met(history: History, question: Question) -> set[str]:
    end = question.as_of
    if end is None or None in question.keys:
        return set()
    mine = [row for row in history.rows if (row["card"],) == question.keys and row["ts"] is not None]
    inside = [row for row in mine if end - 5 * MINUTE <= row["ts"] < end]
    ids = [row.get("id", number) for number, row in enumerate(inside)]
    facts = set(ids) - {None}
    moments = {(identity, row["ts"]) for identity, row in zip(ids, inside, strict=True)}
    met = {
        "two or more facts in the window": len(facts) >= 2,
        "a fact on an edge": any(row["ts"] in (end, end - 5 * MINUTE) for row in mine),
        "a tie": len({ts for _, ts in moments}) < len(moments),
        "a correction": _corrected([row for row in mine if row.get("id") in facts and "id" in row]),
        "a late fact": any((row.get("available_at") or row["ts"]) > row["ts"] for row in inside),
        "a NaN": any(isinstance(row.get("x"), float) and math.isnan(row["x"]) for row in inside),
    }
    return {name for name, is_met in met.items() if is_met}


def _corrected(rows: Sequence[Row]) -> bool:
    contents: dict[Any, set[str]] = {}
    for row in rows:
        content = repr({name: value for name, value in row.items() if name != "available_at"})
        contents.setdefault(row["id"], set()).add(content)
    return any(len(of_one) > 1 for of_one in contents.values())
