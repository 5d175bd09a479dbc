"""Generated histories of mutable tables, and questions: few rows that move, go and come back, in any order.

Time: changes are committed within some minutes of ``START``, often at one instant, and the rows' own event
times are among them; questions stand on, just before and just after what can change an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st

from featurestore.dsl.aggregation import Aggregation, agg
from featurestore.dsl.feature_view import FeatureView
from featurestore.dtypes import DType
from featurestore.kernel.roles import KnownAt
from featurestore.testing.builders import operation_of, schema_of, table_view_of
from featurestore.testing.reference import Row
from featurestore.testing.reference_tables import DELETE, OPERATION, TRUNCATE, UPSERT, TableOracle
from tests.strategies import (
    DELAY_US,
    MINUTE,
    START,
    VALUES,
    WINDOWS_US,
    Question,
    every_operation,
    times,
    value_of,
)

ROWS = ("r1", "r2", "r3")
LATE = (0, 0, 0, 1, MINUTE, 5 * MINUTE)


@dataclass(frozen=True)
class TableHistory:
    """A log of changes: declared columns, the source's parts by name, and changes (good and bad) in no order.

    ``rows`` are as a flat log has them, with the operation's letter in ``op`` beside the declared columns.
    """

    columns: Mapping[str, str]
    source: Mapping[str, Any]
    rows: Sequence[Row]

    @property
    def schema(self) -> dict[str, DType]:
        return schema_of(self.columns)

    @property
    def changes(self) -> list[Row]:
        """What the oracle and the kernel take: ``__op`` for the letter."""
        return [_change_of(row) for row in self.rows]

    @property
    def has_event_time(self) -> bool:
        return "event_time" in self.source

    def view(self, features: Sequence[Aggregation]) -> FeatureView:
        return table_view_of(features, columns=self.columns, **self.source)

    def every_operation(self, columns: Mapping[str, str] = VALUES) -> list[Aggregation]:
        """Each operation over each column that it takes; without an event time for a lifetime only."""
        features = every_operation(columns)
        return features if self.has_event_time else [replace(feature, windows=()) for feature in features]


def _change_of(row: Row) -> Row:
    return {name: value for name, value in row.items() if name != "op"} | {OPERATION: operation_of(row["op"])}


# --- histories


@st.composite
def histories(draw: st.DrawFn, max_changes: int = 14, columns: Mapping[str, str] = VALUES) -> TableHistory:
    """A log of all operations, shuffled, with repetitions, conflicts, late and bad changes."""
    source: dict[str, Any] = {}
    declared = {"card": "string", "id": "string", "lsn": "int64", "changed": "timestamp"}
    for share, part, column, text in (
        ([True, True, False], "event_time", "ts", "timestamp"),
        ([True, True, False], "available_at", "available_at", "timestamp"),
        ([True, False], "order_by", "seq", "int64"),
        ([True, False, False], "primary_key", "part", "int64"),
        ([True, False, False], "position", "file", "int64"),
    ):
        if draw(st.sampled_from(share)):
            declared[column] = text
            source[part] = {"part": ["id", "part"], "file": ["file", "lsn"]}.get(column, column)
    declared |= columns

    log = _Log(draw, columns)
    # Few changes show little: most histories are full, and the first choice is what a failure shrinks to.
    for _ in range(
        draw(st.sampled_from([min(number, max_changes) for number in (4, 2, 0, *[max_changes] * 9)]))
    ):
        log.step()
    kept = [{name: row[name] for name in ("op", *declared)} for row in log.rows]
    return TableHistory(declared, source, draw(st.permutations(kept)))


class _Log:
    """A table that is written to: ``rows`` are the changes so far, ``state`` each row as it is now or None
    for one that was deleted."""

    def __init__(self, draw: st.DrawFn, columns: Mapping[str, str]) -> None:
        self.draw = draw
        self.columns = columns
        self.rows: list[Row] = []
        self.state: dict[str, Row | None] = {}
        self.position = draw(st.sampled_from([0, 8]))  # 9 and 10: as text they would be out of order
        self.clock = START
        # A truncate ends all that there is: too many would leave little else to ask about.
        self.truncates = draw(st.sampled_from([["truncate"] * 2, []]))

    def step(self) -> None:
        self.position += self.draw(st.sampled_from([1, 1, 1, 2]))
        self.clock += self.draw(st.sampled_from([0, 0, 0, 1, MINUTE, MINUTE, 2 * MINUTE]))
        rare = [
            "delete",
            "delete",
            "delete",
            *self.truncates,
            "again",
            "again",
            "conflict",
            "conflict",
            "bad",
            "bad",
        ]
        what = self.draw(st.sampled_from(["write"] * 16 + rare))
        name = self.draw(st.sampled_from([*ROWS, ROWS[0], ROWS[0]]))
        if what in ("again", "conflict") and not self.rows:
            what = "write"
        if what == "truncate":
            self.state = dict.fromkeys(self.state)
            self._append("t", {})
            if self.draw(st.sampled_from([True, True, True, False])):
                self.position += 1
                self._write(name)
        elif what == "delete":
            self.state[name] = None
            self._append("d", {"id": name, "part": 1})
        elif what == "again":
            self._again(self.draw(st.sampled_from(self.rows)))
        elif what == "conflict":
            self._conflict(self.draw(st.sampled_from(self.rows)))
        elif what == "bad":
            self._write(name)
            missing = self.draw(st.sampled_from(["id", "part", "lsn", "file", "changed"]))
            self.rows[-1] = self.rows[-1] | {missing: None}
        else:
            self._write(name)

    def _write(self, name: str) -> None:
        before = self.state.get(name)
        cells = self._fresh(name) if before is None else self._updated(before)
        self.state[name] = cells
        self._append(
            self.draw(st.sampled_from(["c", "r", "u"] if before is None else ["u", "u", "r"])), cells
        )

    def _fresh(self, name: str) -> Row:
        cells: Row = {
            "id": name,
            "part": 1,
            "card": self._card(),
            "ts": self._event_time(),
            "seq": self._seq(),
        }
        return cells | {column: self.draw(value_of(column, text)) for column, text in self.columns.items()}

    def _updated(self, before: Row) -> Row:
        """An update of a value, of the entity, of the row's time, or of nothing at all."""
        what = self.draw(st.sampled_from(["value", "value", "card", "card", "card", "card", "ts", "nothing"]))
        cells = dict(before)
        if what == "value":
            column = self.draw(st.sampled_from(sorted(self.columns)))
            cells[column] = self.draw(value_of(column, self.columns[column]))
        elif what == "card":
            others = [card for card in ("c1", "c1", "c1", "c2", None) if card != before["card"]]
            cells["card"] = self.draw(st.sampled_from(others))
        elif what == "ts":
            cells["ts"] = self._event_time()
        return cells

    def _append(self, op: str, cells: Row) -> None:
        # Now and then a change has a clock of its own, behind or ahead of its position.
        changed = self.clock + self.draw(st.sampled_from([0] * 5 + [-MINUTE, -1, 2 * MINUTE]))
        blank: Row = dict.fromkeys(("id", "part", "card", "ts", "seq", *self.columns))
        self.rows.append(
            blank
            | cells
            | {
                "op": op,
                "lsn": self.position,
                # A file begins again with small numbers: file and lsn decide together.
                "file": self.position // 6,
                "changed": changed,
                "available_at": self._available_at(changed),
            }
        )

    def _again(self, row: Row) -> None:
        """The same change once more, as another delivery."""
        again = row | {"available_at": self._available_at(row["changed"])}
        if again["op"] in ("c", "u", "r"):
            again["op"] = self.draw(st.sampled_from([row["op"], "r"]))
        self.rows.append(again)

    def _conflict(self, row: Row) -> None:
        """Another change of the same row (or of none: a truncate) at the same position."""
        what = self.draw(st.sampled_from(["value", "value", "changed", "delete", *self.truncates, "row"]))
        other = row | {"available_at": self._available_at(row["changed"])}
        if what == "value":
            column = self.draw(st.sampled_from(sorted(self.columns)))
            other[column] = self.draw(value_of(column, self.columns[column]))
        elif what == "changed":
            other["changed"] = (row["changed"] or START) + self.draw(st.sampled_from([MINUTE, -MINUTE, 1]))
        elif what == "delete":
            other |= {"op": "d", **dict.fromkeys(("card", "ts", "seq", *self.columns))}
        elif what == "truncate":
            other |= {"op": "t", **dict.fromkeys(("id", "part", "card", "ts", "seq", *self.columns))}
        else:
            other["id"] = self.draw(st.sampled_from(ROWS))
        self.rows.append(other)

    def _card(self) -> str | None:
        return self.draw(st.sampled_from(["c1", "c1", "c1", "c1", "c2", None]))

    def _event_time(self) -> int | None:
        happened = self.draw(times())
        return self.draw(st.sampled_from([happened] * 4 + [None]))

    def _seq(self) -> int | None:
        return self.draw(st.sampled_from([None, 1, 1, 2]))

    def _available_at(self, changed: int | None) -> int | None:
        known = (START if changed is None else changed) + self.draw(st.sampled_from(LATE))
        return self.draw(st.sampled_from([known] * 7 + [None]))


# --- questions


def boundaries(history: TableHistory) -> list[int]:
    """Every instant at which an answer can change: a change happens or is known, a row's time comes or leaves
    a window."""
    found: set[int] = set()
    for row in history.rows:
        for delay in (0, DELAY_US):
            if row["changed"] is not None:
                found.add(row["changed"] + delay)
            if row.get("ts") is not None:
                found |= {row["ts"] + delay + window for window in (0, *WINDOWS_US)}
        if row.get("available_at") is not None:
            found.add(row["available_at"])
    return sorted(found)


@st.composite
def questions(draw: st.DrawFn, history: TableHistory, at_most: int = 12) -> list[Question]:
    """Questions on, just before and just after boundaries; a few of unknown and null keys and null times."""
    instants = boundaries(history) or [START]
    changed = sorted(row["changed"] for row in history.rows if row["changed"] is not None) or [START]
    # Most happens late: a row is there from its change on, and the last changes meet all others.
    late = [instant for instant in instants if instant >= changed[len(changed) // 2]] or instants
    asked = []
    for _ in range(draw(st.integers(1, at_most))):
        which = draw(st.sampled_from([instants, late, late, changed[-6:]]))
        as_of = draw(st.sampled_from(which)) + draw(st.sampled_from([0, 1, 1, -1]))
        card = draw(st.sampled_from([*["c1"] * 16, "c2", "c2", "unknown", None]))
        asked.append(Question((card,), draw(st.sampled_from([as_of] * 15 + [None]))))
    return asked


def horizons(history: TableHistory) -> st.SearchStrategy[KnownAt]:
    """``known_at``: absent, following T, or an instant about which something was learnt."""
    return st.one_of(st.none(), st.just("as_of"), instants(history))


def instants(history: TableHistory) -> st.SearchStrategy[int]:
    """Horizons on, just before and just after an instant at which something was learnt."""
    column = "available_at" if "available_at" in history.columns else "changed"
    learnt = [row[column] for row in history.rows if row[column] is not None] or [START]
    return st.tuples(st.sampled_from(learnt), st.sampled_from([0, 1, 0, 1, -1])).map(sum)


# --- what a run has seen

SEEN = (
    "a live row",
    "two or more live rows",
    "an update",
    "a row that moved here",
    "a row that moved away",
    "a row that came back",
    "a deleted row",
    "a re-insert after a delete",
    "a truncated row",
    "a row written again after a truncate",
    "two rows changed at one instant",
    "several changes of a row at one instant",
    "position and changed_at disagree",
    "a conflict at one position",
    "a duplicate",
    "a late change",
    "a row with a null entity key",
    "a row with a null event time",
    "a row with a bad change",
    "on a boundary",
    "just before a boundary",
    "just after a boundary",
)


def statistics(history: TableHistory, asked: Sequence[Question]) -> dict[str, float]:
    """The share of questions, 0 to 1, that meet each of ``SEEN``: among the changes committed before T of the
    rows that the question's entity ever had by then, everything known."""
    shares = dict.fromkeys(SEEN, 0.0)
    oracle = TableOracle(history.view([agg.count()]), history.schema, history.changes)
    for question in asked:
        for name in _met(history, oracle, question):
            shares[name] += 1 / len(asked)
    return shares


def _met(history: TableHistory, oracle: TableOracle, question: Question) -> set[str]:
    end = question.as_of
    if end is None or None in question.keys:
        return set()
    happened = [change for change in oracle.changes if change.changed_at < end]
    truncates = [change.position for change in happened if change.operation == TRUNCATE]
    by_row: dict[Any, list[Any]] = {}
    for change in sorted(happened, key=lambda change: change.position):
        if change.operation != TRUNCATE:
            by_row.setdefault(change.primary_key, []).append(change)
    mine = {name: row for name, row in by_row.items() if any(one.key == question.keys for one in row)}
    live = oracle.live(as_of=end, known_at=None)
    here = {change.primary_key for change in live if change.key == question.keys}
    there = {change.primary_key for change in live} - here
    own = [change for row in mine.values() for change in row]
    edges = set(boundaries(history))
    bad = (
        {row["id"] for row in history.rows if row["op"] != "t"}
        if len(oracle.changes) < len(history.rows)
        else set()
    )
    met = {
        "a live row": bool(here),
        "two or more live rows": len(here) >= 2,
        "an update": any(
            len({one.content for one in mine[name] if one.operation == UPSERT}) > 1 for name in here
        ),
        "a row that moved here": any(_entities(mine[name])[:1] != [question.keys] for name in here),
        "a row that moved away": any(name in there for name in mine),
        "a row that came back": any(_entities(mine[name]).count(question.keys) > 1 for name in here),
        "a deleted row": any(row[-1].operation == DELETE for row in mine.values()),
        "a re-insert after a delete": any(
            DELETE in [change.operation for change in mine[name][:-1]] for name in here
        ),
        "a truncated row": any(
            _ended(row, truncates) and row[-1].operation == UPSERT for row in mine.values()
        ),
        "a row written again after a truncate": any(_ended(mine[name][:1], truncates) for name in here),
        "two rows changed at one instant": len({(one.primary_key, one.changed_at) for one in own})
        > len({one.changed_at for one in own}),
        "several changes of a row at one instant": any(
            len({(one.changed_at, one.position) for one in row}) > len({one.changed_at for one in row})
            for row in mine.values()
        ),
        "position and changed_at disagree": any(
            earlier.changed_at > later.changed_at and earlier.position < later.position
            for row in mine.values()
            for i, earlier in enumerate(row)
            for later in row[i:]
        ),
        "a conflict at one position": any(
            len({(one.position, one.content) for one in row}) > len({one.position for one in row})
            for row in mine.values()
        ),
        "a duplicate": any(
            len({(one.position, one.content) for one in row}) < len(row) for row in mine.values()
        ),
        "a late change": any(one.available_at is None or one.available_at > one.changed_at for one in own),
        "a row with a null entity key": any(
            one.operation == UPSERT and None in one.key for row in mine.values() for one in row
        ),
        "a row with a null event time": any(one.operation == UPSERT and one.time is None for one in own),
        "a row with a bad change": bool(bad),
        "on a boundary": end in edges,
        "just before a boundary": end + 1 in edges,
        "just after a boundary": end - 1 in edges,
    }
    return {name for name, is_met in met.items() if is_met}


def _entities(changes: Sequence[Any]) -> list[Any]:
    """The entities that a row had, in position order, stays counted once."""
    keys = [change.key for change in changes if change.operation == UPSERT]
    return [key for i, key in enumerate(keys) if i == 0 or key != keys[i - 1]]


def _ended(changes: Sequence[Any], truncates: Sequence[Any]) -> bool:
    return any(position >= change.position for change in changes for position in truncates)
