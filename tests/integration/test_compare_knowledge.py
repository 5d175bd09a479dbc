"""Two horizons of knowledge: which values differ between them, and which facts are the reason."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from featurestore import FeatureStore
from featurestore.batch.compare import KnowledgeComparison, differing
from featurestore.cli.application import run
from featurestore.errors import RequestError

HEAD = "from featurestore import *\ncard = Entity('card', key='card')\n"
EVENTS = (
    HEAD
    + """
events = EventSource("events", log=JSONLines("log.jsonl"), event_time="ts", id="id", available_at="known",
    deleted="gone", columns={"id": "string", "card": "string", "ts": "timestamp", "known": "timestamp",
                             "gone": "bool", "n": "int64"})
v = FeatureView("v", card, events, features=[
    agg.count(windows=["1h"]), agg.sum("n"), agg.count(where="n > 5", name="large"), agg.first_k("id", k=3),
])
"""
)
TABLE = (
    HEAD
    + """
rows = TableSource("rows", log=JSONLines("log.jsonl"), primary_key="id", changed_at="changed", position="lsn",
    event_time="ts", available_at="known",
    columns={"id": "string", "card": "string", "lsn": "int64", "changed": "timestamp", "known": "timestamp",
             "ts": "timestamp", "n": "int64"})
v = FeatureView("v", card, rows, features=[agg.count(), agg.sum("n")])
"""
)


def at(clock: str | None) -> str | None:
    return None if clock is None else f"2026-03-02T{clock}:00Z"


def us(clock: str) -> int:
    hours, minutes = map(int, clock.split(":"))
    return 1_772_409_600_000_000 + (hours * 60 + minutes) * 60_000_000


def event(
    id: str, ts: str | None, n: int | None = 1, *, known: str | None = None, **more: Any
) -> dict[str, Any]:
    cells = {"id": id, "card": "c1", "ts": at(ts), "known": at(known or ts), "gone": None, "n": n}
    return {**cells, **more}


def change(
    op: str, id: str | None, lsn: int, changed: str, n: int | None = None, *, known: str | None = None,
    card: str | None = "c1",
) -> dict[str, Any]:  # fmt: skip
    upserts = op in ("c", "u")
    return {
        "op": op, "id": id, "lsn": lsn, "changed": at(changed), "known": at(known or changed),
        "card": card if upserts else None, "ts": at("08:00") if upserts else None, "n": n,
    }  # fmt: skip


def compared(
    root: Path, declared: str, rows: Sequence[dict[str, Any]], asked: Sequence[tuple[str | None, str]],
    before: str | None, after: str | None = None, features: Any = "v", **more: Any,
) -> KnowledgeComparison:  # fmt: skip
    (root / "features.py").write_text(declared)
    (root / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spine = pa.table(
        {"card": pa.array([card for card, _ in asked], pa.string()), "ts": [at(ts) for _, ts in asked]}
    )
    horizons = tuple(one if one in (None, "as_of") else at(one) for one in (before, after))
    with FeatureStore(root) as store:
        return store.compare_knowledge(spine, features, known_at=horizons, **more)


def told(made: KnowledgeComparison) -> dict[tuple[int, str], tuple[object, object, list[tuple[str, ...]]]]:
    """(row, feature) -> before, after, and (what, id) of each fact."""
    return {
        (one.row, one.feature.removeprefix("v:")): (
            one.before,
            one.after,
            [(reason.what, *map(str, reason.id.values())) for reason in one.why],
        )
        for one in made.differences
    }


# Events


def test_an_event_that_arrived_late(tmp_path: Path):
    rows = [event("a", "09:00"), event("b", "09:10", 7, known="12:00")]
    made = compared(tmp_path, EVENTS, rows, [("c1", "09:30"), ("c1", "09:10"), ("c2", "09:30")], "as_of")
    late = [("arrived", "b")]
    assert told(made) == {
        (0, "count_1h"): (1, 2, late), (0, "n_sum"): (1, 8, late), (0, "large"): (0, 1, late),
        (0, "id_first_3"): (["a"], ["a", "b"], late),
    }  # fmt: skip
    (reason,) = made.differences[0].why
    assert (reason.event_time, reason.changed_at, reason.available_at) == (us("09:10"), None, us("12:00"))
    assert (made.rows, made.differing_rows) == (3, 1)
    assert made.features == {"v:count_1h": 1, "v:n_sum": 1, "v:large": 1, "v:id_first_3": 1}


def test_what_was_available_at_exactly_the_horizon_was_not_known(tmp_path: Path):
    rows = [event("b", "09:10", known="12:00")]
    assert compared(tmp_path, EVENTS, rows, [("c1", "10:00")], "12:00").differing_rows == 1
    assert compared(tmp_path, EVENTS, rows, [("c1", "10:00")], "12:01").differing_rows == 0


def test_a_correction_of_a_value_and_one_that_moves_the_event_out_of_the_window(tmp_path: Path):
    rows = [
        event("a", "09:00"), event("a", "09:00", 9, known="12:00"),
        event("b", "09:10"), event("b", "07:00", known="12:00"),
    ]  # fmt: skip
    made = compared(tmp_path, EVENTS, rows, [("c1", "09:30")], "11:00")
    assert told(made) == {
        (0, "count_1h"): (2, 1, [("corrected", "b")]),
        (0, "n_sum"): (2, 10, [("corrected", "a"), ("corrected", "b")]),
        (0, "large"): (0, 1, [("corrected", "a")]),
        (0, "id_first_3"): (["a", "b"], ["b", "a"], [("corrected", "b")]),
    }  # fmt: skip
    moved = made.differences[0].why[0]
    assert (moved.event_time, moved.available_at) == (us("07:00"), us("12:00"))


def test_a_retraction_and_an_event_that_is_reinstated(tmp_path: Path):
    rows = [
        event("a", "09:00"), event("a", None, None, known="12:00", gone=True),
        event("b", "09:10"), event("b", None, None, known="10:00", gone=True),
        event("b", "09:10", 4, known="13:00"),
    ]  # fmt: skip
    made = compared(tmp_path, EVENTS, rows, [("c1", "09:30")], "11:00", features="v:n_sum")
    assert told(made) == {(0, "n_sum"): (1, 4, [("retracted", "a"), ("reinstated", "b")])}
    retracted = made.differences[0].why[0]
    assert (retracted.event_time, retracted.available_at) == (us("09:00"), us("12:00"))


def test_the_later_horizon_may_come_first(tmp_path: Path):
    rows = [event("a", "09:00", known="12:00")]
    made = compared(tmp_path, EVENTS, rows, [("c1", "09:30")], None, "as_of", features="v:n_sum")
    assert told(made) == {(0, "n_sum"): (1, None, [("not known yet", "a")])}


def test_an_event_that_nobody_knows_since_when(tmp_path: Path):
    rows = [{**event("a", "09:00"), "known": None}]
    made = compared(tmp_path, EVENTS, rows, [("c1", "09:30")], "12:00", features="v:n_sum")
    (reason,) = made.differences[0].why
    assert (reason.what, reason.available_at) == ("arrived", None)


def test_events_without_id_are_named_by_their_times(tmp_path: Path):
    declared = (
        EVENTS.replace('id="id", ', "").replace('deleted="gone", ', "").replace('deleted="gone",\n', "\n")
    )
    rows = [event("a", "09:00"), event("a", "09:00", known="12:00")]
    made = compared(tmp_path, declared, rows, [("c1", "09:30")], "11:00", features="v:count_1h")
    assert told(made) == {(0, "count_1h"): (1, 2, [("arrived",)])}
    assert "arrived: an event (event time 2026-03-02T09:00:00Z" in made.text()


# Tables


def test_an_insert_an_update_and_a_delete_that_arrived_late(tmp_path: Path):
    rows = [
        change("c", "new", 1, "09:00", 1, known="12:00"),
        change("c", "up", 2, "09:00", 10), change("u", "up", 3, "09:10", 20, known="12:00"),
        change("c", "out", 4, "09:00", 100), change("d", "out", 5, "09:20", known="12:10"),
    ]  # fmt: skip
    made = compared(tmp_path, TABLE, rows, [("c1", "09:30"), ("c1", "09:15")], "11:00")
    both = [("arrived", "new"), ("changed", "up")]
    assert told(made) == {
        (0, "n_sum"): (110, 21, [*both, ("deleted", "out")]),
        (1, "count"): (2, 3, [("arrived", "new")]),
        (1, "n_sum"): (110, 121, both),
    }  # fmt: skip
    deleted = made.differences[0].why[2]
    assert (deleted.event_time, deleted.changed_at, deleted.available_at) == (
        us("08:00"), us("09:20"), us("12:10"),
    )  # fmt: skip


def test_a_row_that_moved_to_another_entity_is_a_reason_for_both(tmp_path: Path):
    rows = [change("c", "r", 1, "09:00", 5), change("u", "r", 2, "09:10", 5, known="12:00", card="c2")]
    made = compared(tmp_path, TABLE, rows, [("c1", "09:30"), ("c2", "09:30")], "11:00", features="v:n_sum")
    assert told(made) == {
        (0, "n_sum"): (5, None, [("changed", "r")]),
        (1, "n_sum"): (None, 5, [("changed", "r")]),
    }


def test_a_truncate_that_arrived_late_deletes_the_rows(tmp_path: Path):
    rows = [change("c", "r", 1, "09:00", 5), change("t", None, 2, "09:10", known="12:00")]
    made = compared(tmp_path, TABLE, rows, [("c1", "09:30")], "11:00", features="v:n_sum")
    assert told(made) == {(0, "n_sum"): (5, None, [("deleted", "r")])}
    assert made.differences[0].why[0].changed_at == us("09:10")


# The result


LATE = [event(f"e{i:02}", "09:00", i, known="12:00") for i in range(25)]


def test_the_counts_are_whole_where_the_list_and_the_reasons_are_bounded(tmp_path: Path):
    asked = [("c1", "09:30")] * 4 + [("c2", "09:30")]
    made = compared(tmp_path, EVENTS, LATE, asked, "11:00", limit=3)
    assert (made.differing_rows, made.differing_values) == (4, 16)
    assert [(one.row, one.feature) for one in made.differences] == [
        (0, "v:count_1h"), (0, "v:n_sum"), (0, "v:large"),
    ]  # fmt: skip
    first = made.differences[0]
    assert (first.facts, len(first.why), first.why[0].id) == (25, 10, {"id": "e00"})
    assert "  and 15 facts more" in made.text() and made.text().endswith("and 13 values more")
    assert compared(tmp_path, EVENTS, LATE, asked, "11:00", limit=0).differing_values == 16


def test_the_result_as_text_table_and_data(tmp_path: Path):
    rows = [event("a", "09:00"), event("b", "09:10", 7, known="12:00")]
    asked = [("c1", "08:00"), ("c1", "09:30"), (None, "09:30")]
    made = compared(tmp_path, EVENTS, rows, asked, "as_of", features=["v:count_1h", "v:id_first_3"])
    assert made.text() == (
        "1 of 3 rows differs in 2 features between each row's own time and everything known now\n"
        "  v:count_1h: 1\n"
        "  v:id_first_3: 1\n"
        "row 1, card=c1 at 2026-03-02T09:30:00Z: v:count_1h 1 -> 2\n"
        "  arrived: id=b (event time 2026-03-02T09:10:00Z, available at 2026-03-02T12:00:00Z)\n"
        'row 1, card=c1 at 2026-03-02T09:30:00Z: v:id_first_3 ["a"] -> ["a", "b"]\n'
        "  arrived: id=b (event time 2026-03-02T09:10:00Z, available at 2026-03-02T12:00:00Z)"
    )
    (first, second) = made.to_arrow().to_pylist()
    why = first.pop("why")
    assert {name: first[name] for name in ("row", "key", "feature", "before", "after", "facts")} == {
        "row": 1, "key": {"card": "c1"}, "feature": "v:count_1h", "before": "1", "after": "2", "facts": 1,
    }  # fmt: skip
    assert (why[0]["what"], why[0]["id"], why[0]["changed_at"]) == ("arrived", '{"id": "b"}', None)
    assert second["after"] == '["a", "b"]'
    assert json.loads(json.dumps(made.to_dict()))["differences"][0]["why"] == [
        {"what": "arrived", "id": {"id": "b"}, "event_time": at("09:10"), "available_at": at("12:00")}
    ]


def test_where_nothing_differs_that_is_said(tmp_path: Path):
    made = compared(tmp_path, EVENTS, [event("a", "09:00")], [("c1", "09:30")], "as_of", "10:00")
    assert made.text() == (
        "none of 1 rows differ between each row's own time and known_at 2026-03-02T10:00:00Z"
    )
    assert made.to_arrow().num_rows == 0


@pytest.mark.parametrize("known_at", [None, "as_of", ("2026-03-02T10:00:00Z",), ("noon", None)])
def test_two_horizons_are_asked_for(tmp_path: Path, known_at: Any):
    (tmp_path / "features.py").write_text(EVENTS)
    (tmp_path / "log.jsonl").write_text(json.dumps(event("a", "09:00")))
    with FeatureStore(tmp_path) as store, pytest.raises(RequestError):
        store.compare_knowledge(pa.table({"card": ["c1"], "ts": [at("09:30")]}), "v", known_at=known_at)


NAN = float("nan")


@pytest.mark.parametrize(
    ("one", "other", "kind", "wanted"),
    [
        ([1, None, 2, None], [1, None, 3, 4], pa.int64(), [False, False, True, True]),
        ([NAN, 1.0, NAN], [NAN, NAN, 0.0], pa.float64(), [False, True, True]),
        (["a", "b"], ["a", "B"], pa.string(), [False, True]),
        ([b"", b"\0"], [b"", b""], pa.binary(), [False, True]),
        (
            [[1.0, NAN], [], [1.0], None], [[1.0, NAN], [1.0], [None], []], pa.list_(pa.float64()),
            [False, True, True, True],
        ),
        (
            [[("a", 1)], [("a", 1)], []], [[("a", 1)], [("b", 1)], []], pa.map_(pa.string(), pa.int64()),
            [False, True, False],
        ),
        ([[["x"], None], [["x"]]], [[["x"], None], [["y"]]], pa.list_(pa.list_(pa.string())), [False, True]),
    ],
)  # fmt: skip
def test_values_of_every_shape_are_compared_bit_for_bit(one: Any, other: Any, kind: Any, wanted: list[bool]):
    assert differing(pa.array(one, kind), pa.array(other, kind)).tolist() == wanted
    # A slice has offsets of its own.
    padded = pa.array([one[0], *one], kind).slice(1), pa.array([other[0], *other], kind).slice(1)
    assert differing(*padded).tolist() == wanted


# The command


def test_the_command_shows_it_and_refuses_one_horizon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    rows = [event("a", "09:00"), event("b", "09:10", 7, known="12:00")]
    compared(tmp_path, EVENTS, rows, [("c1", "09:30")], "as_of")
    (tmp_path / "spine.csv").write_text(f"card,ts\nc1,{at('09:30')}\nc1,{at('08:00')}\n")
    monkeypatch.chdir(tmp_path)
    asked = ["compare-knowledge", "spine.csv", "-f", "v:n_sum"]
    assert run([*asked, "--before", "as_of"]) == 0
    assert capsys.readouterr().out.startswith("1 of 2 rows differs in 1 feature between each row's own time")
    assert run([*asked, "--before", at("11:00") or "", "--after", at("13:00") or "", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["differences"][0]["after"] == 8
    for bad in ([], ["--before", "as_of", "--after", "as_of"], ["--before", "noon"]):
        assert run([*asked, *bad]) == 2
        assert "hint: " in capsys.readouterr().err


def test_what_an_event_looks_up_may_move_it_into_a_set(tmp_path: Path):
    declared = (
        HEAD
        + """
homes = TableSource("homes", log=JSONLines("homes.jsonl"), primary_key="card", changed_at="changed",
    position="lsn", available_at="known", columns={"card": "string", "country": "string", "lsn": "int64",
                                                   "changed": "timestamp", "known": "timestamp"})
events = EventSource("events", log=JSONLines("log.jsonl"), event_time="ts", id="id",
    columns={"id": "string", "card": "string", "ts": "timestamp"})
v = FeatureView("v", card, events.lookup(homes, on="card", columns=["country"]), features=[
    agg.count(where="country = 'DE'", name="german"), agg.count(where="country = 'NL'", name="dutch"),
    agg.last("country", name="country"),
])
"""
    )
    (tmp_path / "features.py").write_text(declared)
    homes = [
        {"op": "c", "card": "c1", "country": "NL", "lsn": 1, "changed": at("08:00"), "known": at("08:00")},
        {"op": "u", "card": "c1", "country": "DE", "lsn": 2, "changed": at("09:00"), "known": at("13:00")},
    ]
    (tmp_path / "homes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in homes))
    row = {"id": "e1", "card": "c1", "ts": at("10:00")}
    (tmp_path / "log.jsonl").write_text(json.dumps(row) + "\n")
    with FeatureStore(tmp_path) as store:
        store.apply()
        spine = pa.table({"card": ["c1"], "ts": [at("12:00")]})
        found = store.compare_knowledge(spine, "v", known_at=("as_of", None)).to_arrow().to_pylist()
    assert {
        one["feature"]: (one["before"], one["after"], [why["what"] for why in one["why"]]) for one in found
    } == {
        "v:german": ("0", "1", ["looked up otherwise"]),
        "v:dutch": ("1", "0", ["looked up otherwise"]),
        "v:country": ('"NL"', '"DE"', ["looked up otherwise"]),
    }
