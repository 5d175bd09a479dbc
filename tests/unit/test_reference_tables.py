"""The oracle for tables, against the page's definition by intervals; its laws, over generated histories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tests.strategies_tables as generated
from featurestore.dsl.aggregation import Aggregation, agg
from featurestore.kernel.roles import KnownAt
from featurestore.testing.bits import bits
from featurestore.testing.builders import change, instant, schema_of, table_view_of
from featurestore.testing.reference_tables import TRUNCATE, UPSERT, Change, TableOracle

COLUMNS = {
    "card": "string",
    "id": "string",
    "lsn": "int64",
    "changed": "timestamp",
    "available_at": "timestamp",
    "x": "float64",
}
FEATURES = {"x": "float64", "s": "string"}


def over(
    history: Sequence[dict[str, Any]],
    feature: Aggregation,
    *,
    as_of: str,
    known_at: KnownAt = None,
    card: str = "c1",
) -> Any:
    view = table_view_of([feature], columns=COLUMNS, available_at="available_at")
    oracle = TableOracle(view, schema_of(COLUMNS), history)
    [value] = oracle.answer((card,), as_of=instant(as_of), known_at=known_at).values()
    return value.value


def answers(
    oracle: TableOracle, asked: Sequence[generated.Question], known_at: KnownAt
) -> list[dict[str, Any]]:
    return [
        {
            name: (bits(value.value), value.flagged, value.latest)
            for name, value in oracle.answer(question.keys, as_of=question.as_of, known_at=known_at).items()
        }
        for question in asked
    ]


def test_a_row_is_as_its_last_change_left_it():
    history = [
        change("c", lsn=1, at="09:00", x=1.0),
        change("u", lsn=2, at="10:00", x=2.0),
        change("d", lsn=3, at="11:00"),
        change("c", lsn=4, at="12:00", x=4.0),
    ]
    found = [over(history, agg.sum("x"), as_of=f"{hour}:30") for hour in ("08", "09", "10", "11", "12")]
    assert found == [None, 1.0, 2.0, None, 4.0]


def test_a_deletion_that_arrived_after_the_question_is_not_seen():
    history = [change("c", lsn=1, at="09:00"), change("d", lsn=2, at="10:00", available="12:00")]
    assert over(history, agg.count(), as_of="11:00", known_at="as_of") == 1
    assert over(history, agg.count(), as_of="13:00", known_at="as_of") == 0
    assert over(history, agg.count(), as_of="11:00") == 0


def test_a_truncate_that_arrived_after_the_question_is_not_seen():
    history = [change("c", lsn=1, at="09:00"), change("t", lsn=2, at="10:00", available="12:00")]
    assert over(history, agg.count(), as_of="11:00", known_at="as_of") == 1
    assert over(history, agg.count(), as_of="13:00", known_at="as_of") == 0


def test_a_row_that_moves_is_in_one_timeline_at_a_time():
    history = [
        change("c", lsn=1, at="09:00", card="c1"),
        change("u", lsn=2, at="10:00", card="c2"),
        change("u", lsn=3, at="11:00", card="c1"),
    ]
    found = [
        tuple(over(history, agg.count(), as_of=as_of, card=card) for card in ("c1", "c2"))
        for as_of in ("09:30", "10:30", "11:30")
    ]
    assert found == [(1, 0), (0, 1), (1, 0)]


def test_the_greater_content_counts_at_one_position_whatever_the_order():
    one, other = change("u", lsn=1, at="09:00", x=1.0), change("u", lsn=1, at="09:00", x=2.0)
    assert over([one, other], agg.sum("x"), as_of="10:00") == over([other, one], agg.sum("x"), as_of="10:00")


def test_the_latest_time_of_a_value_is_that_of_the_live_change():
    history = [
        change("c", "a", lsn=1, at="09:00"),
        change("u", "b", lsn=2, at="09:30"),
        change("d", "b", lsn=3, at="10:00"),
    ]
    oracle = TableOracle(table_view_of([agg.count()], columns=COLUMNS), schema_of(COLUMNS), history)
    assert oracle.answer(("c1",), as_of=instant("09:45"), known_at=None)["count"].latest == instant("09:30")
    assert oracle.answer(("c1",), as_of=instant("10:45"), known_at=None)["count"].latest == instant("09:00")


def test_a_window_over_a_table_without_event_time_is_refused():
    with pytest.raises(AssertionError, match="count_1h"):
        TableOracle(table_view_of([agg.count(windows="1h")], columns=COLUMNS), schema_of(COLUMNS), [])


def starts(one: Change, known_at: KnownAt) -> int | None:
    """When a change takes effect: s of the page's section on intervals, None for never."""
    if known_at == "as_of":
        return None if one.available_at is None else max(one.changed_at, one.available_at)
    return one.changed_at if one.known(known_at) else None


def live_by_intervals(changes: Sequence[Change], as_of: int, known_at: KnownAt) -> set[tuple[Any, ...]]:
    """The live changes by the page's other definition: on ``(s, e]``, e the least s of what comes after."""
    found = set()
    for one in changes:
        start = starts(one, known_at)
        if one.operation != UPSERT or start is None:
            continue
        after = [
            starts(other, known_at)
            for other in changes
            if (other.operation == TRUNCATE and other.position >= one.position)
            or (
                other.operation != TRUNCATE
                and other.primary_key == one.primary_key
                and (other.position, other.content) > (one.position, one.content)
            )
        ]
        if start < as_of and not any(end is not None and end < as_of for end in after):
            found.add((one.primary_key, one.position, one.content))
    return found


@given(st.data())
def test_live_rows_are_those_of_the_intervals(data: st.DataObject):
    history = data.draw(generated.histories(columns={"n": "int64"}))
    known_at = data.draw(generated.horizons(history))
    oracle = TableOracle(history.view([agg.count()]), history.schema, history.changes)
    for question in data.draw(generated.questions(history)):
        if question.as_of is not None:
            horizon = question.as_of if known_at == "as_of" else known_at
            live = oracle.live(as_of=question.as_of, known_at=horizon)
            expected = live_by_intervals(oracle.changes, question.as_of, known_at)
            assert {(one.primary_key, one.position, one.content) for one in live} == expected
            assert len({one.primary_key for one in live}) == len(live)


@given(st.data())
def test_the_order_of_the_log_and_a_repetition_of_it_change_no_answer(data: st.DataObject):
    history = data.draw(generated.histories(max_changes=8))
    asked = data.draw(generated.questions(history, at_most=3))
    known_at = data.draw(generated.horizons(history))
    view = history.view(history.every_operation(FEATURES))
    one = TableOracle(view, history.schema, history.changes)
    other = TableOracle(view, history.schema, (history.changes * 2)[::-1])
    assert answers(one, asked, known_at) == answers(other, asked, known_at)


@given(st.data())
def test_what_happens_or_arrives_later_changes_no_answer(data: st.DataObject):
    history = data.draw(generated.histories(max_changes=8))
    known_at = data.draw(generated.horizons(history))
    view = history.view(history.every_operation(FEATURES))
    oracle = TableOracle(view, history.schema, history.changes)
    for question in data.draw(generated.questions(history, at_most=3)):
        if question.as_of is not None:
            horizon = question.as_of if known_at == "as_of" else known_at
            earlier = [
                one.row for one in oracle.changes if one.changed_at < question.as_of and one.known(horizon)
            ]
            of_earlier = TableOracle(view, history.schema, earlier)
            assert answers(of_earlier, [question], known_at) == answers(oracle, [question], known_at)


def test_generated_questions_meet_what_is_hard():
    totals = dict.fromkeys(generated.SEEN, 0.0)
    operations: set[str] = set()
    seen = 0

    @settings(max_examples=300)
    @given(st.data())
    def collect(data: st.DataObject) -> None:
        nonlocal seen
        history = data.draw(generated.histories())
        asked = data.draw(generated.questions(history))
        seen += 1
        operations.update(row["op"] for row in history.rows)
        for name, share in generated.statistics(history, asked).items():
            totals[name] += share

    collect()
    assert all(total / seen >= 0.03 for total in totals.values()), {n: t / seen for n, t in totals.items()}
    assert operations == set("rcudt")
