"""Generated projects whose events look things up: rows of a mutable table, features of other views, and these
of views whose own events look things up.

Time: all histories are within the same minutes, so late changes on one side meet events on the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hypothesis import strategies as st

from featurestore.dsl.aggregation import Aggregation, agg
from featurestore.dsl.feature_view import FeatureView
from featurestore.dsl.log import Parquet
from featurestore.dsl.source import EventSource
from featurestore.dsl.table_source import TableSource
from featurestore.kernel.roles import KnownAt
from featurestore.testing.reference import Logs, Oracle, Row
from featurestore.testing.reference_tables import TableOracle
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
        events = replace_source(self.view, lookups=())
        others = replace_source(self.views[0], lookups=())
        plain = [agg.count(name="facts")]
        kept = Oracle(replace(events, features=plain), self.outer.schema, self.outer.rows).versions
        kept_others = Oracle(replace(others, features=plain), self.inner.schema, self.inner.rows).versions
        changes = TableOracle(self.table.view(plain), self.table.schema, self.table.changes).changes
        return {
            "events": (self.outer.schema, [one.row for one in kept]),
            "others": (self.inner.schema, [one.row for one in kept_others]),
            "rows": (self.table.schema, [one.row for one in changes]),
        }


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
def projects(draw: st.DrawFn, most: int = 6) -> Looking:
    outer = _with_keys(draw(strategies.histories(most, COLUMNS)))
    inner = _with_keys(draw(strategies.histories(most, INNER)))
    table = draw(strategies_tables.histories(10, ROWS))
    return looking(outer, inner, table)


def looking(outer: History, inner: History, table: TableHistory) -> Looking:
    rows_view = table.view(
        [agg.count(name="open"), agg.sum("n", name="n"), agg.last("s", delay=DELAY, name="then")]
    )
    rows = rows_view.source
    assert isinstance(rows, TableSource)
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
        log=Parquet(f"{name}.parquet"),
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
