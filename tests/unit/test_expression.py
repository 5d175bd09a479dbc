"""The expression language: each rule by an example, and all against a row-at-a-time interpreter."""

from __future__ import annotations

import math
import struct
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from expression_nodes import HUGE, KINDS, MONEY, ROWS, SCHEMA, nodes, rows
from expression_rows import Interpreter
from hypothesis import given, reject, settings

from featurestore import dtypes
from featurestore.dsl.expression import parse
from featurestore.dtypes import BOOL, DATE, FLOAT64, INT64, STRING, TIMESTAMP, UUID, DType
from featurestore.errors import ExpressionError
from featurestore.kernel.expression import DEEPEST, Node, canonical, columns
from featurestore.kernel.expression_eval import Evaluated, evaluate
from featurestore.kernel.expression_functions import FUNCTIONS
from featurestore.kernel.expression_types import bind, infer

NAN, INF = math.nan, math.inf


def array(values: list[Any], dtype: DType) -> pa.Array:
    return pa.array(values, dtype.arrow)


def value(text: str, **row: Any) -> Any:
    """``text`` for one row; columns that the row leaves out are null."""
    return answer(text, **row)[0]


def answer(text: str, **row: Any) -> tuple[Any, int]:
    table = {name: array([row.get(name)], dtype) for name, dtype in SCHEMA.items()}
    made = evaluate(parse(text), table, SCHEMA, 1)
    assert made.array.type == infer(parse(text), SCHEMA).arrow
    return plain(made.array)[0], made.flagged


def plain(values: pa.Array) -> list[Any]:
    if pa.types.is_timestamp(values.type):
        values = values.view(pa.int64())
    if pa.types.is_date(values.type):
        values = values.view(pa.int32())
    return list(values.to_pylist())


def bits(found: Any) -> Any:
    return struct.pack("<d", found) if isinstance(found, float) else (type(found).__name__, str(found))


@pytest.mark.parametrize(
    ("text", "row", "expected"),
    [
        # integers
        ("i + j", {"i": 2, "j": 3}, 5),
        ("i * j", {"i": -4, "j": 5}, -20),
        ("i % j", {"i": -7, "j": 3}, -1),
        ("i % j", {"i": 7, "j": -3}, 1),
        ("i % j", {"i": 7, "j": 0}, None),
        ("i % j", {"i": -(2**63), "j": -1}, 0),
        ("i - j * 2", {"i": 1, "j": 2}, -3),
        ("i - 1 - 1", {"i": 1}, -1),
        ("i + null", {"i": 1}, None),
        ("-9223372036854775808", {}, -(2**63)),
        # division
        ("i / 2", {"i": 3}, 1.5),
        ("i / 0", {"i": 3}, INF),
        ("i / 0", {"i": -3}, -INF),
        ("i / 0", {"i": 0}, NAN),
        ("1 / x", {"x": -0.0}, INF),
        ("money / 4", {"money": Decimal("0.10")}, 0.025),
        ("i / 1", {"i": 2**53 + 1}, 2.0**53),
        # floats
        ("x + y", {"x": 0.1, "y": 0.2}, 0.1 + 0.2),
        ("x * 0", {"x": -1.0}, 0.0),
        ("x - y", {"x": INF, "y": INF}, NAN),
        ("x % 0.0", {"x": 1.0}, NAN),
        ("x % 3", {"x": -7.5}, -1.5),
        ("x % y", {"x": 5.0, "y": INF}, 5.0),
        ("x * x", {"x": 1e300}, INF),
        ("-x", {"x": 0.0}, 0.0),
        ("i + 0.5", {"i": 1}, 1.5),
        # decimals
        ("money + huge", {"money": Decimal("1.25"), "huge": Decimal("0.0001")}, Decimal("1.2501")),
        ("money * money", {"money": Decimal("1.50")}, Decimal("2.2500")),
        ("money * 1.5", {"money": Decimal("1.25")}, Decimal("1.875")),
        ("money * i", {"money": Decimal("1.25"), "i": 2}, Decimal("2.50")),
        ("money * x", {"money": Decimal("1.25"), "x": 2.0}, 2.5),
        ("money % 0.7", {"money": Decimal("-2.50")}, Decimal("-0.40")),
        ("money % 0", {"money": Decimal("-2.50")}, None),
        ("money > 0.1", {"money": Decimal("0.10")}, False),
        ("money = 0.10", {"money": Decimal("0.10")}, True),
        ("huge = money", {"money": Decimal("0.10"), "huge": Decimal("0.1000")}, True),
        # comparison
        ("x = y", {"x": NAN, "y": NAN}, True),
        ("x > y", {"x": NAN, "y": INF}, True),
        ("x <= y", {"x": NAN, "y": INF}, False),
        ("x in (1, y)", {"x": NAN, "y": NAN}, True),
        ("x between 1 and y", {"x": 5.0, "y": NAN}, True),
        ("x = 0", {"x": -0.0}, True),
        ("s < t", {"s": "\uffff", "t": "\U00010000"}, True),
        ("s < 'a'", {"s": "Z"}, True),
        ("i = null", {"i": 1}, None),
        ("i in (1, null)", {"i": 1}, True),
        ("i in (2, null)", {"i": 1}, None),
        ("i not in (2, null)", {"i": 1}, None),
        ("i in (1, 2, 3, 4, null)", {"i": 5}, None),
        ("i in (1, 2, 3, 4, 5)", {"i": 5}, True),
        ("i between 1 and 2.5", {"i": 2}, True),
        ("i not between 1 and null", {"i": 0}, True),
        ("at >= '2026-01-31T12:00:00+01:00'", {"at": 1_769_857_200_000_000}, True),
        ("at < timestamp '2026-01-31 11:00:00'", {"at": 1_769_857_200_000_000}, False),
        ("day = '1970-01-02'", {"day": 1}, True),
        ("u = '123E4567-E89B-12D3-A456-426614174000'", {"u": "123e4567-e89b-12d3-a456-426614174000"}, True),
        # logic
        ("b and c", {"b": False}, False),
        ("b and c", {"b": True}, None),
        ("b or c", {"b": True}, True),
        ("b or c", {"b": False}, None),
        ("not b", {}, None),
        ("not b", {"b": True}, False),
        ("s is null", {}, True),
        ("s is not null", {}, False),
        ("tags is null", {"tags": []}, False),
        ("case when b then 1 when c then 2 end", {"c": True}, 2),
        ("case when b then 1 end", {"b": False}, None),
        ("case i when 1 then 'one' else 'more' end", {"i": 1}, "one"),
        ("case when b then i else 0.5 end", {"i": 1, "b": True}, 1.0),
        ("coalesce(money, i)", {"i": 2}, Decimal("2.00")),
        ("coalesce(tags, tags)", {"tags": ["a", None]}, ["a", None]),
        # like
        ("s like 'a%'", {"s": "a\nb"}, True),
        ("s like 'a%b'", {"s": "a\nb"}, True),
        ("s like 'a_b'", {"s": "a\nb"}, True),
        ("s like 'a%b'", {"s": "a\nbc"}, False),
        ("s like '_'", {"s": "\U0001f600"}, True),
        ("s like 'A%'", {"s": "ab"}, False),
        ("s like '50!%' escape '!'", {"s": "50%"}, True),
        ("s like '50!%' escape '!'", {"s": "500"}, False),
        ("s not like '%.%'", {"s": "a.b"}, False),
        ("s like 'a.c'", {"s": "abc"}, False),
        ("s like ''", {"s": ""}, True),
        (r"s like 'a\%'", {"s": "a\\b"}, True),
        # casts
        ("cast(x as int64)", {"x": 2.5}, 2),
        ("cast(x as int64)", {"x": 3.5}, 4),
        ("cast(x as int64)", {"x": -(2.0**63)}, -(2**63)),
        ("cast(x as decimal(10, 2))", {"x": 2.675}, Decimal("2.67")),
        ("cast(x as decimal(10, 2))", {"x": 0.125}, Decimal("0.12")),
        ("cast(x as decimal(38, 20))", {"x": 0.1}, Decimal("0.10000000000000000555")),
        ("cast(money as int)", {"money": Decimal("2.50")}, 2),
        ("cast(money as decimal(5, 1))", {"money": Decimal("0.35")}, Decimal("0.4")),
        ("cast(huge as float64)", {"huge": Decimal("9007199254740993.0001")}, 9007199254740994.0),
        ("cast(s as int)", {"s": " +12\n"}, 12),
        ("cast(s as float64)", {"s": " 1e5"}, 1e5),
        ("cast(s as float64)", {"s": "nan"}, NAN),
        ("cast(s as float64)", {"s": "-Infinity"}, -INF),
        ("cast(s as float64)", {"s": "1e999"}, INF),
        ("cast(s as decimal(4, 2))", {"s": "1.255e1"}, Decimal("12.55")),
        ("cast(s as decimal(4, 1))", {"s": "0.25"}, Decimal("0.2")),
        ("cast(s as bool)", {"s": "TRUE"}, True),
        ("cast(s as timestamp)", {"s": "1969-12-31T23:59:59.9999999"}, -1),
        ("cast(s as timestamp)", {"s": "1970-01-01 01:00:00+01:00"}, 0),
        ("cast(s as timestamp)", {"s": "1970-01-01T00:00Z"}, 0),
        ("cast(s as timestamp)", {"s": "1970-01-01T00:00:00.000001 -0130"}, 5_400_000_001),
        ("cast(s as date)", {"s": "1969-12-31"}, -1),
        (
            "cast(s as uuid)",
            {"s": "{123E4567E89B12D3A456426614174000}"},
            "123e4567-e89b-12d3-a456-426614174000",
        ),
        ("cast(at as date)", {"at": -1}, -1),
        ("cast(day as timestamp)", {"day": -1}, -86_400_000_000),
        ("cast(money as string)", {"money": Decimal("-0.50")}, "-0.50"),
        ("cast(cast(1e-7 as decimal(38, 10)) as string)", {}, "0.0000001000"),
        ("cast(b as string) || cast(i as string)", {"b": True, "i": -3}, "true-3"),
        ("i::bool", {"i": 2}, True),
        # functions
        ("abs(x)", {"x": -0.5}, 0.5),
        ("sign(money)", {"money": Decimal("-0.50")}, -1),
        ("sign(x)", {"x": NAN}, NAN),
        ("floor(x)", {"x": -0.5}, -1.0),
        ("ceil(x)", {"x": -0.5}, 0.0),
        ("round(x)", {"x": 2.5}, 2.0),
        ("round(money)", {"money": Decimal("99999999.50")}, Decimal(100000000)),
        ("floor(money)", {"money": Decimal("-0.50")}, Decimal(-1)),
        ("sqrt(i)", {"i": 2}, math.sqrt(2)),
        ("sqrt(x)", {"x": -1.0}, NAN),
        ("greatest(x, 1, i)", {"i": 3}, 3.0),
        ("greatest(x, 1)", {"x": NAN}, NAN),
        ("least(x, 1)", {"x": NAN}, 1.0),
        ("least(s, t)", {"t": "b"}, "b"),
        ("nullif(i, 0)", {"i": 0}, None),
        ("nullif(i, 0.5)", {"i": 2}, 2),
        ("nullif(x, y)", {"x": NAN, "y": NAN}, None),
        ("is_nan(x)", {"x": NAN}, True),
        ("length(s)", {"s": "é\U0001f600"}, 2),
        ("lower(s)", {"s": "ÀAİ"}, "Àaİ"),
        ("upper(s)", {"s": "àaß"}, "àAß"),
        ("trim(s)", {"s": "\t\u00a0a \n"}, "\u00a0a"),
        ("substr(s, 2, 1)", {"s": "a\U0001f600b"}, "\U0001f600"),
        ("substr(s, 2)", {"s": "abc"}, "bc"),
        ("contains(s, '')", {"s": ""}, True),
        ("starts_with(s, 'ab')", {"s": "abc"}, True),
        ("ends_with(s, 'bc')", {"s": "abc"}, True),
        ("s || null", {"s": "a"}, None),
        ("year(at)", {"at": -1}, 1969),
        ("month(day)", {"day": -1}, 12),
        ("day(at)", {"at": -1}, 31),
        ("hour(at)", {"at": -1}, 23),
        ("day_of_week(day)", {"day": 0}, 4),
        ("year(at)", {"at": 2**63 - 1}, 294247),
        ("epoch_us(at)", {"at": -5}, -5),
        ("at - until", {"at": 5, "until": 7}, -2),
        ("day - date '1969-12-31'", {"day": 1}, 2),
        # literals and names
        ("1.5", {}, 1.5),
        ("1e2", {}, 100.0),
        (".5 + 0", {}, 0.5),
        ("'it''s' /* a */ -- b", {}, "it's"),
        ('"i" + "j"', {"i": 1, "j": 2}, 3),
    ],
)
def test_an_expression_has_the_value_of_its_rule(text: str, row: dict[str, Any], expected: Any) -> None:
    assert bits(value(text, **row)) == bits(expected)


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("i + 1", {"i": 2**63 - 1}),
        ("i - 1", {"i": -(2**63)}),
        ("i * -1", {"i": -(2**63)}),
        ("i * j", {"i": 2**32, "j": 2**31}),
        ("-i", {"i": -(2**63)}),
        ("abs(i)", {"i": -(2**63)}),
        ("huge * 10", {"huge": Decimal(10) ** 33}),
        ("huge + huge", {"huge": Decimal("9999999999999999999999999999999999.9999")}),
        ("cast(x as int64)", {"x": NAN}),
        ("cast(x as int64)", {"x": 2.0**63}),
        ("cast(x as decimal(3, 1))", {"x": 99.95}),
        ("cast(money as decimal(3, 1))", {"money": Decimal("99.96")}),
        ("cast(i as decimal(3, 1))", {"i": 100}),
        ("cast(s as int64)", {"s": "1.0"}),
        ("cast(s as int64)", {"s": "9223372036854775808"}),
        ("cast(s as int64)", {"s": "12 3"}),
        ("cast(s as float64)", {"s": ""}),
        ("cast(s as float64)", {"s": "0x10"}),
        ("cast(s as bool)", {"s": "1"}),
        ("cast(s as timestamp)", {"s": "2026-02-30"}),
        ("cast(s as date)", {"s": "2026-01-31T00:00:00"}),
        ("cast(s as uuid)", {"s": "123e4567"}),
        ("cast(huge as int)", {"huge": Decimal(2**63)}),
    ],
)
def test_an_overflow_or_a_failed_cast_is_null_and_flagged(text: str, row: dict[str, Any]) -> None:
    assert answer(text, **row) == (None, 1)


@pytest.mark.parametrize(
    ("text", "row", "flagged"),
    [
        ("b and cast(s as int) > 0", {"b": False, "s": "x"}, 0),
        ("b and cast(s as int) > 0", {"b": True, "s": "x"}, 1),
        ("b and cast(s as int) > 0", {"s": "x"}, 1),
        ("cast(s as int) > 0 and b", {"b": False, "s": "x"}, 1),
        ("b or cast(s as int) > 0", {"b": True, "s": "x"}, 0),
        ("case when b then 0 else cast(s as int) end", {"b": True, "s": "x"}, 0),
        ("case when b then 0 else cast(s as int) end", {"s": "x"}, 1),
        ("case when cast(s as bool) then 0 else 1 end", {"s": "x"}, 1),
        ("coalesce(i, cast(s as int))", {"i": 1, "s": "x"}, 0),
        ("coalesce(cast(s as int), 0)", {"s": "x"}, 1),
        ("cast(s as int) + cast(t as int)", {"s": "x", "t": "y"}, 1),
        ("i % 0", {"i": 1}, 0),
        ("cast('x' as int)", {}, 1),
        ("cast(s as int)", {}, 0),
    ],
)
def test_only_what_a_row_needs_flags_it(text: str, row: dict[str, Any], flagged: int) -> None:
    assert answer(text, **row)[1] == flagged


@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        ("i + j", INT64),
        ("i + x", FLOAT64),
        ("i / j", FLOAT64),
        ("money + i", dtypes.decimal(22, 2)),
        ("money + 1", dtypes.decimal(11, 2)),
        ("money * 1.50", dtypes.decimal(13, 4)),
        ("money * huge", dtypes.decimal(38, 6)),
        ("money % huge", dtypes.decimal(12, 4)),
        ("money + x", FLOAT64),
        ("coalesce(money, huge)", HUGE),
        ("coalesce(money, 0)", MONEY),
        ("coalesce(money, i)", dtypes.decimal(21, 2)),
        ("greatest(money, 1.5, x)", FLOAT64),
        ("case when b then money end", MONEY),
        ("nullif(i, x)", INT64),
        ("floor(money)", dtypes.decimal(9, 0)),
        ("i = x", BOOL),
        ("s || t", STRING),
        ("at - until", INT64),
        ("coalesce(at, null)", TIMESTAMP),
        ("coalesce(day, '2026-01-31')", DATE),
        ("nullif('123e4567-e89b-12d3-a456-426614174000', u)", UUID),
        ("tags", SCHEMA["tags"]),
    ],
)
def test_a_type_follows_from_the_operands(text: str, dtype: DType) -> None:
    assert infer(parse(text), SCHEMA) == dtype


@pytest.mark.parametrize(
    ("text", "fact", "hint"),
    [
        ("i + s", '("i" + "s"): + takes operands of one kind, not int64 and string', "cast"),
        ("s + t", '("s" + "t"): + takes numbers, not string', ""),
        ("-s", "takes numbers, not string", ""),
        ("at + until", "+ takes numbers, not timestamp", ""),
        ("at > day", "not timestamp and date", "cast"),
        ("u = s", "not uuid and string", "cast"),
        ("s and b", "and takes a bool, not string", ""),
        ("case when i then 1 end", "case when takes a bool, not int64", ""),
        ("case when b then 1 else 'a' end", "case takes operands of one kind, not int64 and string", ""),
        ("tags = tags", "= takes values that compare, not list<string>", ""),
        ("greatest(tags, tags)", "greatest takes values that compare", ""),
        ("i like 'a'", "like takes a string, not int64", ""),
        ("year(i)", "year takes a timestamp or a date, not int64", ""),
        ("amuont", 'no column "amuont"', "columns are"),
        ("I", 'no column "I"', "columns are"),
        ("moneyy", 'no column "moneyy"', 'did you mean "money"?'),
        ("at > 'yesterday'", "'yesterday' is not a timestamp", "2026-01-31"),
        ("null", "null without a type", "cast(null as int64)"),
        ("coalesce(null, null)", "every value is null", "cast(null as int64)"),
        ("cast(x as string)", "no cast from float64 to string", "decimal, int64"),
        ("cast(tags as string)", "no cast from list<string> to string", ""),
        ("substr(s, 0)", "0 is below 1", ""),
        ("substr(s, i)", '"i" is not a int64 literal', ""),
        ("contains(s, t)", '"t" is not a string literal', ""),
        (
            "huge * huge * huge * huge * huge * huge * huge * huge * huge * huge",
            "40 digits behind the point",
            "cast",
        ),
    ],
)
def test_an_expression_without_a_type_is_refused(text: str, fact: str, hint: str) -> None:
    with pytest.raises(ExpressionError) as raised:
        infer(parse(text), SCHEMA)
    assert fact in raised.value.fact
    assert hint in (raised.value.hint or "")


@settings(max_examples=max(500, settings().max_examples))
@given(nodes(*KINDS, INT64, MONEY, BOOL, BOOL, BOOL, SCHEMA["tags"]))
def test_the_evaluator_gives_the_interpreters_bits(node: Node) -> None:
    try:
        bound, dtype = bind(node, SCHEMA), infer(node, SCHEMA)
    except ExpressionError:
        reject()
    assert bind(bound, SCHEMA) == bound
    assert infer(bound, SCHEMA) == dtype
    made = evaluated(node, ROWS)
    assert made.array.type == dtype.arrow
    made.array.validate(full=True)
    interpreter = Interpreter(SCHEMA)
    expected = [interpreter.read(bound, row) for row in ROWS]
    assert [bits(v) for v in plain(made.array)] == [bits(finished(v)) for v, _ in expected]
    flags = [False] * len(ROWS) if made.flags is None else made.flags.tolist()
    assert flags == [flagged for _, flagged in expected]


def evaluated(node: Node, table: list[dict[str, Any]]) -> Evaluated:
    arrays = {name: array([row[name] for row in table], SCHEMA[name]) for name in columns(node)}
    return evaluate(node, arrays, SCHEMA, len(table))


def finished(v: Any) -> Any:
    return math.nan if v != v else v + 0.0 if isinstance(v, float) else v


@given(rows, nodes(FLOAT64, BOOL, STRING))
def test_a_value_depends_on_its_row_alone(table: list[dict[str, Any]], node: Node) -> None:
    try:
        together = evaluated(node, table)
    except ExpressionError:
        reject()
    apart = [evaluated(node, [row]) for row in table]
    assert [bits(v) for v in plain(together.array)] == [bits(plain(one.array)[0]) for one in apart]
    assert together.flagged == sum(one.flagged for one in apart)


def test_a_slice_of_a_column_is_read_from_its_own_rows() -> None:
    values = {
        "i": array([9, 1, None, 3], INT64)[1:],
        "x": array([9.0, 0.5, 1.5, None], FLOAT64)[1:],
        "b": array([False, True, None, False], BOOL)[1:],
        "money": array([Decimal(9), Decimal(1), None, Decimal(3)], MONEY)[1:],
    }
    for text, expected in [
        ("i + 1", [2, None, 4]),
        ("x * 2", [1.0, 3.0, None]),
        ("case when b then i else 0 end", [1, 0, 0]),
        ("money + i", [Decimal("2.00"), None, Decimal("6.00")]),
        ("money % 2", [Decimal("1.00"), None, Decimal("1.00")]),
        ("cast(money as float64)", [1.0, None, 3.0]),
    ]:
        assert evaluate(parse(text), values, SCHEMA, 3).array.to_pylist() == expected


def test_no_row_gives_no_value() -> None:
    table = {name: array([], dtype) for name, dtype in SCHEMA.items()}
    for text in (
        "i + 1",
        "1",
        "cast('x' as int)",
        "money * money % 3",
        "case when b then s else 'a' end",
        "x = 1",
    ):
        made = evaluate(parse(text), table, SCHEMA, 0)
        assert len(made.array) == 0
        assert made.flagged == 0


def test_columns_are_those_that_an_expression_reads() -> None:
    assert columns(parse('case when a > 1 then b else c end + "d e"')) == {"a", "b", "c", "d e"}
    assert columns(parse("1 + 1")) == frozenset()


def test_the_deepest_expression_is_typed_and_evaluated_in_time() -> None:
    node = parse("i" + " + 1" * DEEPEST)
    assert infer(node, SCHEMA) == INT64
    assert evaluated(node, [{"i": 1}]).array.to_pylist() == [1 + DEEPEST]
    assert evaluated(parse("i > 0" + " and i > 0" * 500), [{"i": 1}]).array.to_pylist() == [True]


def test_the_page_has_a_row_for_each_function() -> None:
    page = (Path(__file__).parents[2] / "docs" / "expressions.md").read_text()
    for name, function in FUNCTIONS.items():
        assert f"| `{function.usage}` | {function.rule} |" in page, name


@given(nodes(INT64, BOOL), nodes(INT64, BOOL))
def test_different_nodes_have_different_texts(a: Node, b: Node) -> None:
    assert (canonical(a) == canonical(b)) == (repr(a) == repr(b))
