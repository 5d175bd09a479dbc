"""The one evaluator of expressions: a node over Arrow columns, one value a row.

A value is a function of its row alone; no clock, no locale, no order of rows. What overflows or fails to
cast is null and its row is flagged. ``and``, ``or``, ``case`` and ``coalesce`` are lazy: what a row does not
need does not flag it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.dtypes import DType
from featurestore.kernel import expression_calls, expression_casts, expression_types
from featurestore.kernel.expression import (
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
from featurestore.kernel.expression_arrays import (
    Mask,
    Vector,
    arrow,
    flagging,
    numbers,
    packed,
    true,
    union,
    valid,
)
from featurestore.kernel.expression_like import matches
from featurestore.kernel.expression_numbers import arithmetic, compare, negate

_SET_SIZE = 4
"""Literals from which ``in`` looks up a set instead of comparing one by one."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """An expression's values and the rows in which an overflow or a failed cast gave null (None: in none)."""

    array: pa.Array
    flags: Mask | None

    @property
    def flagged(self) -> int:
        """The number of flagged rows."""
        return 0 if self.flags is None else int(self.flags.sum())


def evaluate(
    node: Node, columns: Mapping[str, pa.Array], schema: Mapping[str, DType], length: int
) -> Evaluated:
    """``node`` for each of ``length`` rows: an array of its ``infer``red type, -0.0 and NaN canonical.

    ``columns`` holds an array of ``length`` and of its ``schema`` type for each column that the node reads.
    """
    return evaluate_bound(expression_types.bind(node, schema), columns, length)


def evaluate_bound(bound: Node, columns: Mapping[str, pa.Array], length: int) -> Evaluated:
    """``evaluate`` of what ``expression_types.bind`` returned, for hosts that bind once."""
    vector = _vector(bound, columns)
    array, flags = vector.array, vector.flags
    if vector.constant:
        array = pa.repeat(array[0], length)
    if array.type == pa.float64():
        array = _canonical(array)
    if flags is not None:
        flags = np.broadcast_to(flags, (length,))  # those of a constant are of length 1
    return Evaluated(array, flags if flags is not None and flags.any() else None)


def _canonical(array: pa.Array) -> pa.Array:
    values, mask = numbers(array)
    values = values + 0.0  # -0.0 + 0.0 is 0.0
    values[np.isnan(values)] = np.nan
    return packed(values, mask, pa.float64())


def _vector(node: Node, columns: Mapping[str, pa.Array]) -> Vector:
    match node:
        case Column(name):
            return Vector(columns[name])
        case Literal(value, dtype):
            return Vector(pa.array([value], dtype.arrow), constant=True)
        case Negate(x):
            return flagging(negate, _vector(x, columns))
        case Arithmetic(op, left, right):
            return arithmetic(op, _vector(left, columns), _vector(right, columns))
        case Compare(op, left, right):
            return arrow(compare(op), _vector(left, columns), _vector(right, columns))
        case And(operands):
            return _lazy(operands, columns, decisive=False)
        case Or(operands):
            return _lazy(operands, columns, decisive=True)
        case Not(x):
            return arrow(pc.invert, _vector(x, columns))
        case IsNull(x):
            return arrow(pc.is_null, _vector(x, columns))
        case In(x, items):
            return _in(_vector(x, columns), items, columns)
        case Between(x, low, high):
            operand, a, b = (_vector(part, columns) for part in (x, low, high))
            above, below = arrow(compare(">="), operand, a), arrow(compare("<="), operand, b)
            return arrow(pc.and_kleene, above, below)
        case Like(x, pattern, escape):
            return arrow(matches(pattern, escape), _vector(x, columns))
        case Case(branches, otherwise):
            return _case(branches, otherwise, columns)
        case Coalesce(operands):
            return _coalesce([_vector(x, columns) for x in operands])
        case Cast(x, dtype):
            return flagging(lambda array: expression_casts.cast(array, dtype), _vector(x, columns))
        case Call(function, args):
            return expression_calls.call(function, args, [_vector(x, columns) for x in args])
    raise AssertionError(node)


def _lazy(operands: Sequence[Node], columns: Mapping[str, pa.Array], *, decisive: bool) -> Vector:
    """``and`` (``decisive`` false) or ``or`` (true): operands after a decisive value don't flag the row."""
    kleene = pc.or_kleene if decisive else pc.and_kleene
    result = _vector(operands[0], columns)
    for x in operands[1:]:
        operand = _vector(x, columns)
        flags = operand.flags
        if flags is not None:
            flags = flags & ~true(result.array if decisive else pc.invert(result.array))
        met = arrow(kleene, result, Vector(operand.array, operand.constant))
        result = Vector(met.array, met.constant, union(met.flags, flags))
    return result


def _in(operand: Vector, items: Sequence[Node], columns: Mapping[str, pa.Array]) -> Vector:
    literals = [x for x in items if isinstance(x, Literal)]
    kind = operand.array.type
    if len(literals) < max(len(items), _SET_SIZE) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        found = [arrow(compare("="), operand, _vector(x, columns)) for x in items]
        result = found[0]
        for vector in found[1:]:
            result = arrow(pc.or_kleene, result, vector)
        return result
    values = [x.value for x in literals if x.value is not None]
    known = pa.array(values, kind)

    def look_up(array: pa.Array) -> pa.Array:
        inside = pc.is_in(array, value_set=known, skip_nulls=True)
        unknown = pc.is_null(array)
        if len(values) < len(items):
            unknown = pc.or_(unknown, pc.invert(inside))
        return pc.if_else(unknown, pa.scalar(None, pa.bool_()), inside)

    return arrow(look_up, operand)


def _case(
    branches: Sequence[tuple[Node, Node]], otherwise: Node | None, columns: Mapping[str, pa.Array]
) -> Vector:
    whens = [_vector(when, columns) for when, _ in branches]
    thens = [_vector(then, columns) for _, then in branches]
    if otherwise is None:
        result = Vector(pa.nulls(1, thens[0].array.type), constant=True)
    else:
        result = _vector(otherwise, columns)
    flags = result.flags
    for when, then in zip(reversed(whens), reversed(thens), strict=True):
        taken = Vector(pc.fill_null(when.array, False), when.constant)
        parts = (Vector(x.array, x.constant) for x in (then, result))
        result = arrow(pc.if_else, taken, *parts)
        if flags is not None or then.flags is not None or when.flags is not None:
            flags = union(when.flags, _chosen(true(taken.array), then.flags, flags))
    return Vector(result.array, result.constant, flags)


def _chosen(taken: Mask, if_taken: Mask | None, if_not: Mask | None) -> Mask:
    none = np.zeros(1, np.bool_)
    return np.where(taken, none if if_taken is None else if_taken, none if if_not is None else if_not)


def _coalesce(operands: Sequence[Vector]) -> Vector:
    result = operands[-1]
    flags = result.flags
    for x in reversed(operands[:-1]):
        result = arrow(pc.coalesce, Vector(x.array, x.constant), Vector(result.array, result.constant))
        if flags is not None or x.flags is not None:
            present = valid(x.array)
            present = np.ones(len(x.array), np.bool_) if present is None else present
            flags = union(x.flags, _chosen(present, None, flags))
    return Vector(result.array, result.constant, flags)
