"""How the types of an operator's operands meet: what they are brought to, and the refusal if nothing.

Literals take the type of what they meet here. The rules are in docs/expressions.md, "How types meet"; nothing
in it depends on a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import TypeAlias

from featurestore.dtypes import BOOL, FLOAT64, INT64, STRING, DType
from featurestore.errors import ExpressionError
from featurestore.kernel import expression_text
from featurestore.kernel.expression import NULL, POINT, Cast, Literal, Node, canonical

Typed: TypeAlias = tuple[Node, DType]

INT64_AS_DECIMAL = DType("decimal", precision=19, scale=0)
WIDEST = 38
"""Digits of the widest decimal."""

CAST_NULL = "cast a null to say what it is: cast(null as int64)"


def met(
    node: Node, what: str, parts: Sequence[Typed], *, unify: bool = False, null: DType | None = BOOL
) -> tuple[list[Typed], DType]:
    """The operands of ``what``, brought to one kind, and their type (of decimals one that holds all).

    ``unify``: decimals are brought to one precision and scale too, as one of them becomes the result.
    ``null``: the type where every operand is a literal null.
    """
    fixed = [dtype for x, dtype in parts if dtype not in (NULL, POINT) and not _is_text(x)]
    exact = any(d.kind == "decimal" for d in fixed) and not any(d.kind == "float64" for d in fixed)
    parts = [_settled(x, d, exact=exact) for x, d in parts]
    if len({d.kind for d in fixed}) == 1 and fixed[0].kind in ("timestamp", "date", "uuid"):
        parts = [(_as_instant(node, x, fixed[0]), fixed[0]) if _is_text(x) else (x, d) for x, d in parts]

    types = [dtype for _, dtype in parts if dtype != NULL]
    if not types:
        if null is None:
            raise ExpressionError(f"{shown(node)}: every value is null, so it has no type", hint=CAST_NULL)
        types = [null]
    target = types[0]
    for other in types[1:]:
        if target.is_numeric and other.is_numeric:
            target = _wider(target, other)
        elif target != other:
            raise refusal(node, what, "takes operands of one kind", target, other)
    return [_converted(x, dtype, target, unify=unify) for x, dtype in parts], target


def _settled(x: Node, dtype: DType, *, exact: bool) -> Typed:
    """A literal number: beside decimals (``exact``) one of its digits; else one with a point is a float64."""
    if exact and isinstance(x, Literal) and isinstance(x.value, int | Decimal):
        return decimal_literal(Decimal(x.value))
    return as_float(x, dtype) if dtype == POINT else (x, dtype)


def _wider(a: DType, b: DType) -> DType:
    if a.kind == "float64" or b.kind == "float64":
        return FLOAT64
    if a.kind == b.kind == "int64":
        return INT64
    a, b = (INT64_AS_DECIMAL if d.kind == "int64" else d for d in (a, b))
    scale = max(a.scale, b.scale)
    whole = max(a.precision - a.scale, b.precision - b.scale)
    return DType("decimal", precision=min(whole + scale, WIDEST), scale=scale)


def _converted(x: Node, dtype: DType, target: DType, *, unify: bool) -> Typed:
    if dtype == NULL:
        return Literal(None, target), target
    if target.kind == "float64":
        return as_float(x, dtype)
    if target.kind != "decimal" or dtype == target:
        return x, dtype
    if unify:
        return Cast(x, target), target
    return (Cast(x, INT64_AS_DECIMAL), INT64_AS_DECIMAL) if dtype.kind == "int64" else (x, dtype)


def decimal_result(op: str, a: DType, b: DType) -> DType:
    """The decimal that holds each result of ``a op b``; beyond 38 digits cut before the point."""
    scale = max(a.scale, b.scale)
    match op:
        case "*":
            precision, scale = a.precision + b.precision, a.scale + b.scale
        case "%":
            precision = min(a.precision - a.scale, b.precision - b.scale) + scale
        case _:
            precision = max(a.precision - a.scale, b.precision - b.scale) + scale + 1
    return DType("decimal", precision=min(max(precision, 1), WIDEST), scale=scale)


def decimal_literal(value: Decimal) -> tuple[Literal, DType]:
    """``value`` as a literal of the digits that it is written with."""
    digits, exponent = value.as_tuple()[1:]
    assert isinstance(exponent, int)
    scale = max(0, -exponent)
    dtype = DType("decimal", precision=max(len(digits) + max(exponent, 0), scale, 1), scale=scale)
    return Literal(value, dtype), dtype


def _is_text(x: Node) -> bool:
    return isinstance(x, Literal) and x.dtype == STRING and x.value is not None


def as_float(x: Node, dtype: DType) -> Typed:
    """``x``, a number, as a float64."""
    if dtype.kind == "float64":
        return x, dtype
    if isinstance(x, Literal):
        return Literal(None if x.value is None else float(x.value), FLOAT64), FLOAT64
    return Cast(x, FLOAT64), FLOAT64


def _as_instant(node: Node, x: Node, dtype: DType) -> Node:
    assert isinstance(x, Literal) and isinstance(x.value, str)
    value = expression_text.read(x.value, dtype)
    if value is None:
        raise ExpressionError(
            f"{shown(node)}: '{x.value}' is not a {dtype}",
            hint=f"a {dtype} is written {expression_text.SHAPES[dtype.kind]}",
        )
    return Literal(value, dtype)


def refusal(node: Node, what: str, takes: str, *types: DType) -> ExpressionError:
    """The error of an operator that does not take operands of these types."""
    names = " and ".join(map(str, types))
    hint = "a cast makes the kinds equal: cast(x as type)" if len(types) == 2 else None
    return ExpressionError(f"{shown(node)}: {what} {takes}, not {names}", hint=hint)


def shown(node: Node) -> str:
    """The text of ``node`` for an error, not longer than a line."""
    text = canonical(node)
    return text if len(text) <= 100 else f"{text[:97]}..."
