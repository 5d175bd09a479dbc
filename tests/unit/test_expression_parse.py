"""SQL text to nodes: what the language takes, and how it refuses everything else."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal

import pytest
from expression_nodes import nodes
from hypothesis import given

from featurestore import dtypes
from featurestore.dsl.expression import LONGEST, parse
from featurestore.dtypes import BOOL, FLOAT64, INT64, STRING
from featurestore.errors import ExpressionError
from featurestore.kernel.expression import (
    DEEPEST,
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
    canonical,
    walk,
)

A, B, C = Column("a"), Column("b"), Column("c")
ONE, TWO = Literal(1, INT64), Literal(2, INT64)


@pytest.mark.parametrize(
    ("text", "node"),
    [
        ("a", A),
        (" Amount ", Column("Amount")),
        ("order", Column("order")),
        ('"weird ""name"" with spaces"', Column('weird "name" with spaces')),
        ('"weird ""name"" with spaces" + 1', Arithmetic("+", Column('weird "name" with spaces'), ONE)),
        ('"select" = 1', Compare("=", Column("select"), ONE)),
        ("Größe * 2", Arithmetic("*", Column("Größe"), TWO)),
        ("null", Literal(None, NULL)),
        ("TRUE", Literal(True, BOOL)),
        ("-9223372036854775808", Literal(-(2**63), INT64)),
        ("- 5", Literal(-5, INT64)),
        ("1.50", Literal(Decimal("1.50"), POINT)),
        ("-0.0", Literal(Decimal("0.0"), POINT)),
        ("5.", Literal(Decimal("5"), POINT)),
        ("1e5", Literal(1e5, FLOAT64)),
        ("1.5E-3", Literal(1.5e-3, FLOAT64)),
        ("0.12345678901234567890123456789012345678901", Literal(0.12345678901234568, FLOAT64)),
        ("'it''s'", Literal("it's", STRING)),
        (r"'a\'", Literal("a\\", STRING)),
        ("a + b * c", Arithmetic("+", A, Arithmetic("*", B, C))),
        ("a - b - c", Arithmetic("-", Arithmetic("-", A, B), C)),
        ("-a % b", Arithmetic("%", Negate(A), B)),
        ("a / b * c", Arithmetic("*", Arithmetic("/", A, B), C)),
        ("a <> b", Compare("<>", A, B)),
        ("a == b", Compare("=", A, B)),
        ("a and b and c", And((A, B, C))),
        ("a and (b and c)", And((A, And((B, C))))),
        ("a or b and c", Or((A, And((B, C))))),
        ("not a = b", Not(Compare("=", A, B))),
        ("not a and b", And((Not(A), B))),
        ("(a = b) is null", IsNull(Compare("=", A, B))),
        ("a is not null", Not(IsNull(A))),
        ("a not in (1, 2)", Not(In(A, (ONE, TWO)))),
        ("a not between 1 and 2 and b", And((Not(Between(A, ONE, TWO)), B))),
        ("a not like 'x'", Not(Like(A, "x", None))),
        ("a not like 'x!%' escape '!'", Not(Like(A, "x!%", "!"))),
        ("a || b || c", Call("concat", (A, B, C))),
        ("a || b = c", Compare("=", Call("concat", (A, B)), C)),
        ("case a when 1 then b end", Case(((Compare("=", A, ONE), B),), None)),
        ("case when a then b else null end", Case(((A, B),), Literal(None, NULL))),
        ("COALESCE(a, b)", Coalesce((A, B))),
        ("Abs(a)", Call("abs", (A,))),
        ("a::decimal(10, 2)", Cast(A, dtypes.decimal(10, 2))),
        ("cast(a as numeric(10))", Cast(A, dtypes.decimal(10, 0))),
        ("cast(a as double precision)", Cast(A, FLOAT64)),
        ("cast(a as float64)", Cast(A, FLOAT64)),
        ("date '2026-01-31'", Cast(Literal("2026-01-31", STRING), dtypes.DATE)),
        ("a -- a comment\n /* and another */ + 1", Arithmetic("+", A, ONE)),
        ("/*+ no hint */ (((a)))", A),
        ("'--' || '/*' || ';'", Call("concat", tuple(Literal(text, STRING) for text in ("--", "/*", ";")))),
    ],
)
def test_a_text_is_these_nodes(text: str, node: Node) -> None:
    assert parse(text) == node


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "empty"),
        ("-- nothing", "empty"),
        ("(select 1)", "a sub-select"),
        ("a in (select b from t)", "a sub-select"),
        ("exists(select 1)", "a sub-select"),
        ("select 1", "'select'"),
        ("select a from t", "'select'"),
        ("a; b", "several statements"),
        ("a;", "several statements"),
        ("sum(a) over ()", "a window function"),
        ("row_number() over (partition by a)", "a window function"),
        ("sum(a)", 'no function "sum"'),
        ("count(*)", 'no function "count"'),
        ("abs(*)", "a star"),
        ("abs(distinct a)", "distinct"),
        ("abs(a order by b)", "order"),
        ("abs(a) filter (where b)", "filter"),
        ("*", "a star"),
        ("t.*", "a star"),
        ("t.a", "a qualified name"),
        ("a.b.c", "a qualified name"),
        ("read_csv('/etc/passwd')", 'no function "read_csv"'),
        ("current_setting('x')", 'no function "current_setting"'),
        ("now()", 'no function "now"'),
        ("getvariable('x')", 'no function "getvariable"'),
        ("random()", 'no function "random"'),
        ("regexp_matches(a, '.*')", 'no function "regexp_matches"'),
        ("try_cast(a as int)", 'no function "try_cast"'),
        ("if(a, b, c)", 'no function "if"'),
        ('"abs"(a)', "quoted function"),
        ("schema.abs(a)", "a qualified name"),
        (":name", "a parameter"),
        ("?", "a parameter"),
        ("@a", "a parameter"),
        ("@@a", "a parameter"),
        ("$1", "not a column's name"),
        ("{a: 1}", "not part of an expression"),
        ("{{ a }}", ""),
        ("[1, 2]", "not part of an expression"),
        ("a[1]", "a subscript"),
        ("(a, b)", "a list of values"),
        ("a as b", "'as'"),
        ("a b", "'b'"),
        ("interval '1 day'", "an interval"),
        ("a at time zone 'utc'", "zone"),
        ("a collate x", "collate"),
        ("a ilike 'x'", "ilike"),
        ("a rlike 'x'", "not part of an expression"),
        ("a similar to 'x'", "not part of an expression"),
        ("a like b", "a string literal"),
        ("a like 'x' escape 'ab'", "escape takes one character"),
        ("a like 'a!b' escape '!'", "'!' escapes nothing"),
        ("a like 'a!' escape '!'", "'!' escapes nothing"),
        ("a like any ('x', 'y')", ""),
        ("a is true", "is true"),
        ("a is distinct from b", "not part of an expression"),
        ("a <=> b", "not part of an expression"),
        ("a between symmetric 1 and 2", "symmetric"),
        ("a < b < c", "a comparison of a comparison"),
        ("a = b = c", "a comparison of a comparison"),
        ("a = b is null", "a comparison of a comparison"),
        ("a is null = b", "a comparison of a comparison"),
        ("a = not b", "a comparison of a comparison"),
        ("a in b", "in with field"),
        ("a in ()", "a list of values"),
        ("a div b", "div"),
        ("a // b", "'/'"),
        ("a ** b", "'b'"),
        ("a ^ b", "not part of an expression"),
        ("a & b", "not part of an expression"),
        ("a << 1", "not part of an expression"),
        ("~a", "not part of an expression"),
        ("a ?? b", "not part of an expression"),
        ("a -> 'b'", "not part of an expression"),
        ("x'ff'", ""),
        ("N'a'", "not part of an expression"),
        ("'a' 'b'", "two strings side by side"),
        ("'a", ""),
        ('"a', ""),
        ("`a` + 1", ""),
        ("a +", ""),
        ("(a", ""),
        ("a)", ""),
        ("1_000", ""),
        ("0x1f", ""),
        ("10a", ""),
        ("9223372036854775808", "beyond int64"),
        ("-9223372036854775809", "beyond int64"),
        ("9" * 5000, "beyond int64"),
        ("1e400", "beyond float64"),
        ("cast(a as smallint)", "no type smallint"),
        ("cast(a as decimal)", "no type decimal"),
        ("cast(a as decimal(39, 0))", "no type decimal(39, 0)"),
        ("cast(a as varchar(3))", "no type varchar(3)"),
        ("cast(a as int[])", "no type"),
        ("cast(a as money)", "no type money"),
        ("cast(a as int format 'x')", "format"),
        ("abs()", "does not take 0 arguments"),
        ("abs(a, b)", "does not take 2 arguments"),
        ("coalesce()", "does not take 0 arguments"),
        ("case end", ""),
        ("case a end", "'end' (character 8)"),
        ("a\x00b", "not a column's name"),
        ("pragma enable_profiling", ""),
        ("attach 'x'", ""),
        ("copy t to 'x'", ""),
    ],
)
def test_what_is_outside_the_language_is_named(text: str, found: str) -> None:
    with pytest.raises(ExpressionError) as raised:
        parse(text)
    assert found in raised.value.fact
    first = raised.value.fact.splitlines()[0]
    assert first == raised.value.fact
    assert len(first) < 400
    assert not first.endswith(".")


def test_an_unknown_function_is_answered_with_those_that_exist() -> None:
    with pytest.raises(ExpressionError) as raised:
        parse("lenght(a)")
    assert raised.value.fact == 'no function "lenght"'
    assert raised.value.hint is not None
    assert raised.value.hint.startswith("functions are abs, cast, ceil")
    assert raised.value.hint.endswith('did you mean "length"?')


@pytest.mark.parametrize(
    "text",
    [
        "(" * 5000 + "a" + ")" * 4000,
        "(" * 150 + "a" + ")" * 150,
        "not " * 2000 + "a",
        "- " * 4000 + "a",
        "a" + " + 1" * 2000,
        "a" + "::int" * 1500,
        "case when " * 900 + "a",
        "abs(" * 1500 + "a" + ")" * 1500,
        "a" + "[1" * 3000,
        "coalesce(" * 90 + "a" + ")" * 90,
        "a" * (LONGEST + 1),
    ],
    ids=lambda text: text[:12],
)
def test_what_is_too_deep_or_too_long_is_refused_and_not_a_recursion_error(text: str) -> None:
    try:
        node = parse(text)
    except ExpressionError:
        return
    assert canonical(node)


def test_long_chains_of_and_or_and_concat_are_one_level() -> None:
    assert parse(" and ".join(["a"] * 1000)) == And((A,) * 1000)
    assert parse(" || ".join(["a"] * 1000)) == Call("concat", (A,) * 1000)
    assert parse(f"a in ({', '.join(['1'] * 3000)})") == In(A, (ONE,) * 3000)
    parse("a" + " + 1" * DEEPEST)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("a+b*c", " a  +  ( b * c ) -- sum"),
        ("a != 1 AND NOT b", "(a <> 1) and (not (b))"),
        ("Case When a Then b End", "case when (a) then b end"),
        ("a", '"a"'),
        ("A_1 = 'x'", "\"A_1\"='x'"),
        ("cast(a as bigint)", "a::int"),
        ("a || b", "CONCAT(a, b)"),
    ],
)
def test_a_cosmetic_edit_keeps_the_canonical_text(text: str, other: str) -> None:
    assert canonical(parse(text)) == canonical(parse(other))


@pytest.mark.parametrize(
    ("text", "other"),
    [("a", "A"), ("a - b", "b - a"), ("1", "1.0"), ("1.0", "1.00"), ("5", "5."), ("1", "'1'"),
     ("1.5", "1.5e0"), ("a and b", "a or b"), ("'a''b'", "'a'"),
     ('"a + b"', "a + b"), ("a - (b - c)", "a - b - c")],
)  # fmt: skip
def test_another_meaning_has_another_canonical_text(text: str, other: str) -> None:
    assert canonical(parse(text)) != canonical(parse(other))


@given(nodes(INT64, BOOL, STRING))
def test_the_canonical_text_is_read_back_as_the_same_nodes(node: Node) -> None:
    spelled = {"float64", "timestamp", "date", "uuid"}  # typed literals are written as casts of their text
    if any(isinstance(part, Literal) and part.dtype.kind in spelled for part in walk(node)):
        return
    if any(isinstance(part, Negate) and isinstance(part.operand, Literal) for part in walk(node)):
        return  # the sign of a literal belongs to it
    assert parse(canonical(node)) == node


def test_a_bare_name_and_the_nodes_bring_no_parser_and_no_arrays_along() -> None:
    code = (
        "import sys; from featurestore.dsl.expression import parse; parse('amount'); parse('\"a b\"');"
        "print(sorted({'sqlglot', 'numpy', 'pyarrow'} & set(sys.modules)))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )


def test_binding_brings_no_arrays_along() -> None:
    code = (
        "import sys; from featurestore.dsl.expression import parse; from featurestore.dtypes import INT64;"
        "from featurestore.kernel.expression_types import infer; infer(parse('a + 1'), {'a': INT64});"
        "print(sorted({'numpy', 'pyarrow'} & set(sys.modules)))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )
