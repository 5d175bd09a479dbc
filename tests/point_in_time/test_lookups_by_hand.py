"""docs/semantics.md, "Lookups and chains": every value computed by hand is that of the oracle and of the
kernel.

Times are as in the page's other examples: on Monday 2026-03-02, UTC.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from featurestore.dsl.aggregation import Aggregation, agg
from featurestore.dsl.entity import Entity
from featurestore.dsl.feature_view import FeatureView
from featurestore.dsl.log import Parquet
from featurestore.dsl.source import EventSource
from featurestore.dsl.table_source import TableSource
from featurestore.kernel.roles import KnownAt
from featurestore.testing.bits import bits
from featurestore.testing.builders import instant, operation_of, schema_of
from featurestore.testing.hosts import kernel_answer
from featurestore.testing.reference import Logs, Oracle, Row
from featurestore.testing.reference_tables import OPERATION
from featurestore.testing.worked_examples import value_of

PAGE = Path(__file__).parents[2] / "docs" / "semantics.md"
TIMES = {"ts": "timestamp", "known": "timestamp"}
COLUMNS: Mapping[str, Mapping[str, str]] = {
    "users": {
        "id": "string",
        "changed": "timestamp",
        "known": "timestamp",
        "lsn": "int64",
        "country": "string",
    },
    "ratings": {"id": "string", "seller": "string", "stars": "int64", **TIMES},
    "purchases": {"id": "string", "user": "string", "seller": "string", **TIMES},
}
USERS = TableSource(
    "users", log=Parquet("none"), primary_key="id", changed_at="changed", position="lsn", available_at="known"
)
RATINGS = EventSource("ratings", log=Parquet("none"), event_time="ts", id="id", available_at="known")
SELLER_RATING = FeatureView(
    "seller_rating", Entity("seller", "seller"), RATINGS, features=[agg.mean("stars"), agg.count()]
)
PURCHASES = (
    EventSource("purchases", log=Parquet("none"), event_time="ts", id="id", available_at="known")
    .lookup(USERS, on="user", columns=["country"])
    .lookup(SELLER_RATING, on="seller", columns=["stars_mean", "count"])
)


@dataclass(frozen=True)
class Asked:
    line: int
    feature: Aggregation
    as_of: int
    known_at: KnownAt
    expected: Any


def _page() -> tuple[Logs, list[Asked]]:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = lines.index("```lookups")
    end = lines.index("```", start)
    rows: dict[str, list[Row]] = {name: [] for name in COLUMNS}
    for line in lines[start + 1 : end]:
        source, _, text = line.partition(" ")
        rows[source].append(_row(source, json.loads(text), len(rows[source]) + 1))
    logs = {name: (schema_of(columns), rows[name]) for name, columns in COLUMNS.items()}
    asked = []
    first = next(i for i in range(end, len(lines)) if lines[i].startswith("| asked")) + 2
    for number in range(first, len(lines)):
        if not lines[number].startswith("|"):
            break
        cells = [cell.strip() for cell in lines[number].strip("|").split("|")]
        known_at = cells[2] if cells[2] == "as_of" else instant(cells[2] or None)
        as_of = instant(cells[1])
        assert as_of is not None
        asked.append(
            Asked(number + 1, _feature(cells[0]), as_of, known_at, json.loads(cells[3].strip("`")))  # type: ignore[arg-type]
        )
    return logs, asked


def _row(source: str, written: dict[str, Any], number: int) -> Row:
    time = "changed" if source == "users" else "ts"
    row = {name: written.get(name) for name in COLUMNS[source]}
    row |= {time: instant(written[time]), "known": instant(written.get("known", written[time]))}
    if source == "users":
        row |= {"lsn": number, OPERATION: operation_of(written["op"])}
    return row


def _feature(text: str) -> Aggregation:
    call = ast.parse(text.strip("`"), mode="eval").body
    assert isinstance(call, ast.Call)
    assert isinstance(call.func, ast.Attribute)
    positional = [ast.literal_eval(argument) for argument in call.args]
    named = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    return replace(getattr(agg, call.func.attr)(*positional, **named), name="value")


LOGS, ASKED = _page()


def test_the_page_has_examples():
    assert len(ASKED) > 10


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: f"line {asked.line}")
def test_oracle_and_kernel_answer_as_computed_by_hand(asked: Asked):
    view = FeatureView("of_user", Entity("user", "user"), PURCHASES, features=[asked.feature])
    schema, rows = LOGS["purchases"]
    oracle = Oracle(view, schema, rows, LOGS)
    expected = bits(value_of(asked.expected, oracle.dtypes()["value"]))
    answer = oracle.answer(("u1",), as_of=asked.as_of, known_at=asked.known_at)["value"]
    assert bits(answer.value) == expected
    [found] = kernel_answer(view, schema, rows, [(("u1",), asked.as_of)], asked.known_at, LOGS)
    assert bits(found["value"].value) == expected


def test_a_row_that_left_the_entity_is_not_counted_in_what_was_known_before_a_late_change():
    schema = schema_of(
        {"id": "string", "card": "string", "lsn": "int64", "changed": "timestamp", "known": "timestamp"}
    )
    rows: list[Row] = [
        {"id": name, "card": card, "lsn": lsn, "changed": instant(at), "known": instant(known), OPERATION: 0}
        for lsn, (name, card, at, known) in enumerate(
            [
                ("r1", "c1", "09:00", "09:00"),
                ("r1", "c2", "09:30", "09:30"),
                ("r2", "c1", "09:10", "12:00"),  # late: what was known before it is asked apart
            ]
        )
    ]
    tickets = TableSource(
        "tickets",
        log=Parquet("none"),
        primary_key="id",
        changed_at="changed",
        position="lsn",
        available_at="known",
    )
    of_card = FeatureView("of_card", Entity("card", "card"), tickets, features=[agg.count(name="open")])
    calls = EventSource("calls", log=Parquet("none"), event_time="ts", id="id")
    called = schema_of({"id": "string", "card": "string", "ts": "timestamp"})
    call: list[Row] = [{"id": "a", "card": "c1", "ts": instant("10:00")}]
    view = FeatureView(
        "calls_of",
        Entity("card", "card"),
        calls.lookup(of_card, on="card", columns={"open": "open"}),
        features=[agg.last("open", name="value")],
    )
    logs: Logs = {"tickets": (schema, rows), "calls": (called, call)}
    asked = [(("c1",), instant(clock)) for clock in ("11:00", "12:00", "12:00:00.000001")]
    found = kernel_answer(view, called, call, asked, "as_of", logs)
    oracle = Oracle(view, called, call, logs)
    assert [answer["value"].value for answer in found] == [0, 0, 1]
    assert [oracle.answer(keys, as_of=as_of, known_at="as_of")["value"].value for keys, as_of in asked] == [
        0,
        0,
        1,
    ]
