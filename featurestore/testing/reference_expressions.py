"""The oracle's expressions: bound nodes of the expression language, interpreted one row at a time.

An expression has no clock: it says the same of a row at every time. Types are the language's own
(``infer``); every value is computed here.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

from featurestore.dsl.expression import parse
from featurestore.dtypes import DType
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
)  # fmt: skip
from featurestore.kernel.expression_types import bind, infer
from featurestore.testing.reference_casts import cast, date_of_days, fitted
from featurestore.testing.reference_functions import FUNCTIONS
from featurestore.testing.reference_operations import NAN, rank, ratio, tidy


@dataclass(frozen=True)
class Expression:
    """An expression over one row: the type of its values, and its value."""

    dtype: DType
    of: Callable[[Mapping[str, Any]], Any]


def expression(text: str, schema: Mapping[str, DType]) -> Expression:
    """The expression ``text`` over rows of ``schema``."""
    node = bind(parse(text), schema)
    return Expression(infer(node, schema), lambda row: _Reading(schema, row).value(node))


@dataclass(frozen=True)
class _Reading:
    """One row, with the types of its columns."""

    schema: Mapping[str, DType]
    row: Mapping[str, Any]

    def value(self, node: Node) -> Any:
        """The node's value. There is one zero: no value on the way is -0.0 either."""
        return tidy(self._value(node))

    def _value(self, node: Node) -> Any:
        match node:
            case Column(name):
                return self.row[name]
            case Literal(value, dtype):
                return date_of_days(value) if dtype.kind == "date" and isinstance(value, int) else value
            case Negate(operand):
                x = self.value(operand)
                if x is None:
                    return None
                # Unary minus would round a decimal to its context.
                return fitted(x.copy_negate() if isinstance(x, Decimal) else -x, self._type(node))
            case Arithmetic(op, left, right):
                a, b = self.value(left), self.value(right)
                return None if a is None or b is None else _arithmetic(op, a, b, self._type(node))
            case Compare(op, left, right):
                return _compare(op, self.value(left), self.value(right))
            case And(operands):
                return _and([self.value(operand) for operand in operands])
            case Or(operands):
                return _or([self.value(operand) for operand in operands])
            case Not(operand):
                x = self.value(operand)
                return None if x is None else not x
            case IsNull(operand):
                return self.value(operand) is None
            case In(operand, items):
                x = self.value(operand)
                return _or([_compare("=", x, self.value(item)) for item in items])
            case Between(operand, low, high):
                x = self.value(operand)
                return _and([_compare(">=", x, self.value(low)), _compare("<=", x, self.value(high))])
            case Like(operand, pattern, escape):
                x = self.value(operand)
                return None if x is None else _like(pattern, escape).fullmatch(x) is not None
            case Case(branches, otherwise):
                for condition, then in branches:
                    if self.value(condition) is True:
                        return self.value(then)
                return None if otherwise is None else self.value(otherwise)
            case Coalesce(operands):
                values = (self.value(operand) for operand in operands)
                return next((value for value in values if value is not None), None)
            case Cast(operand, dtype):
                x = self.value(operand)
                return None if x is None else cast(x, self._type(operand), dtype)
            case Call(function, args):
                return FUNCTIONS[function](*(self.value(argument) for argument in args))
        raise AssertionError(node)

    def _type(self, node: Node) -> DType:
        return infer(node, self.schema)


def _arithmetic(op: str, a: Any, b: Any, dtype: DType) -> Any:
    """``a op b``; null beyond the result's type."""
    if dtype.kind == "float64":
        return _float_arithmetic(op, a, b)
    if op == "%" and b == 0:
        return None
    if isinstance(a, datetime.date):
        return (a - b).days
    x, y = Fraction(a), Fraction(b)
    match op:
        case "+":
            exact = x + y
        case "-":
            exact = x - y
        case "*":
            exact = x * y
        case "%":
            # The quotient is cut towards zero, so the remainder has the sign of the dividend.
            exact = x - math.trunc(x / y) * y
        case _:
            raise AssertionError(op)
    return fitted(exact, dtype)


def _float_arithmetic(op: str, a: float, b: float) -> float:
    match op:
        case "+":
            return a + b
        case "-":
            return a - b
        case "*":
            return a * b
        case "/":
            return ratio(a, b)
        case "%":
            return NAN if b == 0 or math.isinf(a) else math.fmod(a, b)
    raise AssertionError(op)


def _compare(op: str, a: Any, b: Any) -> bool | None:
    if a is None or b is None:
        return None
    x, y = rank(a), rank(b)
    match op:
        case "=":
            return x == y
        case "<>":
            return x != y
        case "<":
            return x < y
        case "<=":
            return x <= y
        case ">":
            return x > y
        case ">=":
            return x >= y
    raise AssertionError(op)


def _and(values: list[bool | None]) -> bool | None:
    if False in values:
        return False
    return None if None in values else True


def _or(values: list[bool | None]) -> bool | None:
    if True in values:
        return True
    return None if None in values else False


def _like(pattern: str, escape: str | None) -> re.Pattern[str]:
    parts: list[str] = []
    characters = iter(pattern)
    for character in characters:
        if character == escape:
            parts.append(re.escape(next(characters)))
        elif character in "%_":
            parts.append(".*" if character == "%" else ".")
        else:
            parts.append(re.escape(character))
    return re.compile("".join(parts), re.DOTALL)
