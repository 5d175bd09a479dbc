"""Small histories made by hand, one for each rule that a careless implementation would break, and some
generated ones that are always the same.

Time: everything happens on one day, around 09:00; each history is asked on, just before and just after every
instant at which an answer can change.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import tests.strategies as generated
from featurestore.dsl.aggregation import Aggregation, agg
from featurestore.kernel.roles import KnownAt
from featurestore.testing.builders import correction, event, instant, retraction
from featurestore.testing.reference import Row
from tests.parity.projects import Step, deliveries, known_rows
from tests.strategies import DELAY, WINDOWS, History, Question

VALUES: Mapping[str, str] = {"n": "int64", "x": "float64", "s": "string", "b": "bool", "xs": "list<float64>"}
PARTS = ("id", "available_at", "order_by", "version", "deleted")
_COLUMN = {"order_by": "seq"}
_TYPE = {
    "id": "string",
    "available_at": "timestamp",
    "order_by": "int64",
    "version": "int64",
    "deleted": "bool",
}


def features() -> list[Aggregation]:
    """Every operation, over few columns."""
    made = [
        agg.count(windows=WINDOWS, name="count"),
        agg.count(name="ever"),
        agg.count(windows="5m", where="b", delay=DELAY, name="delayed"),
        agg.sum("n", name="n_sum"),
        agg.sum("n", windows=WINDOWS, default=7, name="n_sum_or_7"),
        agg.sum("x", windows=WINDOWS, name="x_sum"),
        agg.sum("xs", windows="5m", name="xs_sum"),
        agg.sum("x * n", windows="5m", where="b or x > 0.5", name="product"),
        agg.mean("x", windows="5m", name="x_mean"),
        agg.percentile("x", q=0.37, windows="5m", name="x_p37"),
        agg.min_by("s", order="n", name="min_by"),
        agg.max_by("s", order="n", windows="5m", name="max_by"),
        agg.last("s", windows="5m", delay=DELAY, name="s_delayed"),
    ]
    for op, column in (
        ("variance", "x"), ("stddev", "x"), ("skew", "n"), ("kurtosis", "n"), ("min", "x"), ("max", "x"),
        ("first", "s"), ("last", "s"), ("last", "n"), ("last", "x"), ("count_distinct", "s"), ("mode", "s"),
        ("histogram", "s"), ("bool_any", "b"), ("bool_all", "b"), ("time_since_first", None),
        ("time_since_last", None),
    ):  # fmt: skip
        made += [
            getattr(agg, op)(column, name=f"{op}_{column}"),
            getattr(agg, op)(column, windows="5m", name=f"{op}_{column}"),
        ]
    made += [
        getattr(agg, op)("s", k=2, windows="5m", name=op)
        for op in ("first_k", "last_k", "top_k", "bottom_k", "distinct_k")
    ]
    return made


@dataclass(frozen=True)
class Case:
    """A history as it is delivered, what it is asked, and the horizons of knowledge."""

    name: str
    history: History
    steps: Sequence[Step]
    asked: Sequence[Question]
    known_at: Sequence[KnownAt]

    @property
    def rows(self) -> list[Row]:
        return known_rows(self.history, self.steps)


def history(rows: Sequence[Row], parts: Sequence[str] = PARTS) -> History:
    columns = {"card": "string", "ts": "timestamp"}
    columns |= {_COLUMN.get(part, part): _TYPE[part] for part in PARTS if part in parts} | VALUES
    source = {part: _COLUMN.get(part, part) for part in PARTS if part in parts}
    return History(columns, source, [{name: row.get(name) for name in columns} for row in rows])


def case(
    name: str,
    rows: Sequence[Row],
    *,
    parts: Sequence[str] = PARTS,
    known_at: Sequence[str] = (),
    push: int = 0,
    cards: Sequence[str | None] = ("c1",),
) -> Case:
    """``rows`` in one file in the order given; the last ``push`` of them are pushed one by one."""
    made = history(rows, parts)
    written = made.rows[: len(rows) - push]
    steps = [Step("file", written), Step("backfill")]
    steps += [Step("push", [row], _at("12:00")) for row in made.rows[len(rows) - push :]]
    instants = generated.boundaries(made)
    # At most 40 instants: of a long history every second or third.
    instants = instants[:: 1 + len(instants) // 40]
    asked = [
        Question((card,), at + beside) for card, at, beside in itertools.product(cards, instants, (-1, 0, 1))
    ]
    asked += [Question(("nobody",), instants[-1]), Question(("c1",), None)]
    horizons: list[KnownAt] = [None, "as_of", *(_at(text) for text in known_at)]
    return Case(name, made, steps, asked, horizons)


def _at(text: str) -> int:
    made = instant(text)
    assert made is not None
    return made


@cache
def by_hand() -> tuple[Case, ...]:
    late = {"available": "12:00"}
    knowledge = ("11:00", "12:00", "12:00:00.000001", "13:00")
    return (
        case("edges", [event("a", at="09:00", n=1, x=0.5, s="a"), event("b", at="09:05", n=2, x=1.5, s="b")]),
        case(
            "ties, written in reverse",
            [event(id, at="09:00", n=1, x=float(i), s=id) for i, id in enumerate("dcba")],
        ),
        case(
            "ties that order_by settles",
            [
                event("a", at="09:00", s="later", n=1, seq=2),
                event("b", at="09:00", s="earlier", n=1, seq=1),
                event("c", at="09:00", s="null first", n=1),
            ],
        ),
        case(
            "a correction that comes late, and nulls what it corrects",
            [
                event("a", at="09:00", n=1, x=1.0, s="a"),
                correction("a", at="09:00", n=9, x=None, s="z", **late),
                event("b", at="09:01", n=2, x=2.0, s="b"),
            ],
            known_at=knowledge,
        ),
        case(
            "a correction written before what it corrects",
            [
                correction("a", at="09:01", n=9, s="z", **late),
                event("a", at="09:00", n=1, s="a"),
            ],
            known_at=knowledge,
        ),
        case(
            "a retraction",
            [event("a", at="09:00", n=1, s="a"), retraction("a", **late), event("b", at="09:02", n=3, s="b")],
            known_at=knowledge,
        ),
        case(
            "a correction, then the old version again",
            [
                event("a", at="09:00", n=1, s="a"),
                correction("a", at="09:00", available="10:00", n=9, s="z"),
                event("a", at="09:00", n=1, s="a", **late),
            ],
            known_at=("11:00", "13:00"),
        ),
        case(
            "versions that arrived in the other order",
            [
                event("a", at="09:00", n=1, s="new", version=2),
                event("a", at="09:00", n=2, s="old", version=1, available="10:00"),
            ],
            known_at=("09:30", "11:00"),
        ),
        case(
            "a version nobody knows since when",
            [
                event("a", at="09:00", n=1, s="a"),
                {**event("b", at="09:01", n=2, s="b"), "available_at": None},
            ],
            known_at=("11:00",),
        ),
        case("a duplicate", [event("a", at="09:00", n=1, x=1.0, s="a")] * 2),
        case(
            "sums that int64 can't hold",
            [event("a", at="09:00", n=2**63 - 1), event("b", at="09:01", n=1), event("c", at="09:02", n=-1)],
        ),
        case(
            "floats that a plain sum loses",
            [event(f"e{i}", at=f"09:0{i}", x=x) for i, x in enumerate((1e16, 1.0, -1e16, 0.1, 0.2, 0.3))],
        ),
        case(
            "infinity that leaves the window",
            [event(f"e{i}", at=f"09:0{i}", x=x) for i, x in enumerate((math.inf, 1.0, -math.inf, 2.0))],
        ),
        case(
            "NaN and the other zero",
            [
                event("a", at="09:00", x=math.nan, s="a"),
                event("b", at="09:01", x=-1.0, s="b"),
                event("c", at="09:03", x=-0.0, s="c", xs=[-0.0]),
            ],
        ),
        case(
            "facts without a key",
            [event("a", at="09:00", card=None, n=5, s="a"), event("b", at="09:00", n=1, s="b")],
            cards=("c1", None),
        ),
        case(
            "a late fact, and a where that looks at it",
            [
                event("a", at="09:00", available="09:04", n=1, s="a", x=1.0, b=True),
                event("b", at="09:01", n=2, s="b", x=0.25, b=False),
                event("c", at="09:02", available="09:02:00.000001", n=3, s="c", x=2.0),
            ],
            known_at=("09:04", "09:04:00.000001"),
        ),
        case(
            "facts that were pushed",
            [event(f"e{i}", at=f"09:0{i}", n=i, x=i / 10, s=f"s{i}") for i in range(4)],
            push=3,
        ),
        case(
            "an input that is null",
            [event("a", at="09:00", n=1, s=None), event("b", at="09:01", n=None, s="b", x=1.0)],
        ),
        case("rows without id", [event("a", at="09:00", n=1, x=1.0, s="a")] * 2, parts=("available_at",)),
    )  # fmt: skip


GENERATED = 12


@cache
def at_random() -> tuple[Case, ...]:
    """Generated cases, the same ones each time."""
    made: list[Case] = []

    @settings(
        max_examples=GENERATED, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.data())
    def draw(data: st.DataObject) -> None:
        drawn = data.draw(generated.histories(columns=VALUES))
        steps = data.draw(deliveries(drawn))
        rows = History(drawn.columns, drawn.source, known_rows(drawn, steps))
        asked: list[Any] = data.draw(generated.questions(drawn, at_most=30))
        made.append(
            Case(f"generated {len(made)}", drawn, steps, asked, [data.draw(generated.horizons(rows))])
        )

    draw()
    return tuple(made)
