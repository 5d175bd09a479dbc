"""Generated projects whose events look things up: rows of a mutable table, features of other views, and these
of views whose own events look things up.

Time: all histories are within the same minutes, so late changes on one side meet events on the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st

from featurestore.dsl.aggregation import Aggregation, agg
from featurestore.dsl.feature_view import FeatureView
from featurestore.dsl.log import Parquet
from featurestore.dsl.source import EventSource
from featurestore.dsl.table_source import TableSource
from featurestore.kernel.roles import KnownAt
from featurestore.testing.reference import Logs, Oracle, Row, Version
from featurestore.testing.reference_tables import DELETE, TRUNCATE, Change, TableOracle
from tests import strategies, strategies_tables
from tests.strategies import DELAY, START, History, Question
from tests.strategies_tables import TableHistory

COLUMNS = {"uid": "string", "seller": "string", "n": "int64", "s": "string"}
INNER = {"uid": "string", "n": "int64", "x": "float64"}
ROWS = {"n": "int64", "s": "string"}

# Strings of the strategies as keys that the other histories have, or have not.
_UID = {
    "": "r1",
    "a": "r1",
    "b": "r2",
    "Z": "r3",
    "é": "r1",
    "\U0001f600": "unknown",
    "\uffff": "r2",
    "a b": "r1",
}
_CARD = {
    "": "c1",
    "a": "c1",
    "b": "c2",
    "Z": "c1",
    "é": "c1",
    "\U0001f600": "unknown",
    "\uffff": "c2",
    "a b": "c1",
}


@dataclass(frozen=True)
class Looking:
    """A project: the outer history, those of what it looks up, and the views over them."""

    view: FeatureView
    outer: History
    inner: History
    table: TableHistory
    views: Sequence[FeatureView]

    @property
    def logs(self) -> Logs:
        return {
            "events": (self.outer.schema, self.outer.rows),
            "others": (self.inner.schema, self.inner.rows),
            "rows": (self.table.schema, self.table.changes),
        }

    @property
    def good(self) -> Logs:
        """Without bad input, as the kernel takes them."""
        events, others, table = self.plain()
        return {
            "events": (self.outer.schema, [one.row for one in events.versions]),
            "others": (self.inner.schema, [one.row for one in others.versions]),
            "rows": (self.table.schema, [one.row for one in table.changes]),
        }

    def plain(self) -> tuple[Oracle, Oracle, TableOracle]:
        """Oracles of the three logs, none of which looks anything up."""
        plain = [agg.count(name="facts")]
        events = replace(replace_source(self.view, lookups=()), features=plain)
        others = replace(replace_source(self.views[0], lookups=()), features=plain)
        return (
            Oracle(events, self.outer.schema, self.outer.rows),
            Oracle(others, self.inner.schema, self.inner.rows),
            TableOracle(self.table.view(plain), self.table.schema, self.table.changes),
        )


def replace_source(view: FeatureView, **parts: object) -> FeatureView:
    return replace(view, source=replace(view.source, **parts))  # type: ignore[arg-type]


def _with_keys(history: History) -> History:
    """The columns that look up as keys of the other histories; a part of what the row said, so that
    duplicates and corrections stay what they are."""
    rows: list[Row] = []
    for row in history.rows:
        keys = {"uid": _UID.get(row["uid"]), "part": 1}
        if "seller" in row:
            keys["seller"] = _CARD.get(row["seller"])
        rows.append(row | keys)
    return History({**history.columns, "part": "int64"}, history.source, rows)


@st.composite
def projects(draw: st.DrawFn, most: int = 6, changes: int = 10) -> Looking:
    outer = _with_keys(draw(strategies.histories(most, COLUMNS)))
    inner = _with_keys(draw(strategies.histories(most, INNER)))
    table = draw(strategies_tables.histories(changes, ROWS))
    return looking(outer, inner, table)


def looking(outer: History, inner: History, table: TableHistory) -> Looking:
    rows_view = table.view(
        [agg.count(name="open"), agg.sum("n", name="n"), agg.last("s", delay=DELAY, name="then")]
    )
    assert isinstance(rows_view.source, TableSource)
    rows = replace(rows_view.source, log=Parquet("rows"))
    rows_view = replace(rows_view, source=rows)
    on = ["uid", "part"][: len(rows.primary_keys)]
    others = _source(inner, "others").lookup(rows, on=on, columns={"row_n": "n", "row_card": "card"})
    activity = FeatureView(
        "activity",
        rows_view.entity,
        others,
        features=[
            agg.count(windows=["5m"], name="count"),
            agg.sum("n", default=7, name="n"),
            agg.last("row_card", name="card"),
            agg.sum("row_n", windows=["1h"], delay=DELAY, name="row_n"),
            agg.time_since_last(name="since"),
        ],
    )
    events = (
        _source(outer, "events")
        .lookup(rows, on=on, columns={"u_s": "s", "u_card": "card"})
        .lookup(activity, on="seller", columns=["count_5m", "n", "card", "row_n_1h", "since"])
        .lookup(rows_view, on="seller", columns={"open": "open", "rows_n": "n", "then": "then"})
    )
    view = FeatureView("card_activity", rows_view.entity, events, features=features())
    return Looking(view, outer, inner, table, [activity, rows_view])


def _source(history: History, name: str) -> EventSource:
    return EventSource(
        name,
        log=Parquet(name),
        columns=dict(history.columns),
        **{"event_time": "ts", **history.source},
    )


def features() -> list[Aggregation]:
    made = [
        agg.last_k("u_s", k=3),
        agg.count(where="u_card = card", windows=["5m"]),
        agg.histogram("u_card"),
        agg.last("u_s", where="n > 0"),
        agg.last_k("activity__count_5m", k=3),
        agg.sum("activity__n", windows=["5m", "1h"]),
        agg.distinct_k("activity__card", k=3),
        agg.last_k("activity__row_n_1h", k=3),
        agg.sum("activity__since", windows=["5m"], delay=DELAY),
        agg.sum("open + n"),
        agg.max("rows_n", windows=["5m"]),
        agg.last_k("then", k=3),
        agg.max_by("then", order="open"),
        agg.count(windows=["5m"]),
    ]
    return [replace(feature, name=f"f{number}") for number, feature in enumerate(made)]


def instants(project: Looking) -> list[int]:
    """When something happens, changes or becomes known."""
    columns = ("ts", "changed", "available_at")
    rows = [*project.outer.rows, *project.inner.rows, *project.table.rows]
    return sorted({row[name] for row in rows for name in columns if row.get(name) is not None}) or [START]


@st.composite
def questions(draw: st.DrawFn, project: Looking, at_most: int = 12) -> list[Question]:
    late = instants(project)
    late = late[len(late) // 3 :]
    asked = []
    for _ in range(draw(st.integers(1, at_most))):
        as_of = draw(st.sampled_from(late)) + draw(st.sampled_from([0, 0, 1, 1, -1]))
        card = draw(st.sampled_from([*["c1"] * 7, "c2", "unknown", None]))
        asked.append(Question((card,), draw(st.sampled_from([as_of] * 15 + [None]))))
    return asked


def horizons(project: Looking) -> st.SearchStrategy[KnownAt]:
    near = st.tuples(st.sampled_from(instants(project)), st.sampled_from([0, 1])).map(sum)
    return st.one_of(st.none(), st.just("as_of"), st.just("as_of"), near)


# --- what a run has seen

SEEN = (
    "a late change of the row",
    "asked before and after it was known",
    "two or more late changes",
    "a late change of the row that a chained fact looks up",
    "a late fact of the chained view",
    "a corrected fact of the chained view",
    "a change at exactly the event's time",
    "a fact of the chained view at exactly the event's time",
    "known at exactly the question's horizon",
    "a row that is there",
    "a deleted row",
    "a truncated row",
    "a null key",
    "an unknown key",
    "a chained view without facts",
    "a corrected event",
    "a late event",
    "an event that moved",
)
"""What a question may meet in the events that it sees, by what they look up."""


def met(project: Looking, asked: Sequence[Question]) -> list[set[str]]:
    """Which of ``SEEN`` each question meets, under "as_of", in versions of events before it, known or not."""
    events, others, table = project.plain()
    on = project.view.source.lookups[0].on  # type: ignore[union-attr]
    primary_key = table.source.primary_keys

    def changes_of(row: Row) -> list[Change]:
        """Changes of the row of the table that a row of a log looks up, and truncates."""
        key = tuple(row[name] for name in on)
        return [
            change
            for change in table.changes
            if change.operation == TRUNCATE or tuple(change.row[name] for name in primary_key) == key
        ]

    by_version = {one.number: (changes_of(one.row), _facts_of(one, others)) for one in events.versions}
    by_fact = {one.number: changes_of(one.row) for one in others.versions}
    asked_at = {(one.keys, one.as_of) for one in asked}
    found = []
    for question in asked:
        seen: set[str] = set()
        for event in events.versions:
            if question.as_of is None or event.key != question.keys or event.event_time is None:
                continue
            if event.keyless or event.retracts or not event.event_time < question.as_of:
                continue
            changes, facts = by_version[event.number]
            seen.update(_of_event(event, events, on))
            seen.update(_of_row(event.event_time, changes, event.row[on[0]]))
            seen.update(_of_facts(event.event_time, facts, by_fact))
            learnt = {one.available_at for one in [*changes, *facts] if _late(one, event.event_time)}
            if question.as_of in learnt:
                seen.add("known at exactly the question's horizon")
            if any((question.keys, at) in asked_at and (question.keys, at + 1) in asked_at for at in learnt):
                seen.add("asked before and after it was known")
            if len(learnt) > 1:
                seen.add("two or more late changes")
        found.append(seen)
    return found


def _facts_of(event: Version, others: Oracle) -> list[Version]:
    return [one for one in others.versions if not one.keyless and one.key == (event.row["seller"],)]


def _late(one: Version | Change, event_time: int) -> bool:
    """Whether an event was there between what happened and its being known: its column steps."""
    happened = one.changed_at if isinstance(one, Change) else one.event_time
    known = one.available_at
    return happened is not None and known is not None and happened < event_time < known


def _of_event(event: Version, events: Oracle, on: Sequence[str]) -> Iterator[str]:
    assert event.event_time is not None
    versions = [one for one in events.versions if one.identity == event.identity]
    if len({one.content for one in versions}) > 1:
        yield "a corrected event"
    if len({one.event_time for one in versions} - {None}) > 1:
        yield "an event that moved"
    if event.available_at is not None and event.available_at > event.event_time:
        yield "a late event"
    if event.row["seller"] is None or event.row[on[0]] is None:
        yield "a null key"


def _of_row(event_time: int, changes: Sequence[Change], key: Any) -> Iterator[str]:
    own = [change for change in changes if change.operation != TRUNCATE]
    if not own and key is not None:
        yield "an unknown key"
    if any(_late(change, event_time) for change in own):
        yield "a late change of the row"
    if any(change.changed_at == event_time for change in own):
        yield "a change at exactly the event's time"
    before = sorted((one for one in own if one.changed_at < event_time), key=lambda one: one.position)
    truncates = [one.position for one in changes if one.operation == TRUNCATE and one.changed_at < event_time]
    if not before:
        return
    if before[-1].operation == DELETE:
        yield "a deleted row"
    elif any(position >= before[-1].position for position in truncates):
        yield "a truncated row"
    else:
        yield "a row that is there"


def _of_facts(event_time: int, facts: Sequence[Version], rows: dict[int, list[Change]]) -> Iterator[str]:
    if not any(one.event_time is not None and one.event_time < event_time for one in facts):
        yield "a chained view without facts"
    if any(one.event_time == event_time for one in facts):
        yield "a fact of the chained view at exactly the event's time"
    for fact in facts:
        if fact.event_time is None or fact.event_time >= event_time:
            continue
        if _late(fact, event_time):
            yield "a late fact of the chained view"
        if len({one.content for one in facts if one.identity == fact.identity}) > 1:
            yield "a corrected fact of the chained view"
        for change in rows[fact.number]:
            known = change.available_at
            if _late(change, fact.event_time) and known is not None and known > event_time:
                yield "a late change of the row that a chained fact looks up"
