"""What type an expression has, and its bound form: every literal typed, every implicit conversion a ``Cast``.

Types alone are decided here, before any row is read; nothing in it depends on a time. The rules are in
docs/expressions.md. In a bound node the operands of one operator are of one kind (decimals may
still differ in precision and scale, except where one of them becomes the result), and no literal is of dtype
``NULL``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TypeAlias

from featurestore.dtypes import BOOL, FLOAT64, INT64, STRING, DType
from featurestore.errors import ExpressionError, suggestion
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
from featurestore.kernel.expression_meeting import (
    CAST_NULL,
    WIDEST,
    Typed,
    as_float,
    decimal_literal,
    decimal_result,
    met,
    refusal,
    shown,
)

Schema: TypeAlias = Mapping[str, DType]

CASTS: dict[str, frozenset[str]] = {
    "int64": frozenset({"float64", "decimal", "bool", "string"}),
    "float64": frozenset({"int64", "decimal"}),
    "decimal": frozenset({"int64", "float64", "decimal", "string"}),
    "bool": frozenset({"int64", "string"}),
    "string": frozenset({"int64", "float64", "decimal", "bool", "timestamp", "date", "uuid"}),
    "timestamp": frozenset({"date"}),
    "date": frozenset({"timestamp"}),
    "uuid": frozenset({"string"}),
}
"""From each kind, the kinds that it can be cast to (besides itself)."""


def infer(node: Node, schema: Schema) -> DType:
    """The type of ``node``'s values over columns of ``schema``; ExpressionError where it has none."""
    return _settled(node, schema)[1]


def bind(node: Node, schema: Schema) -> Node:
    """``node`` with literals typed and implicit conversions written out; binding twice changes nothing."""
    return _settled(node, schema)[0]


def _settled(node: Node, schema: Schema) -> Typed:
    bound, dtype = _typed(node, schema)
    if dtype == NULL:
        raise ExpressionError(f"{shown(node)} is null without a type", hint=CAST_NULL)
    return as_float(bound, dtype) if dtype == POINT else (bound, dtype)


def _typed(node: Node, schema: Schema) -> Typed:
    """``node`` bound; a literal null, or number with a point, at its top still waits for what it meets."""
    match node:
        case Column(name):
            if name not in schema:
                raise ExpressionError(f'no column "{name}"', hint=suggestion(name, schema, what="columns"))
            return node, schema[name]
        case Literal(_, dtype):
            return node, dtype
        case Negate(x):
            operand, dtype = _number(node, "-", x, schema)
            return Negate(operand), dtype
        case Arithmetic():
            return _typed_arithmetic(node, schema)
        case Compare(op, left, right):
            a, b = _ordered(node, op, (left, right), schema)
            return Compare(op, a, b), BOOL
        case And(operands):
            return And(tuple(_condition(node, "and", x, schema) for x in operands)), BOOL
        case Or(operands):
            return Or(tuple(_condition(node, "or", x, schema) for x in operands)), BOOL
        case Not(x):
            return Not(_condition(node, "not", x, schema)), BOOL
        case IsNull(x):
            ((operand, _),), _ = met(node, "is null", [_typed(x, schema)])
            return IsNull(operand), BOOL
        case In(x, items):
            operand, *bound = _ordered(node, "in", (x, *items), schema)
            return In(operand, tuple(bound)), BOOL
        case Between(x, low, high):
            return Between(*_ordered(node, "between", (x, low, high), schema)), BOOL
        case Like(x, pattern, escape):
            return Like(_of_kind(node, "like", x, schema, "string")[0], pattern, escape), BOOL
        case Case():
            return _typed_case(node, schema)
        case Coalesce(operands):
            parts, dtype = _unified(node, "coalesce", operands, schema)
            return Coalesce(parts), dtype
        case Cast(x, dtype):
            return _typed_cast(node, x, dtype, schema)
        case Call():
            return _typed_call(node, schema)
    raise AssertionError(node)


def _typed_arithmetic(node: Arithmetic, schema: Schema) -> Typed:
    op = node.op
    if op == "/":
        a, b = (_float(node, op, x, schema) for x in (node.left, node.right))
        return Arithmetic(op, a, b), FLOAT64
    parts = [_typed(x, schema) for x in (node.left, node.right)]
    ((a, a_type), (b, b_type)), dtype = met(node, op, parts, null=INT64)
    bound = Arithmetic(op, a, b)
    if dtype.kind in ("int64", "float64"):
        return bound, dtype
    if dtype.kind == "decimal":
        result = decimal_result(op, a_type, b_type)
        if result.scale > WIDEST:
            fact = f"{a_type} * {b_type} has {result.scale} digits behind the point, more than {WIDEST}"
            raise ExpressionError(f"{shown(node)}: {fact}", hint="cast to fewer digits, or to float64")
        return bound, result
    if op == "-" and dtype.kind in ("timestamp", "date"):
        return bound, INT64
    raise refusal(node, op, "takes numbers", dtype)


def _typed_case(node: Case, schema: Schema) -> Typed:
    conditions = [_condition(node, "case when", when, schema) for when, _ in node.branches]
    values = [then for _, then in node.branches]
    if node.otherwise is not None:
        values.append(node.otherwise)
    bound, dtype = _unified(node, "case", values, schema)
    otherwise = None if node.otherwise is None else bound[-1]
    return Case(tuple(zip(conditions, bound, strict=False)), otherwise), dtype


def _typed_cast(node: Node, x: Node, dtype: DType, schema: Schema) -> Typed:
    operand, source = _typed(x, schema)
    if source == NULL:
        return Literal(None, dtype), dtype
    if isinstance(operand, Literal) and isinstance(operand.value, Decimal):
        operand, source = decimal_literal(operand.value)
    if source != dtype and source.kind != "decimal" and source.kind == dtype.kind:
        raise _no_cast(node, source, dtype)  # lists of other items
    if source.kind != dtype.kind and dtype.kind not in CASTS.get(source.kind, ()):
        raise _no_cast(node, source, dtype)
    return (operand if source == dtype else Cast(operand, dtype)), dtype


def _no_cast(node: Node, source: DType, dtype: DType) -> ExpressionError:
    targets = ", ".join(sorted(CASTS.get(source.kind, ()))) or "nothing else"
    hint = f"{source.kind} can be cast to {targets}"
    return ExpressionError(f"{shown(node)}: no cast from {source} to {dtype}", hint=hint)


def _typed_call(node: Call, schema: Schema) -> Typed:
    name, args = node.function, node.args
    match name:
        case "abs" | "floor" | "ceil" | "round" | "sign":
            x, dtype = _number(node, name, args[0], schema)
            if name == "sign" and dtype.kind == "decimal":
                dtype = INT64
            elif name in ("floor", "ceil", "round") and dtype.kind == "decimal" and dtype.scale > 0:
                # One digit more: 9.9 rounds to 10.
                dtype = DType("decimal", precision=dtype.precision - dtype.scale + 1, scale=0)
            return Call(name, (x,)), dtype
        case "sqrt":
            return Call(name, (_float(node, name, args[0], schema),)), FLOAT64
        case "is_nan":
            return Call(name, (_float(node, name, args[0], schema),)), BOOL
        case "greatest" | "least":
            bound_args, dtype = _unified(node, name, args, schema)
            _check_ordered(node, name, dtype)
            return Call(name, bound_args), dtype
        case "nullif":
            return _typed_nullif(node, schema)
        case "length":
            return Call(name, _of_kind(node, name, args[0], schema, "string")), INT64
        case "lower" | "upper" | "trim" | "ltrim" | "rtrim":
            return Call(name, _of_kind(node, name, args[0], schema, "string")), STRING
        case "concat":
            return Call(name, tuple(_of_kind(node, "||", x, schema, "string")[0] for x in args)), STRING
        case "contains" | "starts_with" | "ends_with":
            _check_literal(node, args[1], "string")
            return Call(name, (*_of_kind(node, name, args[0], schema, "string"), args[1])), BOOL
        case "substr":
            for number, least in zip(args[1:], (1, 0), strict=False):
                _check_literal(node, number, "int64", least)
            return Call(name, (*_of_kind(node, name, args[0], schema, "string"), *args[1:])), STRING
        case "year" | "month" | "day" | "day_of_week":
            return Call(name, _of_kind(node, name, args[0], schema, "timestamp", "date")), INT64
        case "hour" | "minute" | "second" | "epoch_us":
            return Call(name, _of_kind(node, name, args[0], schema, "timestamp")), INT64
    raise AssertionError(name)


def _typed_nullif(node: Call, schema: Schema) -> Typed:
    """``nullif(a, b)`` is ``case when a = b then null else a end``; a number keeps a's own type."""
    own, other = (_typed(x, schema) for x in node.args)
    ((a, a_type), (b, _)), dtype = met(node, "nullif", (own, other))
    _check_ordered(node, "nullif", dtype)
    value, dtype = own if own[1].is_numeric else (a, a_type)
    return Case(((Compare("=", a, b), Literal(None, dtype)),), value), dtype


def _ordered(node: Node, what: str, operands: Sequence[Node], schema: Schema) -> list[Node]:
    """Operands that are compared with each other."""
    parts, dtype = met(node, what, [_typed(x, schema) for x in operands])
    _check_ordered(node, what, dtype)
    return [x for x, _ in parts]


def _unified(
    node: Node, what: str, operands: Sequence[Node], schema: Schema
) -> tuple[tuple[Node, ...], DType]:
    """Operands one of which becomes the result."""
    parts, dtype = met(node, what, [_typed(x, schema) for x in operands], unify=True, null=None)
    return tuple(x for x, _ in parts), dtype


def _float(node: Node, what: str, x: Node, schema: Schema) -> Node:
    return as_float(*_number(node, what, x, schema))[0]


def _number(node: Node, what: str, x: Node, schema: Schema) -> Typed:
    operand, dtype = _typed(x, schema)
    if dtype == NULL:
        return Literal(None, INT64), INT64
    if not dtype.is_numeric:
        raise refusal(node, what, "takes numbers", dtype)
    return as_float(operand, dtype) if dtype == POINT else (operand, dtype)


def _condition(node: Node, what: str, x: Node, schema: Schema) -> Node:
    return _of_kind(node, what, x, schema, "bool")[0]


def _of_kind(node: Node, what: str, x: Node, schema: Schema, *kinds: str) -> tuple[Node]:
    operand, dtype = _typed(x, schema)
    if dtype == NULL:
        return (Literal(None, DType(kinds[0])),)
    if dtype.kind not in kinds:
        raise refusal(node, what, f"takes a {' or a '.join(kinds)}", dtype)
    return (operand,)


def _check_ordered(node: Node, what: str, dtype: DType) -> None:
    if dtype.kind in ("list", "map"):
        raise refusal(node, what, "takes values that compare", dtype)


def _check_literal(node: Node, x: Node, kind: str, least: int | None = None) -> None:
    if isinstance(x, Literal) and x.dtype.kind == kind and x.value is not None:
        if least is None or (isinstance(x.value, int) and x.value >= least):
            return
        raise ExpressionError(f"{shown(node)}: {x.value} is below {least}")
    raise ExpressionError(
        f"{shown(node)}: {shown(x)} is not a {kind} literal", hint="write the value itself there"
    )
