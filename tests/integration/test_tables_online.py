"""A table's changes in the store answer as the whole log does, however they came: by backfill or push, in any
order, in any batches, again and again.

Times are those of the rows; questions stand on, before and after what can change an answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tests.strategies_tables as generated
from featurestore.batch import change_fill, timeline_fill
from featurestore.dsl.aggregation import agg
from featurestore.dsl.entity import Entity
from featurestore.dsl.feature_view import FeatureView
from featurestore.kernel.roles import KnownAt
from featurestore.serving.explain_value import explain_value
from featurestore.serving.lookup import Lookup
from featurestore.store import Store
from featurestore.store.ingest import ingest
from featurestore.store.versions import drop_version
from featurestore.testing.builders import change, instant, schema_of, table_view_of
from featurestore.testing.reference import Row
from tests.integration.tables_project import NOW_US, Project, project

COLUMNS = {
    "card": "string",
    "id": "string",
    "lsn": "int64",
    "changed": "timestamp",
    "available_at": "timestamp",
    "x": "float64",
}


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "store.db"
    Store.migrate(path)
    return path


def deliver(data: st.DataObject, made: Project, history: generated.TableHistory) -> None:
    """All changes of a history in random batches, each by file or push, some of them twice."""
    left = list(history.rows)
    backfilled = False
    while left or not backfilled:
        size = data.draw(st.integers(1, max(1, len(left))))
        batch, left = left[:size], left[size:]
        # A push without available_at would be stamped.
        pushed = [
            row for row in batch if "available_at" not in made.schema or row["available_at"] is not None
        ]
        if data.draw(st.booleans()) and len(pushed) == len(batch):
            made.push(batch)
            if data.draw(st.integers(0, 3)) == 0:
                made.push(batch)
        else:
            made.write(batch)
        if data.draw(st.integers(0, 2)) == 0 or not left:
            made.backfill()
            backfilled = True


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_store_answers_as_the_whole_log_does(empty_store: Path, data: st.DataObject) -> None:
    history = data.draw(generated.histories(max_changes=24))
    every = history.every_operation()
    some = data.draw(st.sets(st.integers(0, len(every) - 1), min_size=1, max_size=12))
    view = history.view([every[i] for i in sorted(some)])
    asked = [one for one in data.draw(generated.questions(history)) if one.as_of is not None]
    with project(empty_store, view, history.schema) as made, pytest.MonkeyPatch.context() as patched:
        rows = data.draw(st.sampled_from([1, 4, 20_000]))
        for name in ("FIRST_CHUNK_ROWS", "MOST_CHUNK_ROWS"):
            patched.setattr(timeline_fill, name, rows)
        for name in ("REGISTERED_ROWS", "PART_ROWS"):
            patched.setattr(change_fill, name, rows)
        deliver(data, made, history)
        if asked:
            for known_at in (None, "as_of", data.draw(generated.horizons(history))):
                assert made.online(asked, known_at) == made.offline(asked, known_at)
                # Each entity's timeline answers alone, too: it needs no other.
                assert made.online(asked[:1], known_at) == made.offline(asked[:1], known_at)


# --- named facts


@pytest.fixture
def orders(empty_store: Path) -> Iterator[Project]:
    view = table_view_of(
        [agg.count(name="n"), agg.sum("x", name="total"), agg.last("x", name="last")],
        columns=COLUMNS,
        available_at="available_at",
    )
    with project(empty_store, view, schema_of(COLUMNS)) as made:
        made.backfill()
        yield made


def row(op: str, id: str = "r1", **parts: Any) -> Row:
    """A change as a flat log has it."""
    made = change(op, id, **{"x": None if op in "dt" else 1.0, **parts})
    return {"op": op, **{name: value for name, value in made.items() if name != "__op"}}


def count(made: Project, card: str, at: str, known_at: KnownAt = None) -> object:
    asked = generated.Question((card,), instant(at))
    found = made.online([asked], known_at)
    assert found == made.offline([asked], known_at)
    [vector] = Lookup(made.store).vectors(
        features=["card_rows:n"], feature_service=None, entities={"card": [card]}, as_of=asked.as_of or 0,
        known_at=known_at,
    ).vectors  # fmt: skip
    return vector.values[0].as_py()


def held(made: Project) -> object:
    with made.store.snapshot() as snapshot:
        return snapshot.sizes(), snapshot.last_arrival, snapshot.truncates(1)


def test_a_row_that_moves_leaves_one_timeline_and_enters_the_other(orders: Project) -> None:
    orders.push([row("c", lsn=1, at="09:00", card="c1")])
    orders.push([row("u", lsn=2, at="10:00", card="c2")])
    assert [count(orders, card, at) for at in ("09:30", "10:30") for card in ("c1", "c2")] == [1, 0, 0, 1]


def test_a_row_that_joins_a_timeline_late_brings_what_has_ended_it_since(orders: Project) -> None:
    orders.push([row("u", lsn=2, at="10:00", card="c1"), row("d", lsn=3, at="11:00")])
    orders.push([row("c", lsn=1, at="09:00", card="c2", available="12:00")])
    assert [count(orders, "c2", at) for at in ("09:30", "10:30", "11:30")] == [1, 0, 0]
    assert [count(orders, "c1", at) for at in ("09:30", "10:30", "11:30")] == [0, 1, 0]
    assert count(orders, "c2", "09:30", "as_of") == 0


def test_a_delete_that_came_before_its_row_ends_it(orders: Project) -> None:
    assert orders.push([row("d", lsn=2, at="10:00")]).accepted == 1
    orders.push([row("c", lsn=1, at="09:00")])
    assert [count(orders, "c1", at) for at in ("09:30", "10:30")] == [1, 0]


def test_a_change_with_a_null_entity_key_ends_the_one_before_it_whichever_came_first(orders: Project) -> None:
    assert orders.push([row("u", "r1", lsn=2, at="10:00", card=None)]).keyless == 1
    orders.push([row("c", "r1", lsn=1, at="09:00"), row("c", "r2", lsn=1, at="09:00")])
    assert orders.push([row("u", "r2", lsn=2, at="10:00", card=None)]).keyless == 1
    assert [count(orders, "c1", at) for at in ("09:30", "10:30")] == [2, 0]


def test_a_truncate_ends_every_row_and_is_known_when_it_is(orders: Project) -> None:
    orders.push([row("c", "r1", lsn=1, at="09:00"), row("c", "r2", lsn=5, at="09:00")])
    orders.push([row("t", lsn=3, at="10:00", available="12:00")])
    assert [count(orders, "c1", at) for at in ("09:30", "10:30")] == [2, 1]
    assert [count(orders, "c1", at, "as_of") for at in ("10:30", "12:30")] == [2, 1]
    assert count(orders, "c1", "10:30", instant("12:00")) == 2


def test_what_is_pushed_again_adds_nothing(orders: Project) -> None:
    rows = [
        row("c", "r1", lsn=1, at="09:00"),
        row("u", "r1", lsn=2, at="10:00", card="c2"),
        row("u", "r2", lsn=2, at="10:00", card=None),
        row("d", "r3", lsn=3, at="10:00"),
        row("t", lsn=4, at="11:00"),
    ]
    orders.push(rows)
    before = held(orders)
    report = orders.push([*rows, *rows])
    assert (report.accepted, report.keyless, report.duplicate) == (0, 0, 10)
    assert held(orders) == before


def test_a_change_delivered_again_counts_from_when_it_was_first_known(orders: Project) -> None:
    orders.push([row("c", lsn=1, at="09:00"), row("u", lsn=2, at="10:00", card="c2", available="13:00")])
    orders.push([row("u", lsn=2, at="10:00", card="c2", available="11:00")])
    assert [count(orders, "c1", at, "as_of") for at in ("10:30", "11:30")] == [1, 0]
    assert [count(orders, "c2", at, "as_of") for at in ("10:30", "11:30")] == [0, 1]


def test_two_contents_of_a_row_at_one_position_are_counted_and_the_greater_counts(orders: Project) -> None:
    orders.push([row("c", lsn=1, at="09:00", card="c1")])
    report = orders.push([row("c", lsn=1, at="09:00", card="c2"), row("c", lsn=1, at="09:00", card="c3")])
    assert (report.accepted, report.corrected) == (0, 2)
    assert sorted(str(count(orders, card, "10:00")) for card in ("c1", "c2", "c3")) == ["0", "0", "1"]


def test_conflicts_in_a_log_are_named_by_the_backfill(orders: Project) -> None:
    orders.write([row("c", "r7", lsn=1, at="09:00", x=1.0), row("c", "r7", lsn=1, at="09:00", x=2.0)])
    report = orders.backfill()
    [conflict] = report.timelines[0].conflicts
    assert report.counts["corrected"] == 1 and (conflict.row, conflict.position) == ("r7", "1")
    assert {conflict.counts.row, conflict.others[0].row} == {1, 2}


def test_the_same_changes_in_another_file_add_nothing(orders: Project) -> None:
    rows = [
        row("c", "r1", lsn=1, at="09:00"),
        row("u", "r1", lsn=2, at="10:00", card="c2"),
        row("t", lsn=3, at="11:00"),
    ]
    orders.write(rows)
    orders.backfill()
    before = held(orders)
    orders.write(rows)
    assert orders.backfill().counts == {"duplicate": 3, "delivered": 3}
    assert held(orders) == before
    assert orders.backfill().counts == {}


MOVES = [
    row(
        "c" if lsn < 5 else "u",
        f"r{lsn % 5}",
        lsn=lsn,
        at=f"{9 + lsn // 6:02}:{lsn % 6}0",
        card=f"c{lsn * 7 % 4}",
    )
    for lsn in range(40)
]


def parity(made: Project) -> None:
    asked = [
        generated.Question((f"c{card}",), instant(f"{hour:02}:{minute}5"))
        for card in range(4)
        for hour in range(9, 17)
        for minute in (0, 3)
    ]
    assert made.online(asked, None) == made.offline(asked, None)
    assert made.online(asked, "as_of") == made.offline(asked, "as_of")


@pytest.mark.parametrize("commits", range(1, 12, 2))
def test_a_backfill_that_is_cut_off_goes_on_with_what_was_pushed_meanwhile(
    orders: Project, commits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change_fill, "REGISTERED_ROWS", 2)
    monkeypatch.setattr(timeline_fill, "FIRST_CHUNK_ROWS", 1)
    monkeypatch.setattr(timeline_fill, "MOST_CHUNK_ROWS", 1)
    orders.write(MOVES)
    left = [commits]

    def until_it_is_cut_off() -> int:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return NOW_US

    if commits < 5:
        with pytest.raises(KeyboardInterrupt):
            orders.backfill(now=until_it_is_cut_off)
    orders.push([row("u", "r2", lsn=50, at="16:00", card="c9"), row("d", "r3", lsn=50, at="15:00")])
    orders.backfill()
    parity(orders)


def test_what_is_pushed_between_the_preparation_and_the_commit_of_a_chunk_is_not_lost(
    orders: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeline_fill, "FIRST_CHUNK_ROWS", 1)
    monkeypatch.setattr(timeline_fill, "MOST_CHUNK_ROWS", 1)
    orders.write(MOVES)
    pushes = iter(range(100, 200))

    def after_a_push() -> int:
        lsn = next(pushes)
        orders.push([row("u", f"r{lsn % 5}", lsn=lsn, at="16:00", card=f"c{lsn % 3}"), MOVES[lsn % 40]])
        return NOW_US

    orders.backfill(now=after_a_push)
    assert next(pushes) > 104
    parity(orders)


def test_pushed_changes_are_loaded_by_a_version_that_is_made_later(orders: Project) -> None:
    orders.push(MOVES[:20])
    orders.write(MOVES[20:])
    orders.backfill()
    rebuilt = orders.backfill(rebuild=True)
    assert rebuilt.timelines[0].switched == ["card_rows@2"]
    parity(orders)
    drop_version(orders.store, "card_rows", 1, lambda: NOW_US)
    parity(orders)
    with orders.store.snapshot() as snapshot:
        assert snapshot.is_empty(1) and not snapshot.is_empty(2)


def test_a_dimension_keyed_by_its_primary_key_is_the_attribute_then(orders: Project) -> None:
    dimension = FeatureView("of_row", Entity("row", key="id"), orders.source, [agg.last("card"), agg.count()])
    orders.apply(dimension)
    orders.push(MOVES[:11])
    orders.write(MOVES[11:])
    orders.backfill()
    for lsn in range(5, 39):
        vectors = Lookup(orders.store).vectors(
            features=["of_row"], feature_service=None, entities={"id": [f"r{lsn % 5}", "r9"]},
            as_of=instant(MOVES[lsn]["changed"] + 1) or 0, known_at=None,
        ).vectors  # fmt: skip
        assert vectors[0].values.to_pylist() == [MOVES[lsn]["card"], None]
        assert vectors[1].values.to_pylist() == [1, 0]
    parity(orders)


def test_an_explained_value_names_the_live_rows(orders: Project) -> None:
    orders.push([row("c", "r1", lsn=1, at="09:00", x=1.0), row("u", "r1", lsn=2, at="10:00", x=4.0)])
    orders.push([row("c", "r2", lsn=3, at="09:30", x=2.0), row("u", "r2", lsn=4, at="11:00", card="c2")])
    explained = explain_value(
        Lookup(orders.store), orders.store, "card_rows:total", {"card": "c1"}, as_of=instant("10:30") or 0,
        known_at=None,
    )  # fmt: skip
    assert explained.value == 6.0
    facts = [(fact.id, fact.changed_at, fact.input) for fact in explained.facts]
    assert facts == [({"id": "r2"}, instant("09:30"), 2.0), ({"id": "r1"}, instant("10:00"), 4.0)]
    assert "changed_at" in explained.text() and "changed_at" in explained.to_dict()["facts"][0]


def test_rows_are_pushed_as_dicts_and_bad_ones_refused(orders: Project) -> None:
    good = {"card": "c1", "id": "r1", "lsn": "0/16B3748", "changed": "2026-03-02T09:00:00Z", "x": 1.5}
    report = ingest(
        orders.store,
        orders.root,
        "rows",
        [
            {**good, "op": "INSERT"},
            {**good, "op": "upsort"},
            {**good, "op": "u", "id": None},
            {**good, "op": "u", "lsn": None},
            {**good, "op": "u", "changed": None},
            {**good, "op": "u", "colour": "red"},
            {"op": "D", "id": "r1", "lsn": "0/16B3749", "changed": "2026-03-02T10:00:00Z"},
        ],
        atomic=False,
        now_us=NOW_US,
    )
    assert report.accepted == 2 and [number for number, _ in report.rejected] == [2, 3, 4, 5, 6]
    found = Lookup(orders.store).vectors(
        features=["card_rows:n"], feature_service=None, entities={"card": ["c1", "c1"]},
        as_of=[instant("2026-03-02T09:30:00Z") or 0, instant("2026-03-02T10:30:00Z") or 0], known_at=None,
    )  # fmt: skip
    assert found.vectors[0].values.to_pylist() == [1, 0]


def test_every_delivered_row_is_counted_once(orders: Project) -> None:
    orders.push([*MOVES[:9], *MOVES[:3], row("u", "r1", lsn=70, at="09:00", card=None)])
    orders.write([*MOVES[5:], row("c", None, lsn=80, at="09:00")])
    orders.backfill()
    with orders.store.snapshot() as snapshot:
        counters = snapshot.counters()
    for partition in {key.partition for key in counters}:
        kinds = {key.kind: n for key, n in counters.items() if key.partition == partition}
        assert kinds.pop("delivered") == sum(kinds.values())
    assert counters["rows", "arrivals", "duplicate"] == 3 and counters["rows", "arrivals", "keyless"] == 1
