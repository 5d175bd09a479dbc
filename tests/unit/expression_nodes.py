"""Generated expressions of a wanted type over ``SCHEMA``, and rows of awkward values.

Instants are of the years 1 to 9999, as Python's are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from random import Random
from typing import Any

from hypothesis import strategies as st

from featurestore import dtypes
from featurestore.dtypes import BOOL, DATE, FLOAT64, INT64, STRING, TIMESTAMP, UUID, DType
from featurestore.kernel.expression import (
    NULL,
    POINT,
    And,
    Arithmetic,
    Between,
    Call,
    Case,
    Cast,
    Coalesce,
    Column,
    Compare,
    In,
    IsNull,
    Like,
    Literal,
    Negate,
    Node,
    Not,
    Or,
)

MONEY = dtypes.decimal(10, 2)
HUGE = dtypes.decimal(38, 4)
DIGITS = dtypes.decimal(6, 2)
SCHEMA: dict[str, DType] = {
    "i": INT64,
    "j": INT64,
    "x": FLOAT64,
    "y": FLOAT64,
    "money": MONEY,
    "huge": HUGE,
    "b": BOOL,
    "c": BOOL,
    "s": STRING,
    "t": STRING,
    "at": TIMESTAMP,
    "until": TIMESTAMP,
    "day": DATE,
    "u": UUID,
    "tags": dtypes.list_of(STRING),
}

LEAST, MOST = -(2**63), 2**63 - 1
INTS = [0, 1, -1, 2, 3, 7, -7, 10, LEAST, MOST, 2**53 + 1, 3_037_000_500, 2**31]
FLOATS = [
    0.0, -0.0, 1.0, -1.5, 0.5, 2.5, 0.1, 1e300, -1e-300, 5e-324, 2.0**63, 2.0**53,
    math.inf, -math.inf, math.nan,
]  # fmt: skip
TEXTS = [
    "", "a", "A", "ab", "É", "ﬀ", "\U0001f600", "\uffff", "a\nb", "%", "_", "a_b", " 12 ", "12", "-7", "1e5",
    "0.125", "NaN", "Infinity", "-inf", "true", "FALSE", "2026-02-28", "2026-02-30", "1969-12-31 23:59:59",
    "2026-01-31T12:00:00.1234567+01:00", "99999999999999999999", "123E4567-e89b-12d3-a456-426614174000",
    " \t\n\v\f\r", "\u00a0 1",
]  # fmt: skip
_DAY_US = 86_400_000_000
INSTANTS = [
    0,
    1,
    -1,
    _DAY_US,
    -_DAY_US - 1,
    1_772_442_000_000_000,
    -62_135_596_800_000_000,
    253_402_300_799_999_999,
]
DATES = [0, 1, -1, 20_000, -719_162, 2_932_896]
UUIDS = ["123e4567-e89b-12d3-a456-426614174000", "00000000-0000-0000-0000-000000000000"]


def _decimal(unscaled: int, scale: int) -> Decimal:
    return Decimal((int(unscaled < 0), tuple(map(int, str(abs(unscaled)))), -scale))


def _value(random: Random, dtype: DType) -> Any:
    """A value of ``dtype``, as the interpreter holds it."""
    match dtype.kind:
        case "int64":
            return random.choice([*INTS, *range(-5, 6), random.randint(LEAST, MOST)])
        case "float64":
            return random.choice([*FLOATS, *(n / 4 for n in range(-10, 11)), random.gauss(0, 1e6)])
        case "decimal":
            largest = 10 ** random.choice([2, 3, 5, dtype.precision]) - 1
            return _decimal(
                random.choice([random.randint(-largest, largest), largest, -largest, 50]), dtype.scale
            )
        case "bool":
            return random.choice([True, False])
        case "string":
            return random.choice(TEXTS)
        case "timestamp":
            return random.choice([*INSTANTS, random.randint(INSTANTS[-2], INSTANTS[-1])])
        case "date":
            return random.choice([*DATES, random.randint(DATES[-2], DATES[-1])])
        case "uuid":
            return random.choice(UUIDS)
    return random.choice([[], ["a"], ["a", None]])


def _row(random: Random) -> dict[str, Any]:
    return {name: None if random.random() < 0.1 else _value(random, dtype) for name, dtype in SCHEMA.items()}


ROWS = [_row(random) for random in [Random(2026)] for _ in range(80)]
"""Rows that every generated expression is asked of: most of what is awkward stands beside most else."""

KINDS = (INT64, FLOAT64, MONEY, HUGE, BOOL, STRING, TIMESTAMP, DATE, UUID)
NUMBERS = (INT64, FLOAT64, MONEY, HUGE)
CALENDAR = ("year", "month", "day", "day_of_week")


class Growing:
    """A node of a kind, drawn from the top down; some mean nothing and are refused by ``infer``."""

    def __init__(self, random: Random) -> None:
        self.random = random

    def node(self, dtype: DType, depth: int) -> Node:
        if depth == 0 or (depth < 3 and self.random.random() < 0.2):
            return self.leaf(dtype)
        own = getattr(self, f"of_{dtype.kind}")(dtype, depth - 1)
        return self.pick(*self.of_any(dtype, depth - 1), *own, *own)()

    def leaf(self, dtype: DType) -> Node:
        columns = [Column(name) for name, held in SCHEMA.items() if held.kind == dtype.kind]
        return (
            self.pick(*columns) if dtype.kind == "list" or self.random.random() < 0.8 else self.literal(dtype)
        )

    def literal(self, dtype: DType) -> Node:
        if dtype.kind == "decimal":  # as the parser makes them, of the digits written
            return Literal(_decimal(self.random.randint(-999, 999), 2) or Decimal("0.00"), POINT)
        return Literal(_value(self.random, dtype), dtype)

    def pick(self, *options: Any) -> Any:
        return self.random.choice(options)

    def several(self, least: int, most: int, make: Callable[[], Any]) -> list[Any]:
        return [make() for _ in range(self.random.randint(least, most))]

    def call(self, depth: int, dtype: DType, *names: str) -> Node:
        return Call(self.pick(*names), (self.node(dtype, depth),))

    def cast(self, depth: int, dtype: DType, *sources: DType) -> Node:
        return Cast(self.node(self.pick(*sources), depth), dtype)

    def arithmetic(self, depth: int, ops: str, *kinds: DType) -> Node:
        return Arithmetic(self.pick(*ops), *(self.node(kind, depth) for kind in kinds))

    def of_any(self, dtype: DType, depth: int) -> list[Callable[[], Node]]:
        def part(kind: DType = dtype) -> Node:
            return self.node(kind, depth)

        chosen: list[Callable[[], Node]] = [
            lambda: Case(
                ((part(BOOL), part()), (part(BOOL), part())), self.pick(None, Literal(None, NULL), part())
            ),
            lambda: Coalesce((part(), part(), Literal(None, NULL))),
        ]
        if dtype.kind == "list":
            return chosen
        return [
            *chosen,
            lambda: Call("nullif", (part(), part())),
            lambda: Call(self.pick("greatest", "least"), (part(), part(), part())),
        ]

    def of_int64(self, dtype: DType, depth: int) -> list[Callable[[], Node]]:
        return [
            lambda: self.arithmetic(depth, "+-*%", INT64, INT64),
            lambda: self.arithmetic(depth, "+-*%", INT64, INT64),
            lambda: Negate(self.node(INT64, depth)),
            lambda: self.cast(depth, INT64, FLOAT64, STRING, MONEY, HUGE, BOOL),
            lambda: self.call(depth, self.pick(*NUMBERS[:1], MONEY, HUGE), "abs", "sign", "floor"),
            lambda: self.call(depth, TIMESTAMP, *CALENDAR, "hour", "minute", "second", "epoch_us"),
            lambda: self.call(depth, DATE, *CALENDAR),
            lambda: self.call(depth, STRING, "length"),
            lambda: self.arithmetic(depth, "-", *self.pick((TIMESTAMP, TIMESTAMP), (DATE, DATE))),
        ]

    def of_float64(self, dtype: DType, depth: int) -> list[Callable[[], Node]]:
        return [
            lambda: self.arithmetic(depth, "+-*%", FLOAT64, self.pick(*NUMBERS)),
            lambda: self.arithmetic(depth, "/", self.pick(*NUMBERS), self.pick(*NUMBERS)),
            lambda: Negate(self.node(FLOAT64, depth)),
            lambda: self.cast(depth, FLOAT64, INT64, STRING, MONEY, HUGE),
            lambda: self.call(depth, FLOAT64, "abs", "sign", "floor", "ceil", "round"),
            lambda: self.call(depth, self.pick(*NUMBERS), "sqrt"),
        ]

    def of_decimal(self, dtype: DType, depth: int) -> list[Callable[[], Node]]:
        targets = (MONEY, HUGE, dtypes.decimal(3, 1), dtypes.decimal(38, 0), dtypes.decimal(38, 30))
        return [
            lambda: self.arithmetic(depth, "+-*%", MONEY, self.pick(INT64, MONEY, HUGE)),
            lambda: self.arithmetic(depth, "+-*%", self.pick(INT64, HUGE), dtype),
            lambda: Negate(self.node(dtype, depth)),
            lambda: self.cast(depth, self.pick(*targets), *NUMBERS, STRING),
            lambda: self.call(depth, dtype, "abs", "floor", "ceil", "round"),
            lambda: Coalesce((self.node(dtype, depth), self.node(INT64, depth))),
        ]

    def of_bool(self, dtype: DType, depth: int) -> list[Callable[[], Node]]:
        kind = self.pick(*KINDS)
        other = self.pick(*NUMBERS) if kind.is_numeric else kind

        def part(of: DType = BOOL) -> Node:
            return self.node(of, depth)

        def listed() -> Node:
            return In(part(kind), tuple(self.several(4, 6, lambda: self.literal(kind))))

        def like(alphabet: str, escape: str | None) -> Node:
            pieces = [
                alphabet[i : i + len(escape or "") + 1] for i in range(0, len(alphabet), 1 + bool(escape))
            ]
            return Like(part(STRING), "".join(self.several(0, 5, lambda: self.pick(*pieces))), escape)

        def within() -> Node:
            text = self.pick("a", "", "é", "%", "b")
            return Call(
                self.pick("contains", "starts_with", "ends_with"), (part(STRING), Literal(text, STRING))
            )

        return [
            lambda: Compare(self.pick("=", "<>", "<", "<=", ">", ">="), part(kind), part(other)),
            lambda: And((part(), part(), part())),
            lambda: Or((part(), part())),
            lambda: Not(part()),
            lambda: IsNull(part(self.pick(*KINDS, SCHEMA["tags"]))),
            lambda: In(part(kind), (part(kind), part(other), Literal(None, NULL))),
            listed,
            lambda: Between(part(kind), part(other), part(kind)),
            lambda: like("aAb%_é\n.", None),
            lambda: like("!%!_!!aa%b", "!"),
            lambda: Call("is_nan", (part(self.pick(*NUMBERS)),)),
            within,
            lambda: self.cast(depth, BOOL, INT64, STRING),
        ]

    def of_string(self, dtype: DType, depth: int) -> list[Callable[[], Node]]:
        def substr() -> Node:
            numbers = self.several(1, 2, lambda: self.pick(1, 2, 3))
            return Call("substr", (self.node(STRING, depth), *(Literal(n, INT64) for n in numbers)))

        return [
            lambda: self.call(depth, STRING, "lower", "upper", "trim", "ltrim", "rtrim"),
            lambda: Call("concat", tuple(self.node(STRING, depth) for _ in range(3))),
            substr,
            lambda: self.cast(depth, STRING, INT64, MONEY, HUGE, BOOL, UUID),
        ]

    def of_timestamp(self, dtype: DType, depth: int) -> list[Callable[[], Node]]:
        return [lambda: self.cast(depth, TIMESTAMP, DATE, STRING)]

    def of_date(self, dtype: DType, depth: int) -> list[Callable[[], Node]]:
        return [lambda: self.cast(depth, DATE, TIMESTAMP, STRING)]

    def of_uuid(self, dtype: DType, depth: int) -> list[Callable[[], Node]]:
        return [lambda: self.cast(depth, UUID, STRING)]

    def of_list(self, dtype: DType, depth: int) -> list[Callable[[], Node]]:
        return []


def nodes(*dtypes: DType) -> st.SearchStrategy[Node]:
    """Nodes of one of the kinds of ``dtypes``, at most three levels deep.

    Hypothesis chooses a seed and no more: its own choices favour the first of many options.
    """

    def grown(seed: int) -> Node:
        random = Random(seed)
        return Growing(random).node(random.choice(dtypes), random.choice([1, 2, 3, 3]))

    return st.integers(0, 2**64).map(grown)


rows = st.lists(st.sampled_from(ROWS), max_size=4)
